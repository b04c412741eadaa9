"""From an explanation to its `View`: pieces of text, rows of numbers and a headline. Views add colour."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from bcos_peft._utils.arguments import checked_arguments
from bcos_peft.explanation.contribution import Contribution, _Readings
from bcos_peft.explanation.views import (
    Piece,
    Row,
    View,
    format_score,
    is_exact,
    label_text,
    note_pieces,
    place_units,
    printable,
    strength_of,
    visible,
)
from bcos_peft.text import Span


_AVERAGE_WORDS = "average words"  # the label of what scores are relative to
_CONSTANTS = "constants"  # and of what belongs to no token


@checked_arguments
def layout(explanation: _Readings, words: bool = True, hide_special: bool = False, top: int = 5) -> View:
    """Lays out an explanation.

    Args:
        explanation (`Explanation`): What to show.
        words (`bool`, defaults to `True`): Merge tokens into words.
        hide_special (`bool`, defaults to `False`): Leave special tokens out of the text; their sum stays in the rows.
        top (`int`, defaults to 5): How many contributions get a row of their own.

    Returns:
        `View`: Strings and numbers only.
    """
    units = explanation.words(include_special=True) if words else _token_units(explanation)
    plain = [unit for unit in units if not unit.special]
    scale = max((abs(unit.score) for unit in plain or units), default=0.0)
    ranked = sorted(plain, key=lambda unit: -abs(unit.score))[: max(0, top)]

    def strength(score: float) -> float:
        return strength_of(score, scale)

    marked = {unit.token_indices for unit in ranked}
    lines = _Lines(explanation, strength, marked, scale).fill([u for u in units if not (u.special and hide_special)])
    rows = [Row(printable(visible(unit.text)), unit.score, strength(unit.score), "top") for unit in ranked]
    others = len(plain) - len(ranked)
    if others:
        noun = ("word" if words else "token") + ("s" if others > 1 else "")
        rest = sum(unit.score for unit in plain) - sum(unit.score for unit in ranked)
        rows.append(Row(f"{others} other {noun}", rest, strength(rest), "rest"))
    if any(explanation.special):
        label = "special tokens (hidden)" if hide_special else "special tokens"
        rows.append(Row(label, explanation.special_score, strength(explanation.special_score), "special"))
    if explanation.baseline is not None:
        rows.append(Row(_AVERAGE_WORDS, explanation.baseline, strength(explanation.baseline), "rest"))
    if explanation.constants is not None:
        rows.append(Row(_CONSTANTS, explanation.constants, strength(explanation.constants), "rest"))
    parts = [
        Row(printable(name.replace("_", " ")), float(part.sum()), strength(float(part.sum())), "part")
        for name, part in (explanation.parts or {}).items()
    ]

    target = label_text(explanation.target_label)
    foil = None if explanation.foil is None else label_text(explanation.foil_label or str(explanation.foil))
    return View(
        facts=_facts(explanation, target, foil),
        lines=lines.pieces,
        rows=rows,
        parts=parts,
        scale=scale,
        target=target,
        against=f"against {target}" if foil is None else f"for {foil}",
        logit_name="logit" if foil is None else "logit difference",
        total=explanation.total,
        logit=explanation.logit,
        residual=explanation.residual,
        exact=is_exact(explanation.residual, explanation.logit, explanation.scores),
        unseen=lines.unseen,
        note=explanation.note,
    )


def _share_a_character(one: tuple[int, int] | None, two: tuple[int, int] | None) -> bool:
    """Whether two tokens are parts of one character, each of some of its bytes."""
    return bool(one and two and one[0] < two[1] and two[0] < one[1])


class _Lines:
    """Puts units back into their texts: one list of pieces per text, with the characters between the units."""

    def __init__(self, explanation: _Readings, strength: Callable, marked: set[tuple[int, ...]], scale: float) -> None:
        self.explanation, self.strength, self.marked, self.scale = explanation, strength, marked, scale
        self.apart = _set_apart(explanation)
        self.pieces: list[list[Piece]] = []
        self.unseen = 0
        self.explained = set(_explained(explanation))

    def fill(self, units: Sequence[Contribution]) -> _Lines:
        lines: list[list[Contribution]] = [[] for _ in self.explanation.texts]
        current = 0
        for unit in units:  # a special token stands with the text that it follows
            current = current if unit.sequence_id is None else unit.sequence_id
            lines[current].append(unit)
        for text, line in zip(self.explanation.texts, lines, strict=True):
            pieces, unseen = place_units(text, line, self._piece, lambda place: _passage_of(place, self.apart))
            self.pieces.append(note_pieces(pieces, self.scale))
            self.unseen += unseen
        return self

    def _piece(self, unit: Contribution, text: str) -> Piece:
        return Piece(
            printable(text),
            "special" if unit.special else "word",
            unit.score,
            self.strength(unit.score),
            marked=unit.token_indices in self.marked,
            explained=not self.explained.isdisjoint(unit.token_indices),
            passage=None if unit.start is None else _passage_of((unit.start, unit.end), self.apart),
        )


def _set_apart(explanation: _Readings) -> list[Span]:
    """Messages that share a line with something else: what runs from right to left must not run into it."""
    if not explanation.segments or not isinstance(explanation.text, str):
        return []
    special = [
        place
        for place, flag in zip(explanation.offsets, explanation.special, strict=True)
        if flag and place is not None
    ]
    return _sharing_lines(explanation.text, explanation.segments.values(), special)


def _sharing_lines(text: str, passages: Iterable[Span], special: Iterable[Span]) -> list[Span]:
    """The passages on whose first or last line stands something else than special tokens."""
    inked = list(text)
    for low, high in special:
        inked[low:high] = [" " if character != "\n" else "\n" for character in inked[low:high]]
    shown = "".join(inked)
    return [
        (low, high)
        for low, high in passages
        if shown[:low].rpartition("\n")[2].strip() or shown[high:].partition("\n")[0].strip()
    ]


def _passage_of(place: Span, passages: Sequence[Span]) -> int | None:
    """The number of the passage that a stretch of text lies in."""
    inside = (i for i, (low, high) in enumerate(passages) if low <= place[0] < place[1] <= high)
    return next(inside, None)


def _token_units(explanation: _Readings) -> list[Contribution]:
    """Tokens, except that those which share a character (a part of its bytes each) come as one."""
    groups: list[list[int]] = []
    for i in range(len(explanation.tokens)):
        same_text = i > 0 and explanation.sequence_ids[i] == explanation.sequence_ids[i - 1] is not None
        shared = same_text and _share_a_character(explanation.offsets[i - 1], explanation.offsets[i])
        if shared and not explanation.special[i]:
            groups[-1].append(i)
        else:
            groups.append([i])
    return [explanation.merge(group, index=group[0]) for group in groups]


def _explained(explanation: _Readings) -> range:
    """The tokens whose outputs are explained: one, or from the first to the last of several."""
    if explanation.positions:
        return range(min(explanation.positions), max(explanation.positions) + 1)
    return range(0) if explanation.position is None else range(explanation.position, explanation.position + 1)


def _facts(explanation: _Readings, target: str, foil: str | None) -> list[tuple[str, str]]:
    predicted = explanation.predicted == explanation.target
    if explanation.positions and explanation.target_ids:  # answers, whose texts are their names
        predicted = explanation.predicted_label == explanation.target_label
    facts = [("predicted" if predicted and foil is None else "target", target)]
    if foil is not None:
        facts.append(("rather than", foil))
    if not predicted or foil is not None:
        facts.append(("predicted", label_text(explanation.predicted_label)))
    if explained := _explained(explanation):
        first, last = explained[0], explained[-1]
        place = str(first) if first == last else f"{first}–{last}"
        if not (explanation.positions and explanation.target_ids):
            place += " " + printable(visible(explanation.merge(explained, 0).text))
        facts.append(("at token" if first == last else "at tokens", place))
    if explanation.probability is not None:
        facts.append(("probability" if foil is None else f"probability of {target}", _probability(explanation)))
    facts.append(("logit" if foil is None else "logit difference", format_score(explanation.logit)))
    return facts


def _probability(explanation: _Readings) -> str:
    probability = explanation.probability
    if 0 < probability < 0.0005:
        return "<0.001"
    return ">0.999" if 0.9995 <= probability < 1 else f"{probability:.3f}"
