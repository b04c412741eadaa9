"""Explanations as plain values and as files."""

import copy
import json
import os
import pickle

import numpy as np
import pytest
from helpers.explanations import empty, make, pair

from bcos_peft.explanation import Explanation


def full():
    return make(
        scores=[0.1, 1 / 3, -2e-17, 1e300, -0.0, 5e-324],
        logit=0.1,
        residual=-1e-9,
        foil=0,
        foil_label="négatif 负",
        position=2,
        parts={"word": [0.1] * 6, "position": [0.2] * 6},
        word_ids=[None, 0, 1, 1, 2, None],
        text="unhappy, \u2028\U0001f642ppy",
    )


@pytest.mark.parametrize("build", [make, pair, empty, full])
def test_save_and_load(build, tmp_path):
    explanation, path = build(), tmp_path / "one.json"
    explanation.save(path)
    loaded = Explanation.load(path)
    assert loaded == explanation
    assert loaded.to_dict() == explanation.to_dict()
    assert np.array_equal(loaded.scores, explanation.scores)
    assert type(loaded.text) is type(explanation.text)
    assert loaded.offsets == explanation.offsets
    assert os.listdir(tmp_path) == ["one.json"]  # nothing is left lying about


def test_equality():
    assert make() == make()
    assert make() != make(logit=0.51)
    assert make() != make(scores=[0.5, -1.0, -2.0, 0.25, 3.0, -0.5])
    assert make() != "something else"


def test_copies_and_pickles():
    assert copy.deepcopy(full()) == full()
    assert pickle.loads(pickle.dumps(full())) == full()


def test_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "one.json"
    make().save(path)

    def full_disk(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        make(logit=9.0).save(path)
    assert Explanation.load(path) == make()
    assert os.listdir(tmp_path) == ["one.json"]


def test_save_replaces_the_file_behind_a_link(tmp_path):
    target, link = tmp_path / "target.json", tmp_path / "link.json"
    target.write_text("old")
    link.symlink_to(target)
    make().save(link)
    assert link.is_symlink()
    assert Explanation.load(target) == make()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe\x00",
        b"[1, 2]",
        b"3",
        b'{"model_type": "bert"}',
        b'{"format": "bcos_peft.explanation"}',
        b'{"format": "bcos_peft.explanation", "version": 2}',
        b'{"format": "bcos_peft.explanation", "version": 1}',
        b'{"format": "bcos_peft.explanation", "version": 1, "tokens": 3}',
    ],
)
def test_load_refuses_other_files(content, tmp_path):
    path = tmp_path / "other.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot load an explanation from '.*other\.json'"):
        Explanation.load(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("scores", [1.0]),
        ("scores", None),
        ("scores", ["x"] * 6),
        ("tokens", None),
        ("text", ["a", 3]),
        ("offsets", [[0]] * 6),
        ("offsets", [3] * 6),
        ("special", None),
        ("logit", None),
        ("logit", float("nan")),
        ("surprise", 1),
    ],
)
def test_load_refuses_damaged_fields(name, value, tmp_path):
    path = tmp_path / "damaged.json"
    path.write_text(json.dumps({**make().to_dict(), name: value}))
    with pytest.raises(ValueError, match="cannot load an explanation"):
        Explanation.load(path)


def test_load_of_a_missing_file_says_so(tmp_path):
    with pytest.raises(FileNotFoundError):
        Explanation.load(tmp_path / "none.json")
