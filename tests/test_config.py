"""BcosConfig: validation, JSON, files."""

import dataclasses
import json
import os
import stat

import numpy
import pytest
from helpers import tiny
from transformers import BertConfig

from bcos_peft import BcosConfig, get_bcos_model
from bcos_peft._utils import files
from bcos_peft._utils.config_files import CONFIG_NAME
from bcos_peft._utils.patterns import matches_modules, matches_pattern


FULL = {
    "b": 1.5,
    "b_pattern": {"classifier": 1.0, r"layer\.0\..*": 2.0},
    "normalize_weights": True,
    "target_modules": ["dense"],
    "exclude_modules": r".*pooler.*",
    "convert_head": True,
    "align": True,
    "remove_bias": False,
    "pooler_activation": "dynamic",
    "gates": "hold",
    "calibration": "rows",
    "calibration_tokens": 100,
    "calibration_replay": 0,
    "calibration_epochs": 2,
    "calibration_pooling": "cls",
    "calibration_report": {"texts": 8},
    "family": {"model_type": "mpnet", "architectures": ["MPNetModel"], "parts": {"word": "embeddings"}},
    "base_model_name_or_path": "some/model",
    "probe_residual": 1e-7,
    "bcos_version": "0.1.0",
}


def test_defaults():
    config = BcosConfig()
    assert (config.b, config.normalize_weights, config.convert_head) == (1.25, False, False)
    assert config.align
    assert config.remove_bias
    assert config.b_pattern == {}
    config.b_pattern["x"] = 1.0
    assert BcosConfig().b_pattern == {}, "not shared between configs"


def test_every_field_is_covered_and_described():
    assert FULL.keys() == {field.name for field in dataclasses.fields(BcosConfig)}
    for field in dataclasses.fields(BcosConfig):
        assert f"\n        {field.name} (`" in BcosConfig.__doc__
        assert FULL[field.name] != field.default or field.name == "align"


@pytest.mark.parametrize(
    ("field", "value", "error", "message"),
    [
        *[("b", value, ValueError, "b must be a finite number of at least 1") for value in (0.99, 0, -1.0)],
        *[("b", value, ValueError, "finite") for value in (float("nan"), float("inf"))],
        *[("b", value, TypeError, "b must be a number") for value in ("1.5", None, True, [1.5])],
        *[("b_pattern", value, TypeError, "b_pattern must be a dict") for value in (["x"], [["x", 1, 2]], "x", 1)],
        ("b_pattern", {"classifier": 0.5}, ValueError, r"b_pattern\['classifier'\] must be"),
        ("b_pattern", {"classifier": float("nan")}, ValueError, r"b_pattern\['classifier'\] must be"),
        ("b_pattern", {"classifier": "1"}, TypeError, r"b_pattern\['classifier'\] must be"),
        ("b_pattern", {"(": 1.0}, ValueError, r"b_pattern: '\(' is not a regular expression"),
        ("b_pattern", {"(?i)x": 1.0}, ValueError, "is not a regular expression"),
        ("b_pattern", {1: 1.0}, TypeError, "strings as keys"),
        *[
            (field, value, TypeError, f"{field} must be True or False")
            for field in ("normalize_weights", "convert_head", "align", "remove_bias")
            for value in (None, 1, "yes")
        ],
        *[
            (field, value, TypeError, f"{field} must be a list of module names")
            for field in ("target_modules", "exclude_modules")
            for value in (1, ["dense", 1], {"dense": 1})
        ],
        ("target_modules", "(", ValueError, "target_modules: .* is not a regular expression"),
        ("exclude_modules", "(", ValueError, "exclude_modules: .* is not a regular expression"),
        ("gates", "up", ValueError, "gates must be"),
        ("calibration_pooling", "max", ValueError, "calibration_pooling must be .*'none' or None"),
        ("pooler_activation", "tanh", ValueError, "pooler_activation must be 'identity' or 'dynamic', got 'tanh'"),
        ("pooler_activation", None, ValueError, "pooler_activation must be"),
        *[(field, 1, TypeError, f"{field} must be a string") for field in ("base_model_name_or_path", "bcos_version")],
        *[("probe_residual", value, TypeError, "probe_residual must be a number") for value in ("0", True)],
        ("pooler_activation", ["identity"], ValueError, "pooler_activation must be"),
    ],
)
def test_refuses(field, value, error, message):
    with pytest.raises(error, match=message):
        BcosConfig(**{field: value})
    with pytest.raises(error, match=message):
        BcosConfig.from_dict({field: value})


def test_ablations_that_contradict_each_other():
    with pytest.raises(ValueError, match="align=False"):
        BcosConfig(align=False, normalize_weights=True)
    with pytest.raises(ValueError, match="align=False"):
        BcosConfig(align=False, remove_bias=False)


def test_values_are_brought_into_one_form():
    config = BcosConfig(b=2, b_pattern={"x": 1}, target_modules={"b", "a"}, exclude_modules=("c",))
    assert repr((config.b, config.b_pattern)) == "(2.0, {'x': 1.0})"
    assert config.target_modules == ["a", "b"]
    assert config.exclude_modules == ["c"]
    assert BcosConfig(b_pattern=None) == BcosConfig()


def test_b_for():
    config = BcosConfig(b=1.5, b_pattern={r"layer\.0\..*": 1.1, "dense": 2.0})
    assert config.b_for("bert.encoder.layer.0.output.dense") == 1.1, "the first match wins"
    assert config.b_for("bert.encoder.layer.1.output.dense") == 2.0
    assert config.b_for("bert.predense") == 1.5, "a pattern begins at a dot"
    assert config.b_for("dense.extra") == 1.5, "a pattern reaches to the end"
    assert BcosConfig(b=1.5, b_pattern={"dense": 2.0}, align=False).b_for("dense") == 1.0


def test_alternatives_in_a_pattern_are_anchored_too():
    assert not matches_pattern("query|key", "layer.key_norm")
    assert matches_pattern("query|key", "layer.key")
    assert not matches_pattern("query|key", "query.dense")


def test_matching_of_modules():
    assert matches_modules(["dense"], "layer.dense")
    assert matches_modules(["output.dense"], "layer.output.dense")
    assert not matches_modules(["dense"], "layer.condense")
    assert matches_modules(r".*\.dense", "layer.dense")
    assert not matches_modules("dense", "layer.dense"), "an expression is for the whole name"
    assert not matches_modules(None, "layer.dense")


@pytest.mark.parametrize("values", [{}, FULL], ids=["default", "full"])
def test_round_trips(values, tmp_path):
    config = BcosConfig(**values)
    assert BcosConfig.from_dict(config.to_dict()) == config
    assert BcosConfig.from_dict(json.loads(config.to_json_string())) == config
    config.save_pretrained(tmp_path / "new" / "directory")
    assert BcosConfig.from_pretrained(tmp_path / "new" / "directory") == config
    assert BcosConfig.from_pretrained(str(tmp_path / "new" / "directory")) == config


def test_to_dict_is_a_copy():
    config = BcosConfig(b_pattern={"x": 1.0})
    config.to_dict()["b_pattern"][0][1] = 2.0
    assert config.b_pattern == {"x": 1.0}


def test_the_order_of_patterns_survives_a_file(tmp_path):
    """The first match wins, so order is meaning."""
    config = BcosConfig(b_pattern={"z": 1.0, ".*": 2.0})
    config.save_pretrained(tmp_path)
    assert list(BcosConfig.from_pretrained(tmp_path).b_pattern) == ["z", ".*"]
    stock = BertConfig()  # whose files have sorted keys
    stock.bcos = config.to_dict()
    (tmp_path / CONFIG_NAME).unlink()
    stock.save_pretrained(tmp_path)
    assert list(BcosConfig.from_pretrained(tmp_path).b_pattern) == ["z", ".*"]
    assert BcosConfig.from_dict({"b_pattern": {"z": 1.0, ".*": 2.0}}) == config


@pytest.mark.parametrize(
    ("key", "hint"),
    [("normalise_weights", "'normalize_weights'"), ("bpattern", "'b_pattern'"), ("zzz", "Known fields")],
)
def test_unknown_keys(key, hint):
    with pytest.raises(ValueError, match=f"no field '{key}'.*{hint}"):
        BcosConfig.from_dict({key: 1})


@pytest.mark.parametrize("values", [None, [], "b", 1])
def test_not_a_dict(values):
    with pytest.raises(TypeError, match="made from a dict"):
        BcosConfig.from_dict(values)


def test_reads_a_models_config(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bcos_bert", "bcos": {"b": 2.0}}))
    assert BcosConfig.from_pretrained(tmp_path).b == 2.0


@pytest.mark.parametrize("name", [CONFIG_NAME, "config.json"])
@pytest.mark.parametrize("content", [b"", b'{"b": 1.5', b"\xff\xfe\x00", b"{'b': 1.5}"])
def test_corrupt_files(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} in .* is not valid JSON"):
        BcosConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize("content", ["null", "[]", "3"])
def test_files_that_hold_something_else(tmp_path, content):
    (tmp_path / CONFIG_NAME).write_text(content)
    with pytest.raises((TypeError, ValueError), match="made from a dict"):
        BcosConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize("content", [None, "{}", '{"model_type": "bert"}', "[]", '{"bcos": null}'])
def test_directories_that_are_not_bcos_models(tmp_path, content):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match="is not a B-cos model"):
        BcosConfig.from_pretrained(tmp_path)


def test_a_file_and_a_path_that_is_not_there(tmp_path):
    path = tmp_path / "file"
    path.write_text("{}")
    with pytest.raises(ValueError, match="must be a directory, but .* is a file"):
        BcosConfig().save_pretrained(path)
    for where in (path, tmp_path / "missing"):
        with pytest.raises(ValueError, match="is not a B-cos model"):
            BcosConfig.from_pretrained(where)


def test_saving_is_atomic(tmp_path, monkeypatch):
    BcosConfig(b=1.5).save_pretrained(tmp_path)

    def fail(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr(files.os, "replace", fail)
    with pytest.raises(OSError, match="no space left"):
        BcosConfig(b=2.0).save_pretrained(tmp_path)
    monkeypatch.undo()
    assert BcosConfig.from_pretrained(tmp_path).b == 1.5
    assert [path.name for path in tmp_path.iterdir()] == [CONFIG_NAME], "nothing is left over"


def test_others_can_read_the_saved_file(tmp_path):
    """As with any file that is written: the mode follows the umask."""
    previous = os.umask(0o022)
    try:
        BcosConfig().save_pretrained(tmp_path)
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / CONFIG_NAME).stat().st_mode) == 0o644


def test_numbers_of_numpy_are_numbers():
    config = BcosConfig(b=numpy.float32(1.5), b_pattern={"x": numpy.int64(2)})
    assert BcosConfig.from_dict(json.loads(config.to_json_string())) == config


def test_offline_what_is_in_the_cache_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    message = "'me/model' is not in the cache, and the hub cannot be reached"
    with pytest.raises(ValueError, match=message):
        BcosConfig.from_pretrained("me/model", cache_dir=tmp_path)
    repository = tmp_path / "models--me--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    # All that transformers fetches of a model's configs.
    (snapshot / "config.json").write_text(json.dumps({"bcos": BcosConfig(b=1.5).to_dict()}))
    assert BcosConfig.from_pretrained("me/model", cache_dir=tmp_path).b == 1.5
    (snapshot / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="'me/model' is not a B-cos model"):
        BcosConfig.from_pretrained("me/model", cache_dir=tmp_path)


def test_fields_that_were_changed_are_checked_before_a_conversion():
    config, model = BcosConfig(), tiny.model()
    config.b = 0.2
    with pytest.raises(ValueError, match=r"b must be .*0\.2"):
        get_bcos_model(model, config, verify=False)
    assert type(model).__name__ == "BertForSequenceClassification"
