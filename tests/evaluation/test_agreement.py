"""Agreement with captum where it computes the same, and scores from elsewhere.

`captum.metrics` has `infidelity` and `sensitivity_max`: other quantities, under random perturbations of the input,
than any metric here. What can be compared are its convergence delta (our gap to a method's own sum), and its ablation
of one feature (our drop when one token is perturbed).
"""

import numpy as np
import pytest
import torch
from helpers import tiny

from bcos_peft import BcosConfig, BcosExplainer, Explanation, get_bcos_model
from bcos_peft.evaluation import (
    Completeness,
    PrecomputedScores,
    Question,
    Texts,
    ask,
    evaluate,
    get_method,
    perturbation_curves,
)


TEXTS = ["A gripping, beautifully shot film.", "Two hours that I shall not get back."]


@pytest.mark.newest
def test_one_perturbed_token_is_captums_ablation():
    from captum.attr import FeatureAblation

    model, tokenizer = tiny.model(), tiny.tokenizer()
    question = ask(model, tokenizer, TEXTS[0])

    def probability(ids, types):
        with torch.no_grad():
            return model(input_ids=ids, token_type_ids=types).logits.softmax(-1)[:, question.target]

    types = question.extra["token_type_ids"][None]
    mask = torch.full_like(question.input_ids[None], tokenizer.mask_token_id)
    theirs = FeatureAblation(probability).attribute(
        question.input_ids[None], baselines=mask, additional_forward_args=(types,)
    )[0]
    ranked = question.ranked.tolist()
    ones = [torch.eye(len(question))[i] for i in ranked]
    ours = perturbation_curves(model, [question] * len(ones), ones, tokenizer.mask_token_id, fractions=(0.01,))
    assert [curve[0] for curve in ours] == pytest.approx(theirs[ranked].tolist(), abs=1e-6)


@pytest.mark.newest
@pytest.mark.parametrize("steps", [3, 20])
def test_gap_of_integrated_gradients_is_captums_convergence_delta(steps):
    from captum.attr import IntegratedGradients

    model, tokenizer = tiny.model(), tiny.tokenizer()
    method = get_method("integrated_gradients", tokenizer, steps=steps)
    texts = Texts(model, tokenizer, TEXTS)
    metric = Completeness()
    examples = metric.examples(texts)
    scores = [[method(model, example.questions[0]).double()] for example in examples]
    for example, row in zip(examples, metric.measure(model, examples, scores, method), strict=True):
        (question,) = example.questions
        table = model.get_input_embeddings()
        masked = question.input_ids.masked_fill(~question.special, tokenizer.mask_token_id)
        types = question.extra["token_type_ids"][None]

        def logit(embeddings, question=question, types=types):
            types = types.expand(len(embeddings), -1)
            return model(inputs_embeds=embeddings, token_type_ids=types).logits[:, question.target]

        whole, empty = table(question.input_ids[None]).detach(), table(masked[None]).detach()
        _, delta = IntegratedGradients(logit).attribute(whole, empty, n_steps=steps, return_convergence_delta=True)
        assert row["own_gap"] == pytest.approx(abs(float(delta)), abs=1e-4)


def test_explanations_are_worth_what_their_method_is():
    model, tokenizer = get_bcos_model(tiny.model(), BcosConfig()), tiny.tokenizer()
    method = PrecomputedScores.from_explanations("mine", BcosExplainer(model, tokenizer)(TEXTS))
    result = evaluate(model, tokenizer, TEXTS, ["bcos", method], ["comprehensiveness", "completeness"])
    mine, own = result.examples("comprehensiveness", "mine"), result.examples("comprehensiveness", "B-cos + bcos")
    assert mine == pytest.approx(own, abs=1e-6)


def test_plain_tokens_and_scores():
    model, tokenizer = tiny.model(), tiny.tokenizer()
    question = ask(model, tokenizer, TEXTS[0])
    method = PrecomputedScores("plain", [question], [torch.arange(len(question)).float()])
    assert method(None, question).tolist() == list(range(len(question)))
    assert len(evaluate(model, tokenizer, TEXTS[:1], [method]).records) == 2
    with pytest.raises(ValueError, match="other token ids are known"):
        evaluate(model, tokenizer, TEXTS, [method])
    against = Question(question.input_ids, question.target, foil=(question.target + 1) % 3)
    with pytest.raises(ValueError, match=f"not the target {question.target} against {against.foil}"):
        method(None, against)
    other = Question(question.input_ids, target=(question.target + 1) % 3)
    with pytest.raises(ValueError, match=f"for the target {question.target}, not the target {other.target}"):
        method(None, other)
    with pytest.raises(ValueError, match=r"scores\[0\] must have the shape"):
        PrecomputedScores("plain", [question], [torch.ones(2)])
    with pytest.raises(ValueError, match="0 scores for 1"):
        PrecomputedScores("plain", [question], [])


def test_scores_without_those_of_special_tokens():
    question = ask(tiny.model(), tiny.tokenizer(), TEXTS[0])
    words = len(question) - 2
    assert question.ranked.tolist() == list(range(1, words + 1))
    expected = [0, *range(words), 0]
    for given in (range(words), np.arange(words)[None], expected, torch.tensor([expected])):
        assert PrecomputedScores("plain", [question], [given])(None, question).tolist() == expected


def test_tokens_and_scores():
    model, tokenizer = tiny.model(), tiny.tokenizer()
    question = ask(model, tokenizer, TEXTS[0])
    tokens = tokenizer.convert_ids_to_tokens(question.input_ids)
    whole = PrecomputedScores.from_tokens("plain", tokenizer, [tokens], [range(len(tokens))])
    assert whole(None, question).tolist() == list(range(len(tokens)))
    words = PrecomputedScores.from_tokens("plain", tokenizer, [tokens[1:-1]], [range(len(tokens) - 2)])
    assert words(None, question).tolist() == [0, *range(len(tokens) - 2), 0]
    assert len(evaluate(model, tokenizer, TEXTS[:1], [words]).records) == 2
    other = Question(question.input_ids, (question.target + 1) % 3, special=question.special)
    assert words(None, other).equal(words(None, question)), "without targets they answer for any"
    scores = [range(len(tokens) - 2)]
    bound = PrecomputedScores.from_tokens("plain", tokenizer, [tokens[1:-1]], scores, question.target)
    with pytest.raises(ValueError, match=f"the target {question.target}, not the target {other.target}"):
        bound(None, other)
    assert bound.settings != words.settings
    with pytest.raises(ValueError, match=r"tokens\[0\] has 'Grippingly', which the tokenizer does not know"):
        PrecomputedScores.from_tokens("plain", tokenizer, [["Grippingly"]], [[1.0]])
    with pytest.raises(ValueError, match=r"scores\[0\] must have the shape"):
        PrecomputedScores.from_tokens("plain", tokenizer, [["good", "film"]], [[1.0]])
    with pytest.raises(ValueError, match="1 texts, 2 rows of scores, 1 targets"):
        PrecomputedScores.from_tokens("plain", tokenizer, [["good"]], [[1.0], [2.0]])


def test_explanations_of_several_tokens_are_refused():
    explanation = Explanation(
        tokens=["a"], scores=[1.0], text="a", offsets=[(0, 1)], sequence_ids=[0], special=[False], token_ids=[5],
        target=1, target_label="b", predicted=1, predicted_label="b", logit=1.0, probability=0.5, target_ids=[1, 2],
    )  # fmt: skip
    with pytest.raises(ValueError, match="several target tokens"):
        PrecomputedScores.from_explanations("mine", [explanation])
