"""Metrics over pairs: numbers by hand, and what a good and a bad order give."""

import numpy as np
import pytest
from helpers.similarity import PAIR, PAIRS, model, reader
from helpers.tiny import tokenizer

from bcos_peft.evaluation import JoinedDocument, evaluate_similarity
from bcos_peft.evaluation.similarity import (
    PairScores,
    SimilarityComprehensiveness,
    SimilarityPointingGame,
    SimilaritySufficiency,
    get_similarity_method,
    similarity_curves,
)


def scores_of(one, pair=PAIR, seed=0):
    return get_similarity_method("random", seed=seed)(one, *pair)


@pytest.mark.parametrize("way", ["mask", "delete"])
@pytest.mark.parametrize("keep", [False, True])
def test_curves_by_hand(keep, way):
    one = reader(converted=False)
    scores = scores_of(one)
    found = similarity_curves(one, *PAIR, scores, keep=keep, fractions=(0.2, 0.5), perturbation=way)
    texts = []
    for text, values, counts in zip(PAIR, (scores.a, scores.b), ((1, 4), (1, 3)), strict=True):
        order = np.argsort(-values)
        assert len(order) == {PAIR[0]: 7, PAIR[1]: 5}[text]
        texts.append([one.hidden(text, order[n:] if keep else order[:n], way) for n in counts])
    a, b = one.embeddings([one.encoding(text) for text in PAIR])
    for i in range(2):
        left, right = one.embeddings([texts[0][i], texts[1][i]])
        assert found["both"][i] == pytest.approx(float(a @ b - left @ right), abs=1e-6)
        assert found["a"][i] == pytest.approx(float(a @ b - left @ b), abs=1e-6)
        assert found["b"][i] == pytest.approx(float(a @ b - a @ right), abs=1e-6)
    metric = (SimilaritySufficiency if keep else SimilarityComprehensiveness)(way, fractions=(0.2, 0.5))
    values = metric.measure(one, PAIR, scores)
    assert values[metric.name] == pytest.approx(found["both"].mean())
    assert values[f"{metric.name}_one"] == pytest.approx((found["a"].mean() + found["b"].mean()) / 2)


def test_all_words_hidden_is_the_same_for_all():
    one = reader(converted=False)
    ends = [similarity_curves(one, *PAIR, scores_of(one, seed=seed), fractions=(1.0,)) for seed in (0, 1)]
    assert ends[0]["both"] == pytest.approx(ends[1]["both"], abs=1e-9)
    kept = similarity_curves(one, *PAIR, scores_of(one), keep=True, fractions=(1.0,))
    assert kept["both"] == pytest.approx([0.0], abs=1e-9)


def test_an_order_that_knows_the_falls_is_best():
    """Of one word of one text, none takes the cosine down as far as the one that occlusion ranks first."""
    one = reader(converted=False)
    metric = SimilarityComprehensiveness(fractions=(0.01,))
    values = {
        name: metric.measure(one, PAIR, get_similarity_method(name)(one, *PAIR))["comprehensiveness_one"]
        for name in ("occlusion", "token_matching", "random", "input_x_gradient")
    }
    assert values["occlusion"] == max(values.values()) > values["random"]


def test_pointing_by_hand():
    one = reader()
    first, second = "We loved the music.", "dull"
    words = len(one.words(first))
    assert len(one.words(f"{first} {second}")) == words + 1
    game = SimilarityPointingGame()

    def measured(scores, related):
        document = JoinedDocument("great", first, second, related)
        return game.measure(one, document, PairScores([0.0], scores))

    even = np.full(words, 1.0)
    assert measured([*even, 2.0], 0) == {"pointing": 1.0, "pointing_share": pytest.approx(words / (words + 2))}
    assert measured([*even, 2.0], 1) == {"pointing": 0.0, "pointing_share": pytest.approx(2 / (words + 2))}
    mixed = even.copy()
    mixed[0] = -9.0
    assert measured([*mixed, 2.0], 1)["pointing"] == 1.0, "what speaks against counts in the sums"
    assert measured([*mixed, 2.0], 1)["pointing_share"] == pytest.approx(2 / (words + 1))
    assert measured(np.zeros(words + 1), 1) == {"pointing": 0.5, "pointing_share": 0.0}


def test_results_have_intervals_tests_and_costs():
    result = evaluate_similarity(model(), PAIRS, tokenizer=tokenizer(), pooling="mean", progress=False)
    assert result.rows == [("B-cos", name) for name in ("bcos", "occlusion", "random")]
    assert list(result.values) == ["comprehensiveness", "comprehensiveness_one", "sufficiency", "sufficiency_one"]
    summary = result.summary()["B-cos", "bcos"]["comprehensiveness"]
    assert summary.count == 3
    assert summary.low <= summary.mean <= summary.high
    test = result.compare("bcos", "random", "comprehensiveness")
    assert 0 < test.p_value <= 1
    assert result.costs["B-cos + bcos"]["forward_rows_per_example"] == 2
    one = reader()
    by_hand = SimilarityComprehensiveness().measure(one, PAIRS[1], get_similarity_method("occlusion")(one, *PAIRS[1]))
    found = [r.values for r in result.records if r.method == "occlusion" and r.metric == "comprehensiveness"][1]
    assert found == pytest.approx(by_hand, abs=1e-6)


def test_documents_and_methods_of_ones_own():
    class Longest:
        name = "longest"

        def __call__(self, one, a, b):
            return PairScores(*([len(word.text) for word in one.words(text)] for text in (a, b)))

    documents = [
        JoinedDocument("great", "dull", "We loved the music.", 1),
        JoinedDocument("great", "Don't", "ending", 1),
    ]
    result = evaluate_similarity(
        model(False), documents, [Longest()], tokenizer=tokenizer(), pooling="mean", label="tiny", progress=False
    )
    assert [record.values["pointing"] for record in result.records] == [1.0, 1.0]
    assert result.rows == [("tiny", "longest")]


def test_what_is_wrong_is_said():
    options = {"tokenizer": tokenizer(), "pooling": "mean"}
    document = JoinedDocument("a", "b", "c", 0)
    with pytest.raises(ValueError, match="pairs is empty"):
        evaluate_similarity(model(), [], **options)
    with pytest.raises(TypeError, match=r"pairs\[1\] must be two texts, or a JoinedDocument; got \('a',\)"):
        evaluate_similarity(model(), [PAIR, ("a",)], **options)
    with pytest.raises(TypeError, match="evaluate them apart"):
        evaluate_similarity(model(), [PAIR, document], **options)
    with pytest.raises(ValueError, match="Two methods are called 'random'"):
        evaluate_similarity(model(), [PAIR], ["random", "random"], **options)
    with pytest.raises(ValueError, match="related must be 0 or 1, got 2"):
        JoinedDocument("a", "b", "c", 2)
    with pytest.raises(ValueError, match="fractions must be numbers in rising order"):
        SimilaritySufficiency(fractions=(0.5, 0.2))
    with pytest.raises(ValueError, match="perturbation must be 'mask' or 'delete', got 'pad'"):
        SimilarityComprehensiveness("pad")
    with pytest.raises(ValueError, match=r"scores of shape \(1,\) for the 7 words"):
        similarity_curves(reader(), *PAIR, PairScores([0.0], [0.0] * 5))
