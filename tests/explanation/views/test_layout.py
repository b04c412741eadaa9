"""What is shown: every number, and the text as it is."""

import pytest
from helpers.views import make, plain, review

from bcos_peft.explanation import Explanation, layout
from bcos_peft.explanation.views import format_residual, format_score, printable, visible


# ---- numbers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "scale", "text"),
    [
        (3.214, None, "+3.21"),
        (-0.5, None, "-0.50"),
        (0.0, None, "0.00"),
        (-0.001, 3.0, "0.00"),
        (1234.5, None, "+1234.50"),
        (0.0123, None, "+0.012"),
        (0.5, 0.0123, "+0.500"),
        (1e-7, None, "+1.00e-07"),
    ],
)
def test_format_score(value, scale, text):
    assert format_score(value, scale) == text


@pytest.mark.parametrize(
    ("value", "text"), [(1.2e-7, "1e-7"), (-3e-16, "-3e-16"), (0.0, "0"), (0.5, "+0.50"), (-12.0, "-12.00")]
)
def test_format_residual(value, text):
    assert format_residual(value) == text


def test_visible_and_printable():
    assert visible(" film\n") == "␣film↵"
    assert visible("\n") == "↵"
    assert visible("") == ""
    assert visible("two words") == "two words"
    assert printable("a\x1b[2Jb\x00\x7f\x9b\u202e\ud800\tc\n") == "a␛[2Jb␀����\tc\n"


# ---- layout --------------------------------------------------------------------------------------


def test_layout_keeps_the_text_and_its_spacing():
    (line,) = layout(review()).lines
    assert "".join(piece.text for piece in line) == "[CLS] A gripping,  dull film [SEP]"
    assert [piece.text for piece in line if piece.kind == "word"] == ["A", "gripping", ",", "dull", "film"]
    assert [piece.score for piece in line if piece.text == "gripping"] == [2.0]


def test_layout_of_tokens():
    (line,) = layout(review(), words=False).lines
    assert [piece.text for piece in line if piece.kind == "word"] == ["A", "grip", "ping", ",", "dull", "film"]


def test_strength_is_relative_to_the_largest_word():
    view = layout(review())
    assert view.scale == 2.0
    assert [piece.strength for piece in view.lines[0] if piece.text == "dull"] == [-0.625]
    zeros = layout(make("a b", ["a", "b"], [0.0, 0.0]))
    assert [piece.strength for piece in zeros.lines[0]] == [0.0, 0.0, 0.0]


def test_large_special_tokens_do_not_drown_the_words():
    view = layout(make("a b", ["[CLS]", "a", "b"], [50.0, 1.0, -0.5], special=("[CLS]",)))
    assert view.scale == 1.0
    assert [piece.strength for piece in view.lines[0] if piece.text.strip()] == [1.0, 1.0, -0.5]


@pytest.mark.parametrize("words", [True, False])
@pytest.mark.parametrize("hide_special", [True, False])
@pytest.mark.parametrize("top", [0, 2, 99])
def test_rows_sum_to_the_total(words, hide_special, top):
    explanation = review()
    rows = layout(explanation, words=words, hide_special=hide_special, top=top).rows
    assert sum(row.score for row in rows) == pytest.approx(explanation.total, abs=1e-12)


def test_rows():
    rows = [(row.label, round(row.score, 9), row.kind) for row in layout(review(), top=2, hide_special=True).rows]
    assert rows == [
        ("gripping", 2.0, "top"),
        ("dull", -1.25, "top"),
        ("3 other words", 0.29, "rest"),
        ("special tokens (hidden)", 0.12, "special"),
    ]


def test_characters_of_several_tokens_are_shown_once():
    explanation = make("né", ["n"], [6.0]).to_dict()
    explanation.update(
        tokens=["n", "Ã", "©"],
        scores=[1.0, 2.0, 3.0],
        offsets=[(0, 1), (1, 2), (1, 2)],
        sequence_ids=[0, 0, 0],
        special=[False] * 3,
        token_ids=[1, 2, 3],
        word_ids=None,
    )
    (line,) = layout(Explanation.from_dict(explanation), words=False).lines
    assert [(piece.text, piece.score) for piece in line] == [("n", 1.0), ("é", 5.0)]


def test_text_beyond_the_last_token_is_marked():
    view = layout(make("seen " + "x" * 200, ["seen"], [1.0]))
    assert view.unseen == 200
    assert [(piece.kind, len(piece.text)) for piece in view.lines[0]] == [("word", 4), ("unseen", 81)]
    assert "200 characters were not seen by the model" in plain(make("seen " + "x" * 200, ["seen"], [1.0]))


def test_line_breaks_that_contribute_are_shown():
    explanation = make("a\nb", ["a", "\n", "b"], [1.0, -2.0, 1.0])
    (line,) = layout(explanation, words=False).lines
    assert [piece.text for piece in line] == ["a", "↵\n", "b"]
    assert layout(explanation, words=False).rows[0].label == "↵"


def test_tokens_without_places_are_shown_as_they_are():
    fields = dict(review().to_dict(), offsets=[None] * 8, word_ids=None)
    (line,) = layout(Explanation.from_dict(fields)).lines
    assert "".join(piece.text for piece in line) == "[CLS] A grip ping , dull film [SEP]"


def test_numbers_below_the_text_do_not_collide():
    view = layout(make("a b c d", ["a", "b", "c", "d"], [1.0, 0.9, 0.8, 0.05]))
    assert [piece.text for piece in view.lines[0] if piece.noted] == ["a"]
