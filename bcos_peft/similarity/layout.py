"""From explained similarities to their `SimilarityView`: texts, rows of numbers and a headline. Views add colour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bcos_peft.explanation import Contribution
from bcos_peft.explanation.views import (
    Piece,
    is_exact,
    label_text,
    note_pieces,
    place_units,
    printable,
    strength_of,
)
from bcos_peft.similarity.tokens import TextTokens
from bcos_peft.similarity.views import Line, Pairs, Passage, SimilarityView


if TYPE_CHECKING:
    from bcos_peft.similarity.explanation import SimilarityDifference, SimilarityExplanation

_NAMES = {"cosine": "cosine", "dot": "dot product"}
_RAISES = "lowers", "raises"
_NOTED = 6  # units of a text that may have their number below them
_LONGEST_LABEL = 60


def _layout_pair(
    found: SimilarityExplanation,
    by: str = "word",
    hide_special: bool = False,
    top: int = 10,
    names: Sequence[str] = ("first text", "second text"),
    scales: tuple[float, float, float] | None = None,
) -> SimilarityView:
    """Lays out the similarity of two texts.

    Args:
        found (`SimilarityExplanation`): What to show.
        by (`"token"`, `"word"` or `"sentence"`): The units.
        hide_special (`bool`): Leave special tokens out of the texts; their sum stays in the table.
        top (`int`): How many pairs get a line of their own.
        names (`Sequence[str]`): What the texts are called.
        scales (`tuple[float, float, float]`, *optional*): What has strength 1 in either text, and of the pairs; by
            default what is largest.

    Raises:
        ValueError: `by` is none of these, or `top` is negative.
    """
    _check_top(top)
    name = _NAMES[found.function]
    table = found.table(by)
    plain_a, plain_b = (np.array([not unit.special for unit in units], dtype=bool) for units in (table.a, table.b))
    plain = table.matrix * np.outer(plain_a, plain_b)
    a_scale, b_scale, scale = scales or _scales([found], by)
    count = int(plain_a.sum()) * int(plain_b.sum())
    order = np.argsort(np.where(np.outer(plain_a, plain_b), -np.abs(plain), 1.0), axis=None, kind="stable")
    ranked = [np.unravel_index(i, plain.shape) for i in order[: min(top, count)]]
    kept_a, kept_b = (np.flatnonzero(kept | (not hide_special)) for kept in (plain_a, plain_b))
    place_a, place_b = ({int(old): new for new, old in enumerate(kept)} for kept in (kept_a, kept_b))
    lines = [
        Line(
            [_label(table.a[i]), _label(table.b[j])],
            [float(plain[i, j])],
            strength_of(float(plain[i, j]), scale),
            "top",
            (0, place_a[int(i)], place_b[int(j)]),
        )
        for i, j in ranked
    ]
    rest = float(plain.sum()) - sum(line.scores[0] for line in lines)
    sums = []
    if count > top:
        sums.append((f"{count - top:,} other pair{'s' * (count > top + 1)}", rest, "rest"))
    if not (plain_a.all() and plain_b.all()):
        hidden = " (hidden)" if hide_special else ""
        sums.append((f"pairs with special tokens{hidden}", float(table.matrix.sum() - plain.sum()), "special"))
    if found.constants is not None:
        sums.append(("constants", found.constants, "rest"))
    lines += [Line([label], [score], strength_of(score, scale), kind) for label, score, kind in sums]
    terms = [("pairs", float(found.matrix.sum()))]
    terms += [] if found.constants is None else [("constants", found.constants)]
    view = SimilarityView(
        facts=[],
        passages=[
            _passage(found.a, [table.a[i] for i in kept_a], names[0], a_scale, _RAISES),
            _passage(found.b, [table.b[i] for i in kept_b], names[1], b_scale, _RAISES),
        ],
        pairs=[Pairs(0, 1, table.matrix[np.ix_(kept_a, kept_b)])],
        scale=scale,
        heads=[f"pairs of {by}s that add most", name],
        lines=lines,
        name=name,
        value=found.similarity,
        terms=terms,
        residual=found.residual,
        exact=is_exact(found.residual, found.similarity, found.matrix),
    )
    view.facts.append((name, view.amount(view.value)))
    return view


def _layout_difference(
    found: SimilarityDifference, by: str = "word", hide_special: bool = False, top: int = 10
) -> SimilarityView:
    """Lays out why one document is closer to a query than another; arguments as in `_layout_pair`."""
    _check_top(top)
    name = f"difference of the {_NAMES[found.first.function]}s"
    scale = _scales([found.first, found.second], by)[2]
    documents = [
        _layout_pair(one, by, hide_special, 0, ("query", which), (1.0, _scales([one], by)[1], scale))
        for one, which in ((found.first, "first document"), (found.second, "second document"))
    ]
    units, ones, twos = (
        found.first.a.units(by, scores) for scores in (found.query_scores, found.first.a_scores, found.second.a_scores)
    )
    plain = [unit for unit in units if not unit.special]
    largest = max((abs(unit.score) for unit in plain or units), default=0.0)
    kept = [i for i, unit in enumerate(units) if not (unit.special and hide_special)]
    ranked = sorted((i for i, unit in enumerate(units) if not unit.special), key=lambda i: -abs(units[i].score))

    def line(labels: list[str], members: Sequence[int], kind: str, place: tuple[int, int, int] | None = None) -> Line:
        scores = [sum(some[i].score for i in members) for some in (ones, twos, units)]
        return Line(labels, scores, strength_of(scores[-1], largest), kind, place)

    lines = [line([_label(units[i])], [i], "top", (0, kept.index(i), -1)) for i in ranked[:top]]
    if ranked[top:]:
        lines.append(line([f"{len(ranked) - top} other {by}{'s' * (len(ranked) > top + 1)}"], ranked[top:], "rest"))
    special = [i for i, unit in enumerate(units) if unit.special]
    if special:
        lines.append(line(["special tokens (hidden)" if hide_special else "special tokens"], special, "special"))
    terms = [(f"{by}s of the query", float(found.query_scores.sum()))]
    if found.constants is not None:
        scores = [found.first.constants or 0.0, found.second.constants or 0.0, found.constants]
        lines.append(Line(["constants"], scores, strength_of(found.constants, largest), "rest"))
        terms.append(("constants", found.constants))
    kinds = "for the second", "for the first"
    sizes = np.array([np.abs(one.matrix).sum() for one in (found.first, found.second)])
    view = SimilarityView(
        facts=[],
        passages=[
            _passage(found.first.a, [units[i] for i in kept], "query", largest, kinds),
            *(document.passages[1] for document in documents),
        ],
        pairs=[Pairs(0, number, document.pairs[0].matrix) for number, document in enumerate(documents, start=1)],
        scale=scale,
        heads=[f"{by}s of the query that decide most", "first", "second", "difference"],
        lines=lines,
        name=name,
        value=found.difference,
        terms=terms,
        residual=found.residual,
        exact=is_exact(found.residual, found.difference, sizes),
    )
    for which, one in (("first", found.first), ("second", found.second)):
        view.facts.append((f"{_NAMES[one.function]} of the {which} document", view.amount(one.similarity)))
    view.facts.append(("difference", view.number(view.value)))
    return view


def _layout_ranking(
    found: Sequence[SimilarityExplanation], by: str = "word", hide_special: bool = False, top: int = 5
) -> list[SimilarityView]:
    """Lays out a query with each of its documents, the closest first, in the same strengths of colour."""
    ranked = sorted(found, key=lambda one: -one.similarity)
    scales = _scales(ranked, by)
    return [_layout_pair(one, by, hide_special, top, ("query", "document"), scales) for one in ranked]


def _scales(found: Sequence[SimilarityExplanation], by: str) -> tuple[float, float, float]:
    """What is largest: a sum of either text, and a pair; of special tokens only where there is nothing else."""
    largest = [0.0, 0.0, 0.0]
    for one in found:
        table = one.table(by)
        for place, values, units in (
            (0, table.matrix.sum(1), [table.a]),
            (1, table.matrix.sum(0), [table.b]),
            (2, table.matrix, [table.a, table.b]),
        ):
            plain = [[i for i, unit in enumerate(side) if not unit.special] for side in units]
            chosen = values[np.ix_(*plain)] if all(plain) else values
            largest[place] = max(largest[place], float(np.abs(chosen).max(initial=0.0)))
    return tuple(largest)


def _passage(
    text: TextTokens, units: Sequence[Contribution], name: str, scale: float, kinds: tuple[str, str]
) -> Passage:
    ranked = sorted((unit for unit in units if not unit.special), key=lambda unit: -abs(unit.score))
    marked = {unit.token_indices for unit in ranked[:_NOTED]}

    def piece(unit: Contribution, shown: str) -> Piece:
        kind = "special" if unit.special else "word"
        return Piece(printable(shown), kind, unit.score, strength_of(unit.score, scale), unit.token_indices in marked)

    pieces, unseen = place_units(text.text, units, piece)
    return Passage(name, note_pieces(pieces, scale / 10), [_label(unit) for unit in units], scale, kinds, unseen)


def _label(unit: Contribution) -> str:
    label = label_text(unit.text)
    return label if len(label) <= _LONGEST_LABEL else label[: _LONGEST_LABEL - 1] + "…"


def _check_top(top: int) -> None:
    if top < 0:
        raise ValueError(f"top={top} must not be negative.")
