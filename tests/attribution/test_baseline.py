"""Contributions relative to an average word: with what that would give, they still sum to the logit."""

import numpy as np
import pytest
import torch
from helpers import tiny

from bcos_peft import BcosConfig, BcosExplainer, Explanation, GenerationExplanation, attribute, get_bcos_model
from bcos_peft.attribution import attribute_sequence
from bcos_peft.evaluation import Completeness, Question, evaluate, get_method, score
from bcos_peft.explanation import layout
from bcos_peft.explanation.generation_layout import _layout_generation
from bcos_peft.explanation.text_layout import _AVERAGE_WORDS


PROMPT = "A gripping film"
FAMILIES = [(family, "SequenceClassification") for family in tiny.FAMILIES]
FAMILIES += [(family, "CausalLM") for family in tiny.DECODERS]
every_family = pytest.mark.parametrize(("family", "task"), FAMILIES)


def converted(family, task, dtype=torch.float64):
    return get_bcos_model(tiny.model(family, task, dtype), BcosConfig(b=1.25), verify=False)


def explainer(baseline="average", family="llama", task="CausalLM"):
    model = converted(family, task)
    if task == "CausalLM":
        model.generation_config.update(eos_token_id=2, pad_token_id=0)
    return BcosExplainer(model, tiny.tokenizer(tiny.KIND_OF.get(family, "bpe")), baseline=baseline)


@every_family
@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_scores_and_the_baseline_sum_to_the_logit(family, task, padding, dtype, limit):
    model, inputs = converted(family, task, dtype), tiny.inputs(3, 9, padding, family)
    found = attribute(model, **inputs, target=1, baseline="average", split=True)
    size = torch.maximum(found.logit.abs(), found.scores.abs().sum(-1) / 10)
    assert (found.residual.abs() <= limit * size).all()
    torch.testing.assert_close(found.scores.sum(-1) + found.baseline + found.residual, found.logit)
    assert (found.scores[inputs["attention_mask"] == 0] == 0).all()
    assert (found.baseline.abs() > 1e-9).all()
    assert found.scores.dtype == found.baseline.dtype == dtype

    plain = attribute(model, **inputs, target=1, split=True)
    assert plain.baseline is None
    torch.testing.assert_close(found.logit, plain.logit)
    torch.testing.assert_close(sum(found.parts.values()), found.scores)
    for name in plain.parts.keys() - {"word"}:
        torch.testing.assert_close(found.parts[name], plain.parts[name])


@every_family
def test_an_average_word_contributes_nothing(family, task):
    model, inputs = converted(family, task), tiny.inputs(2, 9, None, family)
    weight = model.get_input_embeddings().weight
    token = int(inputs["input_ids"][0, 4])
    others = torch.arange(len(weight)) != token
    with torch.no_grad():
        weight[token] = weight[others].mean(0)
    found = attribute(model, **inputs, target=1, baseline="average", split=True)
    here = inputs["input_ids"] == token
    assert (found.parts["word"][here].abs() < 1e-12).all()
    assert (found.parts["word"][~here].abs() > 1e-12).any()


def test_targets_foils_and_places_as_without():
    model, inputs = converted("bert", "SequenceClassification"), tiny.inputs(3, 9, "left", "bert")
    every = attribute(model, **inputs, target="all", baseline="average")
    assert every.baseline.shape == every.logit.shape == (3, 3)
    for target in range(3):
        one = attribute(model, **inputs, target=target, baseline="average")
        torch.testing.assert_close(every.scores[:, target], one.scores)
        torch.testing.assert_close(every.baseline[:, target], one.baseline)
    contrast = attribute(model, **inputs, target=2, foil=0, baseline="average")
    torch.testing.assert_close(contrast.scores, every.scores[:, 2] - every.scores[:, 0])
    torch.testing.assert_close(contrast.baseline, every.baseline[:, 2] - every.baseline[:, 0])


@pytest.mark.parametrize(
    "call",
    [
        lambda model: attribute(model, torch.tensor([[5, 6]]), baseline="mean"),
        lambda model: attribute_sequence(model, torch.tensor([5, 6]), [1], [None], baseline="mean"),
        lambda model: BcosExplainer(model, tiny.tokenizer(), baseline="mean"),
        lambda model: get_method("bcos", baseline="mean"),
    ],
)
def test_unknown_baselines_are_refused(call):
    with pytest.raises(ValueError, match="baseline must be 'zero' or 'average', got 'mean'"):
        call(converted("llama", "CausalLM"))


@pytest.mark.newest  # captum's occlusion
@pytest.mark.parametrize("family", ["bert", "gemma2"])
def test_the_average_word_is_a_baseline_of_other_methods(family):
    """Occlusion of one word is the score with its embedding replaced by the mean of what the embedding layer gives."""
    model = tiny.model(family, "SequenceClassification" if family == "bert" else "CausalLM", torch.float64)
    question = Question(torch.tensor([2, 8, 9, 3]), target=1, special=torch.tensor([True, False, False, True]))
    table = model.get_input_embeddings()
    with torch.no_grad():
        average = table(torch.arange(tiny.VOCAB_SIZE)).mean(0)
    found = get_method("occlusion", baseline="average")(model, question)
    assert found[[0, 3]].tolist() == [0.0, 0.0]
    whole = float(score(model, question).detach())
    for place in (1, 2):

        def hide(module, args, output, place=place):
            output = output.clone()
            output[:, place] = average
            return output

        handle = table.register_forward_hook(hide)
        without = float(score(model, question).detach())
        handle.remove()
        assert float(found[place]) == pytest.approx(whole - without, abs=1e-6)  # captum: float32


# ---- explanations ---------------------------------------------------------------------------------------------------


def test_explanations_of_texts(tmp_path):
    found = explainer(family="bert", task="SequenceClassification")([PROMPT, "bad"], target=1)
    plain = explainer("zero", "bert", "SequenceClassification")([PROMPT, "bad"], target=1)
    for one, other in zip(found, plain, strict=True):
        assert other.baseline is None
        assert "baseline" not in other.to_dict()
        assert abs(one.scores.sum() + one.baseline - one.logit) < 1e-12
        assert one.total == pytest.approx(one.logit, abs=1e-12)
        sums = one.by_segment({"all": (0, len(one.text))})
        assert list(sums) == ["all", "rest", "baseline"]
        assert sum(sums.values()) == pytest.approx(one.logit, abs=1e-12)
        with pytest.raises(ValueError, match="'baseline', which stands for"):
            one.by_segment({"baseline": (0, 3)})
        assert "baseline" in other.by_segment({"baseline": (0, 3)})
        assert not np.allclose(one.scores, other.scores)
        one.save(tmp_path / "one.json")
        assert Explanation.load(tmp_path / "one.json") == one
        view = layout(one)
        assert sum(row.score for row in view.rows) == pytest.approx(one.logit, abs=1e-12)
        assert view.rows[-1].label == _AVERAGE_WORDS
        assert view.exact
        assert _AVERAGE_WORDS in one.to_html()
    computed = Explanation(**{**_fields(found[0]), "residual": None})
    assert computed.residual == pytest.approx(found[0].residual, abs=1e-15)


def test_generations(tmp_path, capsys):
    one = explainer()
    found = one.generate(PROMPT, max_new_tokens=4, min_new_tokens=4)
    assert np.abs(found.residuals).max() < 1e-10
    np.testing.assert_allclose(found.scores.sum(1) + found.baselines, found.logits, atol=1e-10)
    for i, target in enumerate(found.token_ids[found.prompt_length :]):
        ids = torch.tensor([found.token_ids[: found.prompt_length + i]])
        same = attribute(one.model, ids, target=target, foil=found.foils[i], baseline="average")
        np.testing.assert_allclose(found.scores[i, : ids.shape[1]], same.scores[0], atol=1e-12)
        assert found[i].baseline == pytest.approx(float(same.baseline[0]), abs=1e-12)
    assert found.summed().baseline == pytest.approx(found.baselines.sum(), abs=1e-12)
    sums = found.by_segment({"p": PROMPT}, whole=True)
    assert sums["baseline"] == pytest.approx(found.baselines.sum(), abs=1e-12)
    assert sum(sums.values()) == pytest.approx(found.logits.sum(), abs=1e-9)
    rows = _layout_generation(found, {"p": PROMPT}).whole.passages
    assert [row.label for row in rows] == ["p", "rest", _AVERAGE_WORDS]
    assert sum(row.score for row in rows) == pytest.approx(found.logits.sum(), abs=1e-9)
    found.save(tmp_path / "one.json")
    assert GenerationExplanation.load(tmp_path / "one.json") == found
    assert _AVERAGE_WORDS in found.to_html()
    found.show()
    assert "=" in capsys.readouterr().out
    computed = GenerationExplanation(**{**_fields(found), "residuals": None})
    np.testing.assert_allclose(computed.residuals, found.residuals, atol=1e-12)

    plain = explainer("zero").generate(PROMPT, max_new_tokens=4, min_new_tokens=4)
    assert plain.baselines is None
    assert "baselines" not in plain.to_dict()
    assert plain.token_ids == found.token_ids


@pytest.mark.parametrize("target", [None, " gripping film"])
def test_the_next_token(target):
    found = explainer().explain(PROMPT, target=target)
    assert abs(found.residual) < 1e-10
    assert found.scores.sum() + found.baseline == pytest.approx(found.logit, abs=1e-10)


def test_the_method_sums_to_the_score_less_the_baseline():
    model = converted("bert", "SequenceClassification")
    method, question = get_method("bcos", baseline="average"), Question(torch.tensor([2, 8, 9, 3]), target=1, foil=0)
    scores = method(model, question)
    assert method.residual(model, question, scores) == pytest.approx(0.0, abs=1e-12)
    both = ["bcos", get_method("bcos", baseline="average", label="bcos, average word")]
    result = evaluate(model, tiny.tokenizer(), [PROMPT, "bad film"], both, [Completeness()])
    assert len(result.rows) == 2
    values = [record.values for record in result.records]
    assert all(abs(number) < 1e-9 for row in values for name, number in row.items() if "residual" in name)


def _fields(found):
    return {name: getattr(found, name) for name in type(found).__dataclass_fields__}
