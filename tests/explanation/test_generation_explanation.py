"""`GenerationExplanation` as data: reading, passages, files, and what it refuses."""

import json

import numpy as np
import pytest
from helpers.generations import make

from bcos_peft import GenerationExplanation


def test_reading():
    found = make()
    assert len(found) == 3
    assert (found.prompt, found.answer) == ("Paris big. Rome old. Old?", " Rome it is")
    assert found.scores.shape == (3, 7)
    np.testing.assert_allclose(found.residuals, [0, 0, 1e-9], atol=1e-15)
    assert [one.target_label for one in found] == [" Rome", " it is", "</s>"]


def test_one_generated_token_is_an_explanation():
    one = make()[1]
    assert (one.target_label, one.foil_label, one.predicted_label) == (" it is", ".", " it is")
    assert one.tokens == ["<s>", "Paris big.", " Rome old.", " Old?", " Rome"]
    assert one.text == "Paris big. Rome old. Old? Rome"
    assert one.top(1)[0].text == "Rome"
    assert (one.logit, one.probability, one.position) == (9.75, 0.8, 4)
    assert one.by_segment() == {"prompt": 1.75, "answer": 8.0, "rest": 0.0}
    assert make()[-2] == one
    assert make()[0].segments == {"prompt": (0, 25)}, "no answer yet"


def test_several_generated_tokens_add():
    whole = make().summed()
    assert whole.logit == pytest.approx(16.0)
    np.testing.assert_allclose(whole.scores, [1.5, 1.5, 5.0, -0.75, 8.5, 0.25])
    assert whole.probability == pytest.approx(0.1)
    assert (whole.target_ids, whole.foil_ids) == ([13, 14, 2], [10, 15, 15])
    assert whole.target_label == " Rome it is</s>"
    assert make().summed(1, 2) == make()[1]


def test_passages():
    found = make()
    sums = found.by_segment({"Paris": "Paris big.", "Rome": (11, 20), "step": " it"})
    assert list(sums) == ["Paris", "Rome", "step", "rest"]
    np.testing.assert_allclose(sums["Paris"], [1.0, 0.5, 0.0])
    np.testing.assert_allclose(sums["Rome"], [4.0, 1.0, 0.0])
    np.testing.assert_allclose(sums["step"], [0.0, 0.0, 0.25])
    np.testing.assert_allclose(sum(sums.values()) + found.residuals, found.logits)
    whole = found.by_segment(whole=True)
    assert whole == {"prompt": 5.75, "answer": 8.75, "rest": 1.5}
    assert found.summed().by_segment()["prompt"] == whole["prompt"]
    assert found.by_segment({"Rome": "Rome"}, whole=True)["Rome"] == 5.0, "in the prompt, though the answer repeats it"
    assert found.by_segment({"it": " it is"}, whole=True)["it"] == 0.25
    with pytest.raises(ValueError, match="'i' occurs 2 times in the text, at"):
        found.by_segment({"i": "i"})
    with pytest.raises(ValueError, match="segments is missing"):
        make(segments=None).by_segment()


def test_files(tmp_path):
    found, path = make(), tmp_path / "answer.json"
    found.save(path)
    assert GenerationExplanation.load(path) == found
    assert json.loads(path.read_text())["scores"][0] == [0.5, 1.0, 4.0, 2.0], "zeros of later tokens are not stored"
    for damage, message in [
        ({"format": "bcos_peft.explanation"}, "not an explained generation"),
        ({"version": 2}, "unknown version 2"),
        ({"scores": None}, "incomplete or damaged"),
        ({"surprise": 1}, "incomplete or damaged"),
    ]:
        path.write_text(json.dumps(found.to_dict() | damage))
        with pytest.raises(ValueError, match=f"answer.json.*{message}"):
            GenerationExplanation.load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": 3}, "text must be a string"),
        ({"prompt_length": 7}, "prompt_length=7 of 7"),
        ({"prompt_length": 0}, "prompt_length=0"),
        ({"token_ids": [1]}, "token_ids has 1 values for 7 tokens"),
        ({"offsets": [(0, 99)] * 7}, r"offsets\[0\]=\(0, 99\) lies outside"),
        ({"scores": [[0.0] * 4]}, "scores has 1 values for 3"),
        ({"scores": [[0.0] * 4, [0.0] * 4, [0.0] * 6]}, r"scores\[1\] has shape \(4,\)"),
        ({"scores": [[1.0] * 7] * 3}, r"scores\[0\] has contributions of tokens that come after"),
        ({"scores": [[float("nan")] * 4, [0.0] * 5, [0.0] * 6]}, r"scores\[0\]\[0\] is nan"),
        ({"logits": [1.0]}, r"logits has shape \(1,\)"),
        ({"logits": [1.0, 2.0, float("inf")]}, "logits has a value that is not finite"),
        ({"probabilities": [0.5, 1.5, 0.5]}, "probabilities must lie between"),
        ({"foils": [1]}, "foils has 1 values"),
        ({"labels": {}}, "labels lacks the text of token 2"),
        ({"segments": {"rest": (0, 3)}}, "has the name 'rest'"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)
