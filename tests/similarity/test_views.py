"""What is shown of an explained similarity: texts and numbers as plain values, in the terminal, and as a table."""

import io
import re

import numpy as np
import pytest
from helpers.similarities import far, hostile, near, pair, printed, right_to_left, tokens
from rich.console import Console

from bcos_peft.similarity import SimilarityExplanation
from bcos_peft.similarity.layout import _layout_difference, _layout_pair, _layout_ranking


# ---- layout ---------------------------------------------------------------------------------------------------------


def test_texts_are_whole_and_units_have_their_sums():
    view = _layout_pair(near())
    first, second = view.passages
    assert "".join(piece.text for piece in first.pieces) == "[CLS] A gripping film. [SEP]"
    assert "".join(piece.text for piece in second.pieces) == "[CLS] This movie,  seat [SEP]"
    scores = {piece.text: piece.score for piece in first.units}
    assert scores == {"[CLS]": 0.03125, "A": 0, "gripping": 0.3125, "film": 0.1875, ".": 0, "[SEP]": 0}
    assert [unit.strength for unit in second.units] == [0, 0, 1, pytest.approx(-0.0625 / 0.59375), 0]
    assert [unit.noted for unit in first.units] == [False, False, True, True, False, False]
    assert first.labels == ["[CLS]", "A", "gripping", "film", ".", "[SEP]"]


def test_lines_name_the_largest_pairs_and_sum():
    found = near()
    for top in (0, 1, 3, 50):
        view = _layout_pair(found, top=top)
        assert sum(line.scores[-1] for line in view.lines) == pytest.approx(found.total, abs=1e-12)
        named = [line for line in view.lines if line.kind == "top"]
        assert len(named) == min(top, 4 * 3)
        for line in named:
            _, i, j = line.place
            assert line.labels == [view.passages[0].labels[i], view.passages[1].labels[j]]
            assert view.pairs[0].matrix[i, j] == line.scores[0]
    view = _layout_pair(found, top=3)
    assert [(line.labels, line.scores) for line in view.lines] == [
        (["gripping", "movie,"], [0.375]),
        (["film", "movie,"], [0.1875]),
        (["gripping", "seat"], [-0.0625]),
        (["9 other pairs"], [0.0]),
        (["pairs with special tokens"], [0.03125]),
        (["constants"], [-0.03125]),
    ]
    assert view.scale == 0.375
    assert (view.name, view.value, view.terms) == ("cosine", 0.5, [("pairs", 0.53125), ("constants", -0.03125)])
    assert (view.residual, view.exact) == (0.0, True)


@pytest.mark.parametrize("by", ["token", "word", "sentence"])
@pytest.mark.parametrize("hide", [False, True])
@pytest.mark.parametrize("make", [near, hostile, right_to_left])
def test_what_is_shown_is_what_is_summed(make, hide, by):
    found = make()
    view = _layout_pair(found, by=by, hide_special=hide, top=4)
    (pairs,) = view.pairs
    assert pairs.matrix.shape == tuple(len(passage.units) for passage in view.passages)
    assert [len(passage.labels) for passage in view.passages] == list(pairs.matrix.shape)
    assert sum(line.scores[-1] for line in view.lines) == pytest.approx(found.total, abs=1e-12)
    kinds = {piece.kind for passage in view.passages for piece in passage.pieces}
    assert ("special" in kinds) is not hide
    if not hide:
        np.testing.assert_allclose([unit.score for unit in view.passages[0].units], pairs.matrix.sum(1))
        np.testing.assert_allclose([unit.score for unit in view.passages[1].units], pairs.matrix.sum(0))


def test_the_difference_is_of_words_of_the_query():
    found = near() - far()
    view = _layout_difference(found, top=2)
    assert [(line.labels, line.scores) for line in view.lines] == [
        (["gripping"], [0.3125, 0.125, 0.1875]),
        (["film"], [0.1875, 0.25, -0.0625]),
        (["2 other words"], [0.0, 0.0, 0.0]),
        (["special tokens"], [0.03125, -0.125, 0.15625]),
        (["constants"], [-0.03125, 0.0, -0.03125]),
    ]
    assert sum(line.scores[-1] for line in view.lines) == view.value == found.difference == 0.25
    assert [piece.strength for piece in view.passages[0].units if piece.kind == "word"] == [0, 1, -1 / 3, 0]
    assert [(pairs.a, pairs.b, pairs.matrix.shape) for pairs in view.pairs] == [(0, 1, (6, 5)), (0, 2, (6, 4))]
    assert [passage.name for passage in view.passages] == ["query", "first document", "second document"]
    assert [passage.scale for passage in view.passages] == [0.1875, 0.59375, 0.25]


def test_a_ranking_has_the_closest_first_in_the_same_colours():
    views = _layout_ranking([far(), near()])
    assert [view.value for view in views] == [0.5, 0.25]
    assert {view.scale for view in views} == {0.375}
    assert {tuple(passage.scale for passage in view.passages) for view in views} == {(0.3125, 0.59375)}


def test_what_does_not_sum_is_said():
    found = near(similarity=0.9)
    assert not _layout_pair(found).exact
    assert "+ residual 0.40 = cosine 0.900" in printed(found)
    assert "do not rely on it" in printed(found)
    assert "do not rely on it" not in printed(near())


def test_numbers_have_three_digits_of_the_largest_pair():
    view = _layout_pair(near())
    assert [view.number(value) for value in (0.375, -0.0004, 0.01)] == ["+0.375", "0.000", "+0.010"]
    assert view.amount(0.5) == "0.500"
    assert view.amount(-0.5) == "-0.500"
    big = _layout_pair(near(matrix=near().matrix * 1000, similarity=531.25, constants=None, function="dot"))
    assert (big.name, big.number(375.0)) == ("dot product", "+375.00")


def test_wrong_arguments_are_refused():
    for found in (near(), near() - far()):
        with pytest.raises(ValueError, match="top=-1 must not be negative"):
            found.show(top=-1)
        with pytest.raises(ValueError, match="by must be 'token', 'word' or 'sentence', got 'letter'"):
            found.to_html(by="letter")


# ---- terminal -------------------------------------------------------------------------------------------------------


def test_terminal():
    out = printed(near(), top=3)
    assert out.startswith("cosine 0.500\n")
    assert "gripping[+0.312] film[+0.188]." in out
    assert re.search(r"gripping – movie, +\+0\.375 +│█{12}\n", out)
    assert re.search(r"gripping – seat +-0\.062 +█{2}│", out)
    assert "pairs 0.531 - constants 0.031 + residual 0 = cosine 0.500" in out


def test_terminal_of_a_difference():
    out = printed(near() - far())
    assert "cosine of the first document 0.500  cosine of the second document 0.250  difference +0.250" in out
    assert re.search(r"film +\+0\.188 +\+0\.250 +-0\.062 ", out)
    assert "words of the query 0.281 - constants 0.031 + residual 0 = difference of the cosines 0.250" in out


def test_terminal_is_coloured_by_sums():
    console = Console(
        file=io.StringIO(), width=90, force_terminal=True, color_system="truecolor", legacy_windows=False
    )
    near().show(console=console)
    out = console.file.getvalue()
    strong, weak = (re.search(rf"48;2;(\d+);(\d+);(\d+)m{word}", out) for word in ("gripping", "film"))
    assert strong
    assert weak
    assert int(strong[3]) > int(weak[3]), "more blue"
    assert "+0.312]" not in out, "colours stand for numbers"


def test_terminal_is_not_steered_and_narrow_ones_have_no_bars():
    out = printed(hostile())
    assert "\x1b" not in out
    assert "[bold]x[/]" in out
    assert "█" not in printed(near(), width=50)
    assert "cosine 0.500" in printed(near(), encoding="ascii")
    assert "gripping - movie," in printed(near(), encoding="ascii")


def test_terminal_keeps_numbers_beside_words_from_right_to_left():
    mark = "\N{LEFT-TO-RIGHT MARK}"
    assert f"{mark}מגיעה{mark}" in printed(right_to_left(), top=50)


# ---- table ----------------------------------------------------------------------------------------------------------


def test_table_of_pairs():
    pytest.importorskip("pandas")
    found = near()
    table = found.to_pandas()
    assert list(table.columns) == ["a", "b", "score", "a_index", "b_index", "special"]
    assert len(table) == 6 * 5
    assert table.score.sum() == found.matrix.sum()
    best = table.loc[table.score.idxmax()]
    assert (best.a, best.b, best.score, best.a_index, best.b_index, best.special) == (
        *("gripping", "movie,", 0.375, 2, 2, False),
    )
    assert len(found.to_pandas(by="token")) == 7 * 5
    assert table[table.special].score.sum() == 0.03125


def test_table_of_a_difference():
    pytest.importorskip("pandas")
    found = near() - far()
    table = found.to_pandas()
    assert list(table.columns) == ["word", "first", "second", "difference", "index", "special"]
    assert table.difference.sum() == found.query_scores.sum()
    assert (table["first"] - table.second).tolist() == table.difference.tolist()
    assert "sentence" in found.to_pandas(by="sentence").columns


def test_a_table_needs_pandas(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        near().to_pandas()


def test_showing_changes_nothing():
    found = pair(tokens("a b"), tokens("c d e"))
    before = found.to_dict()
    found.show(console=Console(file=io.StringIO()))
    found.to_html()
    assert SimilarityExplanation.from_dict(before) == found
