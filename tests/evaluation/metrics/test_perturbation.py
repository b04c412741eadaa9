"""Comprehensiveness and sufficiency: by hand on a bag of words, and what must not change them."""

import math
import warnings

import numpy as np
import pytest
import torch
from helpers import tiny
from helpers.toys import BagOfWords

from bcos_peft import BcosConfig, get_bcos_model
from bcos_peft.evaluation import Comprehensiveness, Question, Sufficiency, ask, logits, probabilities
from bcos_peft.evaluation.data import Texts
from bcos_peft.evaluation.metrics import perturbation_curves
from bcos_peft.evaluation.metrics.curves import _FRACTIONS, _area, _count_of, _perturb


MASK = 4


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def question(ids, special=None, target=1):
    return Question(torch.tensor(ids), target, special=None if special is None else torch.tensor(special))


def test_counts():
    assert [_count_of(f, 10) for f in _FRACTIONS] == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert [_count_of(f, 3) for f in _FRACTIONS] == [1, 1, 1, 1, 2, 2, 2, 2, 3]
    assert [_count_of(f, 1) for f in _FRACTIONS] == [1] * 9
    assert _count_of(0.7, 45) == 32, "31.5, which in floating point is a little less"


def test_by_hand():
    model = BagOfWords({10: 1.0, 11: -0.5, 12: 2.0, 2: 0.25})
    text = question([2, 10, 11, 12, 3], special=[True, False, False, False, True])
    scores = torch.tensor([99.0, 1.0, -0.5, 2.0, 0.0])
    whole = sigmoid(2.75)
    fractions = (0.3, 0.6, 0.9)  # of three tokens: 1, 2, 3
    (drop,) = perturbation_curves(model, [text], [scores], MASK, fractions=fractions)
    np.testing.assert_allclose(drop, [whole - sigmoid(0.75), whole - sigmoid(-0.25), whole - sigmoid(0.25)], rtol=1e-6)
    (kept,) = perturbation_curves(model, [text], [scores], MASK, keep=True, fractions=fractions)
    np.testing.assert_allclose(kept, [whole - sigmoid(2.25), whole - sigmoid(3.25), 0], atol=1e-7)
    (kept,) = perturbation_curves(model, [text], [scores], MASK, keep=True, fractions=fractions, perturb_special=True)
    np.testing.assert_allclose(kept, [whole - sigmoid(2), whole - sigmoid(3), whole - sigmoid(2.5)], atol=1e-7)
    (logit,) = perturbation_curves(model, [text], [scores], MASK, fractions=fractions, output="logit")
    np.testing.assert_allclose(logit, [2, 3, 2.5], rtol=1e-6)


def test_areas():
    assert _area(np.ones(9)) == pytest.approx(0.8)
    assert _area([0.0, 1.0, 1.0], (0.1, 0.2, 0.4)) == pytest.approx(0.05 + 0.2)
    ours = _area(np.arange(9.0))
    assert ours == pytest.approx(np.trapezoid(np.arange(9.0), _FRACTIONS) if hasattr(np, "trapezoid") else 3.2)


def test_metrics_give_area_aopc_and_curve():
    model, tokenizer = tiny.model(), tiny.tokenizer()
    texts = Texts(model, tokenizer, ["A gripping film.", "Two hours that I shall not get back."])
    for metric in (Comprehensiveness(), Sufficiency()):
        examples = metric.examples(texts)
        scores = [[torch.rand(len(example.questions[0])).double()] for example in examples]
        for row in metric.measure(model, examples, scores, None):
            assert row[f"{metric.name}_aopc"] == pytest.approx(np.mean(row["curve"]))
            assert row[metric.name] == pytest.approx(_area(row["curve"]))
            assert len(row["curve"]) == 9


def test_the_other_way_round_and_the_best_order():
    """Keeping the top is perturbing the rest; and true weights beat every other order, for both."""
    weights = {token: 0.3 * (token - 15) for token in range(10, 20)}
    model = BagOfWords(weights)
    text = question(list(weights))
    best = torch.tensor(list(weights.values()))
    generator = torch.Generator().manual_seed(0)
    random = [torch.rand(10, generator=generator) for _ in range(20)]
    drops = perturbation_curves(model, [text] * 21, [best, *random], MASK)
    keeps = perturbation_curves(model, [text] * 21, [best, *random], MASK, keep=True)
    assert all((drops[0] >= other - 1e-9).all() for other in drops[1:])
    assert all((keeps[0] <= other + 1e-9).all() for other in keeps[1:])
    (reverse,) = perturbation_curves(model, [text], [-best], MASK)
    # The top 10 % kept are what is left when the lowest 90 % are perturbed.
    np.testing.assert_allclose(keeps[0], reverse[::-1], atol=1e-7)


@pytest.mark.parametrize("fill", [4, None])
def test_invariances(fill):
    """Scale, shift and monotone maps of the scores do not matter, nor what else is in the batch."""
    model, tokenizer = tiny.model(), tiny.tokenizer()
    asked = [ask(model, tokenizer, text) for text in ("A gripping film.", "Two hours, dull.", "Good", "Bad, bad.")]
    generator = torch.Generator().manual_seed(1)
    scores = [torch.randn(len(q), generator=generator) for q in asked]
    together = perturbation_curves(model, asked, scores, fill)
    changed = perturbation_curves(model, asked, [(3 * s + 1).exp() for s in scores], fill, batch_size=5)
    for i, curve in enumerate(together):
        np.testing.assert_allclose(changed[i], curve, atol=1e-5)
        np.testing.assert_allclose(perturbation_curves(model, [asked[i]], [scores[i]], fill)[0], curve, atol=1e-5)


def test_special_tokens_are_never_perturbed():
    model, tokenizer = tiny.model(), tiny.tokenizer()
    asked = ask(model, tokenizer, "A gripping film.")
    low, high = torch.rand(len(asked)), torch.rand(len(asked))
    high[~asked.special] = low[~asked.special]
    high[asked.special] = 1000.0
    first, second = perturbation_curves(model, [asked] * 2, [low, high], MASK)
    np.testing.assert_allclose(first, second, atol=1e-6)


def test_all_perturbed_is_all_masked():
    model, tokenizer = tiny.model(), tiny.tokenizer()
    asked = ask(model, tokenizer, "A gripping film.")
    masked = asked.input_ids.masked_fill(~asked.special, MASK)
    whole, gone = (probabilities(model, [asked], ids)[0, asked.target] for ids in (None, [masked]))
    (curve,) = perturbation_curves(model, [asked], [torch.rand(len(asked))], MASK, fractions=(0.5, 1.0))
    assert curve[-1] == pytest.approx(float(whole - gone), abs=1e-6)


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta"])
@pytest.mark.parametrize("convert", [False, True])
def test_words_keep_their_places_beside_padding_tokens(family, convert):
    """RoBERTa counts positions from the ids, without padding tokens: those that take the place of words must count."""
    model = tiny.model(family)
    if convert:
        model = get_bcos_model(model, BcosConfig())
    pad = model.config.pad_token_id
    table = model.get_input_embeddings().weight
    with torch.no_grad():
        table[300] = table[pad]  # a word that differs from the padding token by its id alone
    asked = [question([2, 10, 11, 12, 13, 3]), question([2, 14, 3])]
    padded, worded = ([_perturb(one, torch.tensor([1]), fill) for one in asked] for fill in (pad, 300))
    torch.testing.assert_close(logits(model, padded), logits(model, worded), rtol=1e-4, atol=1e-5)


def test_few_forwards():
    model = BagOfWords({10: 1.0})
    texts = [question(list(range(10, 20))) for _ in range(3)]
    perturbation_curves(model, texts, [torch.rand(10)] * 3, MASK, batch_size=64)
    assert model.rows == [30]
    model.rows.clear()
    perturbation_curves(model, [question([10, 11, 12])], [torch.rand(3)], MASK)
    assert model.rows == [4], "three tokens have three counts, and the whole text"


def test_short_texts():
    model = BagOfWords({10: 1.0})
    (curve,) = perturbation_curves(model, [question([10])], [torch.ones(1)], MASK)
    np.testing.assert_allclose(curve, [sigmoid(1) - 0.5] * 9, rtol=1e-6)
    (curve,) = perturbation_curves(model, [question([10, 11])], [torch.tensor([1.0, 0.0])], None)
    np.testing.assert_allclose(curve, [sigmoid(1) - 0.5] * 9, rtol=1e-6)
    with pytest.raises(ValueError, match=r"questions\[0\] is one token"):
        perturbation_curves(model, [question([10])], [torch.ones(1)], None)


def test_texts_of_one_token_are_left_out_where_nothing_can_take_their_place():
    model, tokenizer = tiny.model("gpt2"), tiny.tokenizer("bpe")
    tokenizer._tokenizer.post_processor = None  # no special tokens around a text
    tokenizer.mask_token = tokenizer.pad_token = None
    metric = Sufficiency()
    with pytest.warns(UserWarning, match="sufficiency leaves out 1 of 2 texts: they are one token"):
        (example,) = metric.examples(Texts(model, tokenizer, ["a", "A gripping film"]))
    assert metric.settings()["perturbation"] == "delete"
    assert example.text == "A gripping film"
    with pytest.raises(ValueError, match="comprehensiveness: every text is one token"):
        Comprehensiveness().examples(Texts(model, tokenizer, ["a"]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(Comprehensiveness("delete").examples(Texts(tiny.model(), tiny.tokenizer(), ["good"]))) == 1


def test_language_models_and_tokenizers_without_a_mask():
    model, tokenizer = tiny.model("llama", "CausalLM"), tiny.tokenizer("bpe")
    tokenizer.mask_token = None
    metric = Comprehensiveness()
    examples = metric.examples(Texts(model, tokenizer, ["A gripping film"]))
    assert metric.settings()["perturbation"] == "pad"
    (row,) = metric.measure(model, examples, [[torch.rand(len(examples[0].questions[0]))]], None)
    assert -1 <= row["comprehensiveness"] <= 1
    with pytest.raises(ValueError, match="needs a mask token"):
        Comprehensiveness(perturbation="mask").examples(Texts(model, tokenizer, ["A gripping film"]))


def test_targets():
    model, tokenizer = tiny.model(), tiny.tokenizer()
    predicted = Texts(model, tokenizer, ["A film."]).examples()[0].questions[0]
    assert predicted.target == int(probabilities(model, [predicted])[0].argmax())
    several = ["A film.", "Two hours that I shall not get back.", "dull dull", "Don't miss it!"]
    found = [example.questions[0].target for example in Texts(model, tokenizer, several).examples()]
    assert found == [ask(model, tokenizer, text).target for text in several]
    assert Texts(model, tokenizer, ["A film."], target="LABEL_2").examples()[0].questions[0].target == 2
    assert Texts(model, tokenizer, ["A film."], labels=[1], target="label").examples()[0].questions[0].target == 1
    with pytest.raises(ValueError, match="label_column"):
        Texts(model, tokenizer, ["A film."], target="label")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"perturbation": "blank"}, "perturbation must be one of 'mask', 'pad', 'delete'"),
        ({"fractions": (0.5, 0.1)}, "rising order"),
        ({"fractions": (0.0, 0.1)}, "rising order"),
    ],
)
def test_refused_options(options, message):
    with pytest.raises(ValueError, match=message):
        Comprehensiveness(**options)


def test_refused_scores():
    model = BagOfWords({10: 1.0})
    with pytest.raises(ValueError, match="finite"):
        perturbation_curves(model, [question([10, 11])], [torch.tensor([1.0, float("nan")])], MASK)
    with pytest.raises(ValueError, match="shape of input_ids"):
        perturbation_curves(model, [question([10, 11])], [torch.ones(3)], MASK)
