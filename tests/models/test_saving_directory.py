"""The directory of a saved model: what is in it, what stays if saving fails, and what is refused."""

import json
import os

import pytest
import torch
from helpers import tiny
from helpers.saved import assert_same, converted
from transformers import AutoModelForSequenceClassification

from bcos_peft import BcosConfig, models


# ---- The directory --------------------------------------------------------------------------------------------------


def test_shards_come_and_go(tmp_path):
    model = converted()
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    many = set(os.listdir(tmp_path))
    assert "model.safetensors.index.json" in many
    assert "model.safetensors" not in many
    model.set_b(2.0)
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    fewer = set(os.listdir(tmp_path))
    shards = {name for name in fewer if "-of-" in name}
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert shards == set(index["weight_map"].values())
    assert 1 < len(shards) < len(many) - 3
    assert_same(model, AutoModelForSequenceClassification.from_pretrained(tmp_path))
    model.save_pretrained(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["README.md", "config.json", "model.safetensors"]
    with torch.no_grad():
        model.classifier.weight.mul_(2)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert set(os.listdir(tmp_path)) == many, "the whole file, which loading would prefer, is gone"
    assert_same(model, AutoModelForSequenceClassification.from_pretrained(tmp_path))


def test_variants_stand_side_by_side_and_other_files_stay(tmp_path):
    model = converted()
    (tmp_path / "notes.txt").write_text("mine")
    model.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path, variant="v2", max_shard_size="20KB")
    model.save_pretrained(tmp_path, variant="v2")
    names = ["README.md", "config.json", "model.safetensors", "model.v2.safetensors", "notes.txt"]
    assert sorted(os.listdir(tmp_path)) == names
    assert_same(model, AutoModelForSequenceClassification.from_pretrained(tmp_path, variant="v2"))


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize("where", ["weights", "card", "second move", "config move"])
def test_a_save_that_fails_leaves_the_old_files(where, tmp_path, monkeypatch):
    model = converted()
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    before = contents(tmp_path)
    model.set_b(2.0)

    def fail(*args, **kwargs):
        raise OSError("disk full")

    if where == "weights":
        monkeypatch.setattr("transformers.modeling_utils.safe_save_file", fail)
    elif where == "card":
        monkeypatch.setattr("bcos_peft.models.hub._render_card", fail)
    else:
        moves, replace = [], os.replace

        def replace_some(source, target):
            moves.append(target)
            last = os.path.join("new", "config.json")
            stop = len(moves) == 2 if where == "second move" else str(source).endswith(last)
            return fail() if stop else replace(source, target)

        monkeypatch.setattr(os, "replace", replace_some)
    with pytest.raises(OSError, match="disk full"):
        model.save_pretrained(tmp_path)
    assert contents(tmp_path) == before
    monkeypatch.setattr("transformers.modeling_utils.safe_save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        model.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    monkeypatch.undo()
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path).bcos_config.b == 1.5


def test_a_save_that_fails_does_not_choose_for_the_next(tmp_path):
    model = converted()
    model.classifier.b = 2.0
    before = model.config.bcos
    with pytest.raises(ValueError, match="foo"):
        model.save_pretrained(tmp_path, max_shard_size="foo", remote_code=True)
    with pytest.raises(ValueError, match="foo"):
        model.push_to_hub("me/model", max_shard_size="foo")
    assert (model.config.bcos, model.config.auto_map) == (before, {})
    model.save_pretrained(tmp_path)
    assert not (tmp_path / "modeling_bcos.py").exists()
    model.save_pretrained(tmp_path, remote_code=True)
    chosen = model.config.auto_map
    with pytest.raises(ValueError, match="foo"):
        model.save_pretrained(tmp_path, max_shard_size="foo", remote_code=False)
    assert model.config.auto_map == chosen


def test_only_the_main_process_writes(tmp_path):
    converted().save_pretrained(tmp_path, is_main_process=False)
    assert not os.listdir(tmp_path)


# ---- Refusals -------------------------------------------------------------------------------------------------------


def test_pickled_weights_are_refused(tmp_path):
    with pytest.raises(ValueError, match="safe_serialization=False.*safetensors only"):
        converted().save_pretrained(tmp_path / "new", safe_serialization=False)
    assert not (tmp_path / "new").exists()
    converted().save_pretrained(tmp_path / "new", safe_serialization=True)


def test_a_file_is_no_directory(tmp_path):
    path = tmp_path / "file"
    path.write_text("mine")
    with pytest.raises(ValueError, match="save_directory must be a directory"):
        converted().save_pretrained(path)
    assert path.read_text() == "mine"


def test_a_stock_model_is_no_bcos_model(tmp_path):
    tiny.model("bert").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="Not a saved B-cos model.*convert it with bcos_peft.get_bcos_model"):
        models.BcosBertForSequenceClassification.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is not a B-cos model"):
        BcosConfig.from_pretrained(tmp_path)
    with pytest.raises(OSError, match="missing"):
        models.BcosBertForSequenceClassification.from_pretrained(tmp_path / "missing")


@pytest.mark.parametrize(
    ("entry", "match"),
    [
        (None, "Not a saved B-cos model.*its config.json is damaged"),
        ([1], "'bcos' entry in the config of .* cannot be used: .*dict"),
        ({"b": 0.5}, "cannot be used: b must be a finite number of at least 1, got 0.5"),
        ({"bb": 1.5}, "cannot be used: BcosConfig has no field 'bb'"),
        ({"target_modules": 3}, "cannot be used: target_modules must be"),
    ],
)
def test_a_damaged_config_is_named(entry, match, tmp_path):
    converted().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config.pop("bcos")
    path.write_text(json.dumps(config if entry is None else config | {"bcos": entry}))
    with pytest.raises(ValueError, match=match):
        AutoModelForSequenceClassification.from_pretrained(tmp_path)
    with pytest.raises((ValueError, TypeError)):
        BcosConfig.from_pretrained(tmp_path)
