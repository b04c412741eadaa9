"""Contributions summed by passage."""

import numpy as np
import pytest

from bcos_peft import Explanation
from bcos_peft.text import occurrences, shares


TEXT = "Paris is big. Rome is old."


def make(scores=(0.5, 1.0, 2.0, 4.0, 8.0, 16.0), **changes):
    fields = {
        "tokens": ["<s>", "Paris", " is big.", " Rome", " is", " old."],
        "scores": list(scores),
        "text": TEXT,
        "offsets": [None, (0, 5), (5, 13), (13, 18), (18, 21), (21, 26)],
        "sequence_ids": [None, 0, 0, 0, 0, 0],
        "special": [True] + [False] * 5,
        "token_ids": [1, 2, 3, 4, 5, 6],
        "target": 7,
        "target_label": " Rome",
        "predicted": 7,
        "predicted_label": " Rome",
        "logit": float(sum(scores)) + 1e-9,
        "probability": 0.5,
    }
    return Explanation(**(fields | changes))


def test_segments_and_the_rest_are_all_there_is():
    explanation = make()
    sums = explanation.by_segment({"second": "Rome is old.", "first": (0, 13)})
    assert sums == {"second": 28.0, "first": 3.0, "rest": 0.5}
    assert list(sums) == ["second", "first", "rest"]
    assert sum(sums.values()) + explanation.residual == pytest.approx(explanation.logit, abs=1e-12)


def test_a_token_between_two_segments_is_divided_by_characters():
    sums = make().by_segment({"is": (6, 8), "big": (9, 13)})
    assert sums["is"] == pytest.approx(2.0 * 2 / 6)
    assert sums["big"] == pytest.approx(2.0 * 4 / 6)
    assert sum(sums.values()) == pytest.approx(make().total)


def test_white_space_at_the_ends_of_a_token_is_in_no_segment():
    assert make().by_segment({"first": (0, 14)})["first"] == 3.0


def test_segments_of_a_chat_come_by_themselves():
    explanation = make(segments={"user": (0, 13), "assistant": (14, 26)})
    assert explanation.by_segment() == {"user": 3.0, "assistant": 28.0, "rest": 0.5}
    assert explanation.by_segment({"all": TEXT}) == {"all": 31.0, "rest": 0.5}
    loaded = Explanation.from_dict(explanation.to_dict())
    assert loaded == explanation
    assert loaded.segments == {"user": (0, 13), "assistant": (14, 26)}


def test_special_tokens_with_a_place_count_where_they_are():
    offsets = [(0, 1), (0, 5), (5, 13), (13, 18), (18, 21), (21, 26)]
    assert make(offsets=offsets).by_segment({"first": (0, 13)})["first"] == 3.5


@pytest.mark.parametrize(
    ("segments", "error", "message"),
    [
        (None, ValueError, "segments is missing"),
        ({}, ValueError, "segments is empty"),
        (["Paris"], TypeError, "must be a dict"),
        ({"a": "London"}, ValueError, r"segments\['a'\]: 'London' does not occur"),
        ({"a": ""}, ValueError, "does not occur"),
        ({"a": "is"}, ValueError, r"'is' occurs 3 times in the text, at \(3, 5\), \(6, 8\), \(19, 21\)"),
        ({"a": (3, 3)}, ValueError, r"the span \(3, 3\) is empty"),
        ({"a": (0, 27)}, ValueError, "outside the text of 26 characters"),
        ({"a": 3}, TypeError, r"segments\['a'\] must be a substring or a span"),
        ({3: "Paris"}, TypeError, "the name 3"),
        ({"rest": "Paris"}, ValueError, "has the name 'rest'"),
        ({"a": (0, 8), "b": (7, 13)}, ValueError, r"segments\['a'\] \(0, 8\) and segments\['b'\] \(7, 13\) overlap"),
    ],
)
def test_what_cannot_be_placed_is_refused(segments, error, message):
    with pytest.raises(error, match=message):
        make().by_segment(segments)


def test_of_a_pair_whose_second_text_is_empty():
    assert make(text=(TEXT, "")).by_segment({"a": "Paris"}) == make().by_segment({"a": "Paris"})
    assert list(make(text=(TEXT, "")).by_segment()) == ["first", "rest"]


def test_occurrences_overlap():
    assert occurrences("aaa", "aa") == [(0, 2), (1, 3)]


def test_empty_places_lie_in_the_span_that_holds_them():
    assert shares("ab", [(1, 1), (2, 2), None], [(0, 1), (1, 2)]).tolist() == [[0, 0, 0], [1, 0, 0]]
    assert np.all(shares("ab", [(0, 2)], [(0, 1), (1, 2)]) == 0.5)
