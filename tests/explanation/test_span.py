"""`explain_span`: a stretch of an answer as one, with hops over what comes before it."""

import numpy as np
import pytest
from helpers import tiny
from helpers.generators import PROMPT, explainer

from bcos_peft import BcosConfig, BcosExplainer, Explanation, get_bcos_model


ANSWER = " that was good, and so we loved it"
FIELDS = ("tokens", "token_ids", "text", "offsets", "special", "segments", "target", "target_label", "target_ids")
OTHERS = ("foil", "foil_ids", "foil_label", "predicted", "predicted_label", "position")


def assert_same(found, expected):
    for name in FIELDS + OTHERS:
        assert getattr(found, name) == getattr(expected, name), name
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-10)
    for name in ("logit", "probability", "baseline", "constants"):
        if getattr(expected, name) is None:
            assert getattr(found, name) is None
        else:
            assert getattr(found, name) == pytest.approx(getattr(expected, name), abs=1e-10), name
    assert abs(found.residual) < 1e-10


@pytest.mark.parametrize("contrast", ["runner_up", None])
def test_it_is_the_sum_of_the_explained_tokens(contrast):
    one = explainer()
    whole = one.explain_generation(PROMPT, ANSWER, contrast=contrast)
    last = len(whole)
    assert last > 6
    for span in [(0, last), (3, last - 1), (4, 5)]:
        assert_same(one.explain_span(PROMPT, ANSWER, span=span, contrast=contrast), whole.summed(*span))
        assert_same(one.explain_span(whole, span=span, contrast=contrast), whole.summed(*span))
    assert_same(one.explain_span(PROMPT, ANSWER, contrast=contrast), whole.summed())


def test_a_substring_of_the_answer():
    one = explainer()
    whole = one.explain_generation(PROMPT, ANSWER)
    found = one.explain_span(PROMPT, ANSWER, span="we loved")
    start = len(found.tokens) + 1 - len(found.target_ids or [1]) - whole.prompt_length
    assert_same(found, whole.summed(start, len(found.tokens) + 1 - whole.prompt_length))
    assert "we loved" in found.target_label
    assert found.text.endswith(found.target_label[:-1]) or whole.text.startswith(found.text)


def test_foils_are_compared_with():
    one = explainer()
    whole = one.explain_generation(PROMPT, ANSWER)
    ids = whole.token_ids[whole.prompt_length :]
    foil = next(token for token in range(20, 60) if token not in ids)
    expected = one.explain_generation(PROMPT, ANSWER, foil=foil)
    found = one.explain_span(PROMPT, ANSWER, span=(2, 5), foil=foil)
    np.testing.assert_allclose(found.scores, expected.summed(2, 5).scores, atol=1e-10)
    assert found.foil_ids == [foil] * 3
    assert found.foil_label == "the foils"
    each = one.explain_span(PROMPT, ANSWER, span=(2, 5), foil=[foil, foil, foil])
    np.testing.assert_allclose(each.scores, found.scores, atol=1e-12)


def test_chats_and_what_was_generated():
    one = explainer()
    messages = [{"role": "user", "content": "A gripping film?"}]
    answer = one.generate(messages=messages, max_new_tokens=6, min_new_tokens=6)
    found = one.explain_span(answer, span=(4, 6), hops=2)
    assert found.logit == pytest.approx(float(answer.logits[4:6].sum()), abs=1e-10)
    assert abs(found.residual) < 1e-9
    assert sum(found.by_segment().values()) == pytest.approx(found.logit, abs=1e-9)
    again = one.explain_span(completion=answer.token_ids[answer.prompt_length :], messages=messages, span=(4, 6))
    assert_same(again, answer.summed(4, 6))


@pytest.mark.parametrize("baseline", ["zero", "average"])
def test_hops_keep_the_sum_and_say_what_stayed(baseline, tmp_path):
    one = explainer()
    one.baseline = baseline
    answer = one.generate(PROMPT, max_new_tokens=8, min_new_tokens=8)
    begin, plain = answer.prompt_length, one.explain_span(answer, span=(5, 8))
    assert plain.stayed is None
    for hops in (1, 2, 8):
        found = one.explain_span(answer, span=(5, 8), hops=hops)
        total = found.scores.sum() + (found.baseline or 0)
        assert total == pytest.approx(plain.logit, abs=1e-9)
        assert abs(found.residual) < 1e-9
        assert found.stayed == pytest.approx(np.abs(found.scores[begin : begin + 5]).sum(), abs=1e-12)
        assert np.abs(found.scores - plain.scores).max() > 1e-6
    found.save(tmp_path / "found.json")
    assert Explanation.load(tmp_path / "found.json").stayed == found.stayed
    assert found.to_html()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"span": "gripping"}, ValueError, "occurs 0 times in the answer"),
        ({"span": "o"}, ValueError, "times in the answer, not once"),
        ({"span": ""}, ValueError, "occurs 0 times"),
        ({"span": " and "}, None, None),
        ({"span": (3, 3)}, ValueError, "is empty or lies outside"),
        ({"span": (0, 99)}, ValueError, "is empty or lies outside"),
        ({"span": (1, 2, 3)}, TypeError, "span must be two numbers"),
        ({"span": (0, 2), "hops": 1}, ValueError, "the span begins with it"),
        ({"hops": -1}, ValueError, "hops must be 0 or more"),
        ({"completion": ""}, ValueError, "completion is empty"),
        ({"completion": None}, TypeError, "completion must be"),
        ({"prompt": [PROMPT, PROMPT]}, TypeError, "one answer at a time"),
        ({"contrast": "best"}, ValueError, "contrast must be"),
    ],
)
def test_what_does_not_fit_is_refused(changes, error, message):
    one, given = explainer(), {"prompt": PROMPT, "completion": ANSWER} | changes
    if error is None:
        one.explain_span(**given)
        return
    with pytest.raises(error, match=message):
        one.explain_span(**given)


def test_an_explanation_brings_its_prompt_and_answer():
    one = explainer()
    whole = one.explain_generation(PROMPT, ANSWER)
    with pytest.raises(ValueError, match="give nothing but span with it"):
        one.explain_span(whole, ANSWER)
    with pytest.raises(ValueError, match="needs a causal language model"):
        BcosExplainer(get_bcos_model(tiny.model("bert"), BcosConfig()), tiny.tokenizer()).explain_span(whole)
