"""`bcos-peft convert`: its options are the fields of `BcosConfig`."""

import dataclasses
import inspect
import re

import pytest
import tiny
import typer
from test_cli import refused, run

from bcos_peft import BcosConfig, get_bcos_model
from bcos_peft.cli import app, config_options
from bcos_peft.models import BcosBertForSequenceClassification


FILLED_IN = {"calibration_report", "base_model_name_or_path", "probe_residual", "bcos_version"}
FIELDS = [field for field in dataclasses.fields(BcosConfig) if field.name not in FILLED_IN]
TOLD = re.sub(r'`"?|"?`', "", " ".join(inspect.getdoc(BcosConfig).split()))
OPTIONS = {option.name: option for option in typer.main.get_command(app).commands["convert"].params}


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    path = tmp_path_factory.mktemp("stock")
    tiny.model("bert").save_pretrained(path)
    tiny.tokenizer().save_pretrained(path)
    return path


def same_weights(one, two):
    assert one.state_dict().keys() == two.state_dict().keys()
    for name, weight in one.state_dict().items():
        assert (weight == two.state_dict()[name]).all(), name


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_every_field_that_is_set_has_an_option(field):
    option = OPTIONS[field.name]
    assert f"--{field.name.replace('_', '-')}" in option.opts
    assert option.multiple == (field.name in ("b_pattern", "target_modules", "exclude_modules"))
    assert option.multiple or option.default == field.default
    sentence = re.sub(" (May be given several times|Or none).$", "", option.help)
    assert f"): {sentence} " in TOLD.partition(f" {field.name} (")[2]
    assert sentence.endswith(".")
    assert ". " not in sentence


def test_no_field_that_is_filled_in_has_one():
    assert not FILLED_IN & OPTIONS.keys()


def test_a_new_field_has_one_by_itself(monkeypatch):
    @dataclasses.dataclass
    class Larger(BcosConfig):
        warmth: int = 3

    told = 'Args:\n    warmth (`int`, defaults to 3):\n        How warm: `"hot"`\n        is 9. Of layers.\n'
    Larger.__doc__ = inspect.getdoc(BcosConfig).replace("Args:\n", told, 1)
    monkeypatch.setattr(config_options, "BcosConfig", Larger)
    monkeypatch.setattr(config_options, "_TYPES", config_options._TYPES | {"warmth": int})
    made, found = typer.Typer(), []

    @made.command()
    @config_options._with_config
    def convert(config: BcosConfig):
        found.append(config)

    command = typer.main.get_command(made)
    assert [option.help for option in command.params if option.name == "warmth"] == ["How warm: hot is 9."]
    for arguments in (["--warmth", "7"], []):
        command(arguments, standalone_mode=False)
    assert [config.warmth for config in found] == [7, 3]


@pytest.mark.parametrize(
    ("options", "config"),
    [
        ([], {}),
        (["--b", "1.5", "--b-pattern", "classifier=1", "--b-pattern", r"layer\.0\..*=2"],
         {"b": 1.5, "b_pattern": {"classifier": 1.0, r"layer\.0\..*": 2.0}}),
        (["--exclude", "pooler.dense", "--exclude-modules", "classifier"],
         {"exclude_modules": ["pooler.dense", "classifier"]}),
        (["--exclude-modules", r".*\.pooler\..*"], {"exclude_modules": r".*\.pooler\..*"}),
        (["--target-modules", "dense", "--normalize-weights"],
         {"target_modules": ["dense"], "normalize_weights": True}),
        (["--no-align", "--pooler-activation", "dynamic", "--gates", "hold", "--calibration", "none"],
         {"align": False, "pooler_activation": "dynamic", "gates": "hold", "calibration": None}),
        (["--calibration", "ridge", "--calibration-tokens", "9", "--calibration-replay", "0"],
         {"calibration": "ridge", "calibration_tokens": 9, "calibration_replay": 0}),
        (["--calibration-epochs", "2"], {"calibration_epochs": 2}),
    ],
)  # fmt: skip
def test_the_command_is_the_function(stock, tmp_path, options, config):
    result = run("convert", stock, tmp_path, *options)
    assert result.exit_code == 0, result.output
    saved, expected = BcosConfig.from_pretrained(tmp_path), BcosConfig(**config)
    assert all(getattr(saved, field.name) == getattr(expected, field.name) for field in FIELDS)
    model = get_bcos_model(tiny.model("bert"), expected)
    found = BcosBertForSequenceClassification.from_pretrained(tmp_path)
    assert str(model.bcos_summary()).split("\n")[1:3] == str(found.bcos_summary()).split("\n")[1:3]
    same_weights(found, model)


def test_the_configs_own_refusals(stock, tmp_path):
    assert "gates must be 'split' or 'hold', got 'open'" in refused("convert", stock, tmp_path, "--gates", "open")
    both = refused("convert", stock, tmp_path, "--no-align", "--normalize-weights")
    assert "align=False removes the biases and changes nothing else" in both
    assert "calibration_tokens must be" in refused("convert", stock, tmp_path, "--calibration-tokens", "0")
