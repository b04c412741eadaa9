"""`bcos-peft convert`: its options are the fields of `BcosConfig`, and it calibrates."""

import dataclasses
import inspect
import json
import re

import pytest
import typer
from helpers import tiny
from helpers.commands import refused, run

from bcos_peft import BcosConfig, get_bcos_model
from bcos_peft.cli import app, config_options
from bcos_peft.models import BcosBertForSequenceClassification


FILLED_IN = {"calibration_report", "family", "base_model_name_or_path", "probe_residual", "bcos_version"}
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


TEXTS = [f"{quality} film with {part}." for quality in ("A dull", "An awful", "A great") for part in "abcdefgh"]
QUICK = ("--calibration", "rows", "--calibration-replay", "0")


@pytest.fixture
def lines(tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("\n\n".join(TEXTS), encoding="utf-8")
    return file


def calibrated(data):
    config = BcosConfig(calibration="rows", calibration_replay=0)
    return get_bcos_model(tiny.model("bert"), config, calibration_data=data, tokenizer=tiny.tokenizer())


def test_calibrating_is_calibration_data(stock, lines, tmp_path):
    result = run("convert", stock, tmp_path / "bcos", "--calibrate", lines, *QUICK)
    assert result.exit_code == 0, result.output
    assert "calibration" in result.stdout
    assert "Calibrating" in result.stderr, "the progress bar"
    assert "Note" not in result.stderr
    found = BcosBertForSequenceClassification.from_pretrained(tmp_path / "bcos")
    same_weights(found, calibrated(TEXTS))
    assert found.bcos_config.calibration_report["texts"] == len(TEXTS)
    piped = run("convert", stock, tmp_path / "piped", "--calibrate", "-", *QUICK, input=lines.read_bytes())
    assert piped.exit_code == 0, piped.output
    same_weights(BcosBertForSequenceClassification.from_pretrained(tmp_path / "piped"), found)


def test_calibrating_on_columns(stock, tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(json.dumps({"first": text, "then": "Really, and so on."}) for text in TEXTS))
    result = run("convert", stock, tmp_path / "bcos", "--calibrate", file,
                 "--text-column", "first", "--text-column", "then", *QUICK)  # fmt: skip
    assert result.exit_code == 0, result.output
    found = BcosBertForSequenceClassification.from_pretrained(tmp_path / "bcos")
    same_weights(found, calibrated([(text, "Really, and so on.") for text in TEXTS]))


def test_without_calibrating_it_has_to_be_fine_tuned(stock, tmp_path):
    assert "Fine-tune it, or give --calibrate" in run("convert", stock, tmp_path).stderr


def test_refusals_of_calibrating(stock, lines, tmp_path):
    def refusal(file, *options):
        return refused("convert", stock, tmp_path / "bcos", "--calibrate", file, *options)

    assert "No such file" in refusal(tmp_path / "missing.txt")
    assert "There is no file" in refusal(tmp_path / "missing.csv")
    assert "asks for none" in refusal(lines, "--calibration", "none")
    assert "cannot go with normalize_weights=True" in refusal(lines, "--normalize-weights")
    assert "--text-column is for tables" in refusal(lines, "--text-column", "text")
    (tmp_path / "few.txt").write_text("\n".join(TEXTS[:7]))
    assert "has 7 texts; at least 8 are needed" in refusal(tmp_path / "few.txt")
    (tmp_path / "table.csv").write_text("review\nGood.\n")
    assert "has no column 'text'; say with --text-column" in refusal(tmp_path / "table.csv")
    assert "is for the file of --calibrate" in refused("convert", stock, tmp_path / "bcos", "--text-column", "text")
    tiny.model("bert").save_pretrained(tmp_path / "bare")
    bare = refused("convert", tmp_path / "bare", tmp_path / "bcos", "--calibrate", lines)
    assert "has no tokenizer. Save it" in bare
    assert not (tmp_path / "bcos").exists()


def test_the_configs_own_refusals(stock, tmp_path):
    assert "gates must be 'split' or 'hold', got 'open'" in refused("convert", stock, tmp_path, "--gates", "open")
    both = refused("convert", stock, tmp_path, "--no-align", "--normalize-weights")
    assert "align=False removes the biases and changes nothing else" in both
    assert "calibration_tokens must be" in refused("convert", stock, tmp_path, "--calibration-tokens", "0")
