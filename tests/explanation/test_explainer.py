"""What `BcosExplainer` gives: the same scores in every batch, sums that hold, and the outputs that were asked for."""

import inspect

import numpy as np
import pytest
import torch
from helpers import tiny

from bcos_peft import BcosConfig, BcosExplainer, Explanation, attribute, get_bcos_model


TEXTS = [
    "An awful movie.",
    "We loved the wonderful acting, the direction and the music.",
    ("Who made this?", "Nobody knows."),
    "It is not bad, not good either, and the second half is better.",
    "Dull!",
    "A gripping, beautifully shot film that I did not want to end.",
]
LABELS = {0: "negative", 1: "neutral", 2: "positive"}


def make(family="bert", task="SequenceClassification", **changes):
    changes = {"dtype": torch.float64} | changes  # where only a mistake moves a score; test_certificate has float32
    model = get_bcos_model(tiny.model(family, task, **changes), BcosConfig())
    return BcosExplainer(model, tiny.tokenizer(tiny.KIND_OF.get(family, "bpe")))


@pytest.fixture(scope="module")
def bert():
    return make(id2label=LABELS, label2id={label: i for i, label in LABELS.items()})


@pytest.fixture(scope="module")
def masked():
    return make(task="MaskedLM")


def assert_sums(explanation, atol=1e-5):
    """The scores sum to the logit, and the residual is what is missing."""
    assert explanation.total + explanation.residual == pytest.approx(explanation.logit, abs=1e-6)
    assert abs(explanation.residual) <= atol
    special = explanation.special_score
    assert sum(word.score for word in explanation.words()) + special == pytest.approx(explanation.total, abs=1e-9)
    count = len(explanation.tokens)
    for column in ("scores", "offsets", "sequence_ids", "special", "token_ids", "word_ids"):
        assert len(getattr(explanation, column)) == count


# ---- batches -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_scores_do_not_depend_on_the_batch(family):
    explainer = make(family)
    alone = [explainer(text) for text in TEXTS]
    for batch_size in (1, 2, 16):
        for side in ("right", "left"):
            explainer.batch_size, explainer.tokenizer.padding_side = batch_size, side
            for one, two in zip(alone, explainer(TEXTS), strict=True):
                assert (one.tokens, one.text, one.target) == (two.tokens, two.text, two.target)
                np.testing.assert_allclose(one.scores, two.scores, atol=1e-5)
                assert one.probability == pytest.approx(two.probability, abs=1e-5)


@pytest.mark.parametrize("task", ["SequenceClassification", "CausalLM"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_decoders(family, task):
    """Their classifiers look for the last token that is not the config's padding token, whatever the tokenizer has."""
    explainer = make(family, task)
    assert explainer.tokenizer.pad_token_id != explainer.model.config.pad_token_id
    for text, one in zip(TEXTS, explainer(TEXTS), strict=True):
        np.testing.assert_allclose(one.scores, explainer(text).scores, atol=1e-5)
        assert_sums(one)
        assert one.position == (len(one.tokens) - 1 if task == "CausalLM" else None)


@pytest.mark.parametrize("task", tiny.TASKS)
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_scores_sum_and_predictions_are_the_models(family, task):
    explainer = make(family, task)
    for text, explanation in zip(TEXTS, explainer(TEXTS), strict=True):
        assert_sums(explanation, atol=1e-5 * max(1, np.abs(explanation.scores).sum()))
        assert explanation.text == text
        with torch.no_grad():
            output = explainer.model(input_ids=torch.tensor([explanation.token_ids]), **types(explainer, explanation))
        if task == "SequenceClassification":
            logits = output.logits[0]
        elif task == "QuestionAnswering":
            first, last = explanation.positions
            logits = output.start_logits[0, first] + output.end_logits[0, last]
        else:
            logits = output.logits[0, explanation.position]
        assert explanation.predicted == explanation.target == logits.argmax()
        assert explanation.logit == pytest.approx(float(logits.max()), abs=1e-5)


def types(explainer, explanation):
    """The token types that the tokenizer gives, for a model that takes them."""
    texts = explanation.text if isinstance(explanation.text, tuple) else (explanation.text,)
    values = explainer.tokenizer(*texts, return_tensors="pt")
    taken = inspect.signature(type(explainer.model).forward).parameters
    return {"token_type_ids": values["token_type_ids"]} if {"token_type_ids"} <= values.keys() & taken.keys() else {}


def test_the_tensor_level_agrees(bert):
    explanations = bert(TEXTS)
    encoded = bert.tokenizer([t if isinstance(t, str) else "x" for t in TEXTS], padding=True, return_tensors="pt")
    result = attribute(bert.model, **encoded)
    for row, explanation in enumerate(explanations):
        if isinstance(explanation.text, str):
            count = len(explanation.tokens)
            np.testing.assert_allclose(result.scores[row, :count].numpy(), explanation.scores, atol=1e-5)
            assert float(result.logit[row]) == pytest.approx(explanation.logit, abs=1e-5)


def test_precision_of_the_model():
    double = make(dtype=torch.float64)(TEXTS)
    for one, two in zip(double, make()(TEXTS), strict=True):
        assert_sums(one, atol=1e-12)
        np.testing.assert_allclose(one.scores, two.scores, atol=1e-4)
    for explanation in make(dtype=torch.bfloat16)(TEXTS):
        assert abs(explanation.residual) < 0.05 * np.abs(explanation.scores).sum()


# ---- target, foil, parts -------------------------------------------------------------------------------------------


def test_targets(bert):
    expected = [bert(text, target=i % 3) for i, text in enumerate(TEXTS)]
    numbers = [i % 3 for i in range(len(TEXTS))]
    for given in (
        numbers,
        tuple(numbers),
        iter(numbers),
        np.array(numbers),
        torch.tensor(numbers),
        [np.int64(n) for n in numbers],
        [torch.tensor(n) for n in numbers],
        [LABELS[n] for n in numbers],
        [LABELS[n] if n else n for n in numbers],
    ):
        for one, two in zip(bert(TEXTS, target=given), expected, strict=True):
            assert (one.target, one.target_label) == (two.target, LABELS[two.target])
            np.testing.assert_allclose(one.scores, two.scores, atol=1e-5)
    for one in (1, "neutral", np.int64(1), torch.tensor(1), [1]):
        assert bert(TEXTS[0], target=one).target == 1


def test_every_class(bert):
    for text, explanations in zip(TEXTS, bert(TEXTS, target="all"), strict=True):
        assert [explanation.target_label for explanation in explanations] == list(LABELS.values())
        assert sum(explanation.probability for explanation in explanations) == pytest.approx(1, abs=1e-5)
        for target, explanation in enumerate(explanations):
            assert_sums(explanation)
            np.testing.assert_allclose(explanation.scores, bert(text, target=target).scores, atol=1e-5)
    assert len(bert(TEXTS[0], target="all")) == 3


def test_a_target_can_be_left_open_for_some_texts(bert):
    given = [None, 0, None, "positive", None, 1]
    for text, target, explanation in zip(TEXTS, given, bert(TEXTS, target=given), strict=True):
        alone = bert(text, target=target)
        assert explanation.target == alone.target
        assert target is not None or explanation.target == explanation.predicted
        np.testing.assert_allclose(explanation.scores, alone.scores, atol=1e-5)


def test_foils(bert):
    for text, explanation in zip(TEXTS, bert(TEXTS, target="positive", foil="negative"), strict=True):
        positive, negative = bert(text, target="positive"), bert(text, target="negative")
        np.testing.assert_allclose(explanation.scores, positive.scores - negative.scores, atol=1e-5)
        assert explanation.logit == pytest.approx(positive.logit - negative.logit, abs=1e-5)
        assert (explanation.foil, explanation.foil_label) == (0, "negative")
        assert explanation.probability == pytest.approx(positive.probability, abs=1e-5)
        assert_sums(explanation)
    some = bert(TEXTS, target=1, foil=[None, 0, 2, None, 0, 2])
    assert [explanation.foil for explanation in some] == [None, 0, 2, None, 0, 2]


def test_parts(bert):
    for explanation in bert(TEXTS, split=True):
        assert explanation.parts.keys() == {"word", "position", "token_type"}
        np.testing.assert_allclose(sum(explanation.parts.values()), explanation.scores, atol=1e-6)
    one, two = bert(TEXTS[0], target="all", split=True)[:2]
    assert np.abs(one.parts["word"] - two.parts["word"]).max() > 1e-4
    assert bert(TEXTS[0]).parts is None


def test_probabilities():
    several = make(problem_type="multi_label_classification")(TEXTS, target="all")
    assert abs(sum(explanation.probability for explanation in several[0]) - 1) > 1e-3
    for explanation in several[0]:
        assert explanation.probability == pytest.approx(1 / (1 + np.exp(-explanation.logit)), abs=1e-5)
    assert make(num_labels=1, problem_type="regression")(TEXTS[0]).probability is None


# ---- outputs per token ---------------------------------------------------------------------------------------------


def test_masked_language_model(masked):
    texts = ["The film was [MASK].", "no mask here", "[MASK] is the best film of all."]
    together = masked(texts)
    mask = masked.tokenizer.mask_token
    assert [explanation.tokens[explanation.position] == mask for explanation in together] == [True, False, True]
    for text, explanation in zip(texts, together, strict=True):  # a text without a mask changes nothing for the others
        alone = masked(text)
        assert (alone.position, alone.target) == (explanation.position, explanation.target)
        np.testing.assert_allclose(alone.scores, explanation.scores, atol=1e-5)
        assert explanation.target_label == masked.tokenizer.decode([explanation.target])
        assert_sums(explanation, atol=1e-4)
    good = masked(texts[0], target="good", foil="bad")
    vocabulary = masked.tokenizer.get_vocab()
    assert (good.target, good.foil, good.target_label) == (vocabulary["good"], vocabulary["bad"], "good")
    assert masked(texts[0], target="##ing").target == vocabulary["##ing"]
    ids = masked(texts[0]).token_ids
    assert masked(ids).position == good.position


@pytest.mark.parametrize(("family", "word"), [("roberta", " the"), ("xlm-roberta", "good")])
def test_words_of_other_tokenizers_as_targets(family, word):
    """Byte-level BPE writes the space before a word into its token."""
    explainer = make(family, "MaskedLM")
    (token,) = explainer.tokenizer.tokenize(word)
    for target in (word, token):
        explanation = explainer(f"It is {explainer.tokenizer.mask_token} film", target=target)
        assert explanation.target == explainer.tokenizer.convert_tokens_to_ids(token)
        assert explanation.tokens[explanation.position] == explainer.tokenizer.mask_token


def test_token_classification():
    explainer = make(task="TokenClassification")
    for position in (0, 3):
        explanation = explainer(TEXTS[1], position=position, target=1)
        assert explanation.position == position
        assert_sums(explanation)
    several = explainer(TEXTS, position=[1, None, 3, torch.tensor(2), np.int64(1), None])
    assert [several[i].position for i in (0, 2, 3, 4)] == [1, 3, 2, 1]
    for i in (1, 5):
        assert several[i].position == explainer(TEXTS[i]).position
    every = explainer(TEXTS[1], position=2, target="all")
    assert [explanation.position for explanation in every] == [2, 2, 2]


def test_question_answering():
    explainer = make(task="QuestionAnswering")
    pairs = [("Who made this?", "We loved the direction and the music."), ("Who?", "Nobody.")]
    for label, target in (("start", 0), ("end", 1)):
        for pair, explanation in zip(pairs, explainer(pairs, target=label), strict=True):
            assert (explanation.target, explanation.target_label) == (target, label)
            encoded = explainer.tokenizer(*pair, return_tensors="pt")
            with torch.no_grad():
                scores = explainer.model(**encoded)[f"{label}_logits"][0]
            assert explanation.position == scores.argmax()
            assert explanation.probability == pytest.approx(float(scores.softmax(-1).max()), abs=1e-5)
            assert_sums(explanation)


# ---- the model is left as it was -----------------------------------------------------------------------------------


def test_a_model_in_training(bert):
    expected = bert(TEXTS)
    bert.model.train()
    bert.model.dropout.eval()  # modules are put back one by one
    try:
        for one, two in zip(bert(TEXTS), expected, strict=True):
            np.testing.assert_allclose(one.scores, two.scores, atol=1e-6)
        assert bert.model.training
        assert not bert.model.dropout.training
        assert all(parameter.requires_grad and parameter.grad is None for parameter in bert.model.parameters())
    finally:
        bert.model.eval()


class Parallel(torch.nn.DataParallel):
    def forward(self, *args, **kwargs):
        raise AssertionError("the batch would be scattered over copies")


class Wrapper(torch.nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)


@pytest.mark.parametrize("wrap", [Wrapper, torch.nn.DataParallel, Parallel, torch.compile])
def test_wrapped_models(bert, wrap):
    for one, two in zip(BcosExplainer(wrap(bert.model), bert.tokenizer)(TEXTS), bert(TEXTS), strict=True):
        np.testing.assert_allclose(one.scores, two.scores, atol=1e-6)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_without_gradients(bert, context):
    with context():
        assert_sums(bert(TEXTS[0]))


# ---- progress and keeping ------------------------------------------------------------------------------------------


def test_progress_bar(bert, capsys):
    explainer = BcosExplainer(bert.model, bert.tokenizer, batch_size=1)
    explainer(TEXTS[:4])
    assert capsys.readouterr().err == ""
    explainer(TEXTS)
    shown = capsys.readouterr()
    assert "Explaining" in shown.err
    assert "6/6" in shown.err
    assert shown.out == ""
    BcosExplainer(bert.model, bert.tokenizer, batch_size=1, progress=False)(TEXTS)
    assert capsys.readouterr().err == ""
    BcosExplainer(bert.model, bert.tokenizer, progress=True)(TEXTS[0])
    assert "1/1" in capsys.readouterr().err


def test_explanations_are_saved_and_loaded(bert, masked, tmp_path):
    explanations = [*bert(TEXTS, split=True), *bert(TEXTS, target=1, foil=0), *masked(["The [MASK] film"])]
    for number, explanation in enumerate(explanations):
        explanation.save(tmp_path / f"{number}.json")
        assert Explanation.load(tmp_path / f"{number}.json") == explanation
        assert "<html" in explanation.to_html()
