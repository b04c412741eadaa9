"""Explanation: hand-computed sums, and what is refused."""

import numpy as np
import pytest
from helpers.explanations import FIELDS, empty, make, pair


# ---- reading -------------------------------------------------------------------------------------


def test_sums_and_residual():
    explanation = make(logit=1.0)
    assert explanation.total == 0.5
    assert explanation.special_score == 0.25
    assert explanation.residual == 0.5  # what the contributions do not account for
    assert make(logit=1.0, residual=1e-7).residual == 1e-7


def test_scores_are_float64_and_cannot_be_changed():
    explanation = make(scores=np.array(FIELDS["scores"], dtype=np.float32))
    assert explanation.scores.dtype == np.float64
    with pytest.raises(ValueError, match="read-only"):
        explanation.scores[0] = 1.0
    with pytest.raises(AttributeError):
        explanation.logit = 2.0


def test_scores_are_copied():
    scores = np.zeros(6)
    explanation = make(scores=scores)
    scores[0] = 1.0
    assert explanation.total == 0.0


def test_top_tokens():
    top = make().top(2)
    assert [(piece.text, piece.score, piece.index, piece.start, piece.end) for piece in top] == [
        ("happy", 3.0, 4, 9, 14),
        ("happy", -2.0, 2, 2, 7),  # the other "happy" stays apart
    ]
    assert [piece.text for piece in make().top(99)] == ["happy", "happy", "un", ","]
    assert make().top(0) == []


def test_top_with_special_tokens():
    first = make(scores=[9.0, 0, 0, 0, 0, -8.0]).top(2, include_special=True)
    assert [(piece.text, piece.special, piece.start) for piece in first] == [
        ("[CLS]", True, None),
        ("[SEP]", True, None),
    ]


def test_top_ties_keep_the_order_of_the_text():
    tied = make(scores=[0, 1.0, -1.0, 1.0, -1.0, 0]).top(4)
    assert [piece.index for piece in tied] == [1, 2, 3, 4]


def test_top_refuses_a_negative_k():
    with pytest.raises(ValueError, match="k=-1"):
        make().top(-1)


def test_words():
    words = make().words()
    assert [(word.text, word.score, word.start, word.end, word.index) for word in words] == [
        ("unhappy", -3.0, 0, 7, 0),
        (",", 0.25, 7, 8, 1),
        ("happy", 3.0, 9, 14, 2),
    ]
    assert words[0].token_indices == (1, 2)


def test_words_with_special_tokens_sum_to_the_total():
    words = make().words(include_special=True)
    assert [word.text for word in words] == ["[CLS]", "unhappy", ",", "happy", "[SEP]"]
    assert sum(word.score for word in words) == make().total


def test_words_of_a_pair_know_their_text():
    words = pair().words()
    assert [(word.text, word.score, word.sequence_id, word.start, word.end) for word in words] == [
        ("good", 1.0, 0, 0, 4),
        ("goodness", -3.0, 1, 1, 9),
    ]


def test_spans():
    one, two = make().spans([(0, 7), ","])
    assert (one.text, one.score, one.index, one.token_indices) == ("unhappy", -3.0, 0, (1, 2))
    assert (two.text, two.score, two.index) == (",", 0.25, 1)


def test_span_counts_a_token_it_only_touches():
    assert make().spans([(6, 7)])[0].score == -2.0


def test_token_over_two_spans_is_divided_by_characters():
    first, second = make().spans([(0, 3), (3, 7)])  # ##happy has 1 character in the first, 4 in the second
    assert first.score == pytest.approx(-1.0 - 2.0 * 1 / 5)
    assert second.score == pytest.approx(-2.0 * 4 / 5)


def test_spans_do_not_count_leading_space():
    explanation = pair()
    assert explanation.spans([(0, 1)], sequence_id=1)[0].score == 0.0
    assert explanation.spans(["goodness"], sequence_id=1)[0].score == -3.0
    assert explanation.spans(["good"])[0].score == 1.0


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ([(0, 99)], "outside the text of 14"),
        ([(3, 3)], "empty"),
        ([(0, 5), (4, 7)], "overlap"),
        (["happy"], "occurs 2 times"),
        (["sad"], "occurs 0 times"),
        ([""], "occurs 0 times"),
    ],
)
def test_spans_refused(spans, message):
    with pytest.raises(ValueError, match=message):
        make().spans(spans)


def test_spans_of_a_text_that_is_not_there():
    with pytest.raises(ValueError, match="sequence_id=1"):
        make().spans([(0, 1)], sequence_id=1)


def test_empty_and_single():
    nothing = empty()
    assert (nothing.total, nothing.special_score, nothing.residual) == (0.0, 0.0, 0.0)
    assert nothing.top() == nothing.words() == nothing.words(include_special=True) == []
    one = make(
        tokens=["hi"], scores=[2.0], text="hi", offsets=[(0, 2)], sequence_ids=[0], special=[False], token_ids=[7],
        logit=2.0,
    )  # fmt: skip
    assert [(word.text, word.score) for word in one.words()] == [("hi", 2.0)]


def test_tokens_without_a_place_are_words_of_their_own():
    explanation = make(offsets=[None] * 6)
    assert [word.text for word in explanation.words()] == ["un", "##happy", ",", "happy"]


def test_repr_is_short():
    text = repr(make(foil=0, foil_label="negative"))
    assert text.startswith("Explanation(target='positive', foil='negative', logit=+0.5, residual=0.0e+00, tokens=6")
    assert "'unhappy' -3" in text
    assert "nothing" in repr(empty())


# ---- refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": [0.0, float("nan"), 0, 0, 0, 0]}, r"scores\[1\] is nan"),
        ({"scores": [0.0, 0, 0, 0, 0, float("inf")]}, r"scores\[5\] is inf"),
        ({"scores": [1.0]}, r"scores has shape \(1,\) for 6 tokens"),
        ({"scores": [[0.0] * 6]}, r"scores has shape \(1, 6\)"),
        ({"offsets": [None]}, "offsets has 1 values for 6 tokens"),
        ({"sequence_ids": [0] * 7}, "sequence_ids has 7 values"),
        ({"special": []}, "special has 0 values"),
        ({"token_ids": [1]}, "token_ids has 1 values"),
        ({"word_ids": [1]}, "word_ids has 1 values"),
        ({"parts": {"word": [1.0]}}, r"parts\['word'\] has shape"),
        ({"parts": {"word": [float("nan")] * 6}}, r"parts\['word'\]\[0\] is nan"),
        ({"logit": float("nan")}, "logit is nan"),
        ({"residual": float("inf")}, "residual is inf"),
        ({"probability": 1.5}, "probability=1.5"),
        ({"probability": float("nan")}, "probability is nan"),
        ({"offsets": [None, (0, 2), (2, 7), (7, 8), (9, 15), None]}, r"offsets\[4\]=\(9, 15\) lies outside"),
        ({"offsets": [None, (2, 0), (2, 7), (7, 8), (9, 14), None]}, r"offsets\[1\]=\(2, 0\)"),
        ({"sequence_ids": [None, 0, 0, 1, 0, None]}, r"sequence_ids\[3\]=1"),
        ({"text": 3}, "text must be"),
        ({"text": ("a", "b", "c")}, "text must be"),
        ({"position": 6}, "position=6"),
        ({"position": -1}, "position=-1"),
    ],
)
def test_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)
