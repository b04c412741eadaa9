"""Stretches of an answer in one backward pass, and what the answer before them passes on."""

import pytest
import torch
from helpers import tiny, untabled

from bcos_peft import BcosConfig, get_bcos_model
from bcos_peft.attribution import attribute_answer, attribute_sequence, attribute_span


PROMPT, SPAN = 4, (9, 12)


def make(family="llama", **changes):
    return get_bcos_model(tiny.model(family, "CausalLM", dtype=torch.float64, **changes), BcosConfig(b=1.25))


def written(model, new=8):
    """A prompt and what a model goes on with."""
    ids = tiny.inputs(1, PROMPT, None, model.config.model_type)["input_ids"]
    for _ in range(new):
        ids = torch.cat([ids, model(input_ids=ids).logits[:, -1].argmax(-1, keepdim=True)], 1)
    return ids[0]


def rows(model, ids, first, stop, **options):
    targets = [[token] for token in ids[first:stop].tolist()]
    return attribute_sequence(model, ids[: stop - 1], range(first - 1, stop - 1), targets, **options)


@pytest.mark.parametrize("baseline", ["zero", "average"])
@pytest.mark.parametrize("contrast", ["runner_up", None])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_a_span_is_the_sum_of_its_tokens(family, contrast, baseline):
    model = make(family)
    ids = written(model)
    found = attribute_span(model, ids, SPAN, contrast, baseline=baseline)
    each = rows(model, ids, *SPAN, foils=contrast, baseline=baseline)
    torch.testing.assert_close(found.scores[0], each.scores.sum(0), rtol=0, atol=1e-10)
    torch.testing.assert_close(found.logit[0], each.logit.sum(), rtol=0, atol=1e-10)
    torch.testing.assert_close(found.probability, each.probability)
    assert found.foils == each.foils
    assert found.predicted.tolist() == each.predicted.tolist()
    assert abs(float(found.residual)) < 1e-10
    assert found.stayed is None
    if baseline == "average":
        torch.testing.assert_close(found.baseline[0], each.baseline.sum(), rtol=0, atol=1e-10)


def test_stock_models_have_constants():
    model = tiny.model("gpt2", "CausalLM", dtype=torch.float64)
    ids = written(model)
    for hops in (0, 2):
        found = attribute_span(model, ids, SPAN, hops=hops, answer_start=PROMPT)
        assert abs(float(found.constants)) > 1e-6
        assert float(found.scores.sum() + found.constants) == pytest.approx(float(found.logit), abs=1e-10)
    once = attribute_span(model, ids, SPAN)
    each = rows(model, ids, *SPAN)
    torch.testing.assert_close(once.constants[0], each.constants.sum(), rtol=0, atol=1e-10)


def by_hand(model, ids, hops, baseline="zero"):
    """Hops over all contributions to all tokens, one at a time: scores, and what the tokens before the span hold."""
    start, stop = SPAN
    most = stop - start
    all_rows = rows(model, ids, PROMPT, stop, baseline=baseline)
    before = start - PROMPT
    scores = all_rows.scores[before:].sum(0)
    worth, sources = all_rows.logit[:before], all_rows.scores[:before]
    passed = torch.zeros(before, dtype=torch.float64)
    for _ in range(hops):
        held = scores[PROMPT:start].clone()
        for j in range(before):
            wanted = passed[j] + (held[j] / worth[j] if worth[j] > 0 else 0)
            weight = max(-most, min(most, wanted)) - passed[j]
            passed[j] += weight
            scores = scores + weight * sources[j]
            scores[PROMPT + j] -= weight * worth[j]
    return scores, passed


@pytest.mark.parametrize("hops", [1, 2, 3, 8])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_hops_pass_shares_on_and_keep_the_sum(family, hops):
    model = make(family)
    ids = written(model)
    plain = attribute_span(model, ids, SPAN)
    found = attribute_span(model, ids, SPAN, hops=hops, answer_start=PROMPT)
    expected, _ = by_hand(model, ids, hops)
    torch.testing.assert_close(found.scores[0], expected, rtol=0, atol=1e-9)
    assert float(found.logit) == pytest.approx(float(plain.logit), abs=1e-12)
    assert float(found.scores.sum()) == pytest.approx(float(plain.scores.sum()), abs=1e-9)
    assert abs(float(found.residual)) < 1e-9
    assert not torch.allclose(found.scores, plain.scores, atol=1e-6), "something was passed on"
    assert float(found.stayed) == pytest.approx(float(found.scores[0, PROMPT : SPAN[0]].abs().sum()), abs=1e-12)
    torch.testing.assert_close(found.scores[0, SPAN[0] :], plain.scores[0, SPAN[0] :])


def test_hops_pass_on_to_an_average_word_too():
    model = make()
    ids = written(model)
    found = attribute_span(model, ids, SPAN, hops=2, answer_start=PROMPT, baseline="average")
    torch.testing.assert_close(found.scores[0], by_hand(model, ids, 2, "average")[0], rtol=0, atol=1e-9)
    assert float(found.scores.sum() + found.baseline) == pytest.approx(float(found.logit), abs=1e-9)


def test_enough_hops_leave_nothing_that_may_be_passed_on():
    """A token comes from those before it, so as many hops as there are tokens before the span reach the prompt."""
    model = make()
    ids = written(model)
    before = SPAN[0] - PROMPT
    whole = attribute_span(model, ids, SPAN, hops=before, answer_start=PROMPT)
    more = attribute_span(model, ids, SPAN, hops=before + 5, answer_start=PROMPT)
    torch.testing.assert_close(whole.scores, more.scores)
    _, passed = by_hand(model, ids, before)
    inside = passed.abs() < SPAN[1] - SPAN[0]
    assert inside.any()
    assert whole.scores[0, PROMPT : SPAN[0]][inside].abs().max() < 1e-10


def test_what_sampling_chose_keeps_its_share():
    model = make()
    ids = written(model)
    ids[PROMPT + 2] = (ids[PROMPT + 2] + 1) % model.config.vocab_size  # no longer the largest logit
    plain = attribute_span(model, ids, SPAN)
    found = attribute_span(model, ids, SPAN, hops=1, answer_start=PROMPT)
    worth = rows(model, ids, PROMPT, SPAN[0]).logit
    assert worth[2] < 0
    expected, passed = by_hand(model, ids, 1)
    assert passed[2] == 0
    torch.testing.assert_close(found.scores[0], expected, rtol=0, atol=1e-9)
    assert abs(float(plain.scores[0, PROMPT + 2])) > 1e-9


def test_weights_are_bounded():
    """Where what a token was said for nearly cancels, its sources get no more than the explained tokens are many."""
    model = make()
    ids = written(model)
    _, passed = by_hand(model, ids, 3)
    assert (passed.abs() <= SPAN[1] - SPAN[0] + 1e-12).all()
    assert (passed.abs() > SPAN[1] - SPAN[0] - 1e-12).any(), "the bound is reached"
    all_rows = rows(model, ids, PROMPT, SPAN[1])
    before = SPAN[0] - PROMPT
    bound = all_rows.scores[before:].abs().sum() + 3 * (
        all_rows.scores[:before].abs().sum() + all_rows.logit[:before].abs().sum()
    )
    found = attribute_span(model, ids, SPAN, hops=50, answer_start=PROMPT)
    assert found.scores.abs().sum() <= bound


@pytest.mark.parametrize("hops", [0, 1, 3])
def test_one_backward_pass_and_one_for_each_hop(hops):
    model = make()
    ids = written(model)
    passes, heads = [], []
    layer = model.model.layers[0].register_forward_hook(
        lambda module, args, output: output.register_hook(lambda g: passes.append(1)) and None
    )
    head = model.lm_head.register_forward_hook(lambda module, args, output: heads.append(output.shape))
    attribute_span(model, ids, SPAN, hops=hops, answer_start=PROMPT)
    layer.remove(), head.remove()
    assert len(passes) == hops + 1
    explained = SPAN[1] - (PROMPT if hops else SPAN[0])
    assert heads == [(1, explained, model.config.vocab_size)], "logits where they are needed, once"


@pytest.mark.newest
def test_encoder_decoders():
    model = get_bcos_model(untabled.stock("T5ForConditionalGeneration").double().eval(), BcosConfig(b=1.25))
    source, answer = torch.tensor([5, 6, 7, 8]), torch.tensor([0, 9, 10, 11, 12, 13])
    ids = torch.cat([source, answer])
    each = attribute_answer(model, source, answer[:-1], [[token] for token in (11, 12, 13)])
    found = attribute_span(model, ids, (7, 10), source=4)
    torch.testing.assert_close(found.scores[0], each.scores.sum(0), rtol=0, atol=1e-10)
    assert float(found.residual) == pytest.approx(0, abs=1e-10)
    passed = attribute_span(model, ids, (7, 10), source=4, hops=2, answer_start=5)
    assert float(passed.logit) == pytest.approx(float(found.logit), abs=1e-10)
    assert abs(float(passed.residual)) < 1e-9


def test_what_does_not_fit_is_refused():
    model = make()
    ids = written(model)
    for span in [(0, 3), (5, 5), (6, 99)]:
        with pytest.raises(ValueError, match="span="):
            attribute_span(model, ids, span)
    with pytest.raises(ValueError, match="answer_start must lie between"):
        attribute_span(model, ids, SPAN, hops=1)
    with pytest.raises(ValueError, match="answer_start must lie between"):
        attribute_span(model, ids, SPAN, hops=1, answer_start=SPAN[0])
    with pytest.raises(ValueError, match="hops must be"):
        attribute_span(model, ids, SPAN, hops=-1)
    with pytest.raises(ValueError, match="no causal language model"):
        attribute_span(get_bcos_model(tiny.model("bert"), BcosConfig()), ids, SPAN)
