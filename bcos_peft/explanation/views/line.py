"""A text as pieces: units of it put back in their places, and numbers below those that have room for one."""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from bcos_peft.explanation.views.text import format_score, printable, visible
from bcos_peft.explanation.views.view import Piece


_LONGEST_UNSEEN = 80  # characters of text beyond the last token that are still printed
_NOTE_WIDTH = 0.68  # characters of text that one of a number below it takes up
_NOTE_MARGIN = 2.1  # characters of text between two numbers
_NARROW = 0.6  # of a Latin letter: those of connected scripts
_VIRAMA = 9  # the combining class of marks that join a letter to the next one
_TOLERANCE = 0.01  # residual, relative to the scores, from which the explanation is called inexact
_WEAK = 0.15  # strengths below this get no number below them


class _Unit(Protocol):
    """A word or token; `start` and `end` are its place, `None` where it has none."""

    text: str
    start: int | None
    end: int | None
    special: bool


def strength_of(score: float, scale: float) -> float:
    """A contribution from -1 to 1, relative to the one that is `scale`."""
    return max(-1.0, min(1.0, score / scale)) if scale > 0 else 0.0


def is_exact(residual: float, logit: float, scores: np.ndarray) -> bool:
    """Whether contributions sum to what they should, as far as a reader is concerned."""
    return abs(residual) <= _TOLERANCE * max(abs(logit), float(abs(scores).sum()), 1e-12)


def place_units(
    text: str,
    units: Sequence[_Unit],
    piece_of: Callable[[_Unit, str], Piece],
    passage_of: Callable[[tuple[int, int]], int | None] = lambda place: None,
) -> tuple[list[Piece], int]:
    """Puts units back into their text, with the characters between them.

    Args:
        text (`str`): The text.
        units: Words, tokens or special tokens, in order, with `text`, `start`, `end` and `special`.
        piece_of (`Callable`): The piece of a unit, from the unit and the characters that are shown for it.
        passage_of (`Callable`, *optional*): The number of the passage that a stretch of text between units lies in.

    Returns:
        `tuple[list[Piece], int]`: One piece for each unit, in order, others between them; and how many characters no
        unit covers.
    """
    pieces: list[Piece] = []
    unseen = 0
    # Without places in the text (a slow tokenizer) the tokens themselves have to do.
    loose = any(unit.start is None and not unit.special for unit in units)
    cursor = len(text) if loose else 0
    for unit in units:
        if loose or unit.start is None:
            if pieces and pieces[-1].kind != "special" and not pieces[-1].text[-1:].isspace():
                pieces.append(Piece(" ", "space"))
            _append(pieces, piece_of(unit, visible(unit.text)))
            continue
        between, passage = text[cursor : unit.start], passage_of((cursor, unit.start))
        if between.strip():
            unseen += len(between.strip())
            _append(pieces, Piece(printable(between), "unseen", passage=passage))
        elif between and pieces:  # leading white space says nothing
            pieces.append(Piece(printable(between), "space", passage=passage))
        shown = text[max(cursor, unit.start) : unit.end] or unit.text
        # White space may carry a contribution too; marks make it visible.
        shown = shown if shown.strip() else "".join(_space_mark(character) for character in shown)
        _append(pieces, piece_of(unit, shown))
        cursor = max(cursor, unit.end)
    tail = text[cursor:].rstrip()
    if tail:
        unseen += len(tail.strip())
        shown = tail if len(tail) <= _LONGEST_UNSEEN else tail[:_LONGEST_UNSEEN] + "…"
        _append(pieces, Piece(printable(shown), "unseen"))
    return pieces, unseen


def _append(pieces: list[Piece], piece: Piece) -> None:
    """Keeps words off the special token before them."""
    if pieces and pieces[-1].kind == "special" and not piece.text[:1].isspace():
        pieces.append(Piece(" ", "space"))
    pieces.append(piece)


def note_pieces(pieces: Sequence[Piece], scale: float) -> list[Piece]:
    """Chooses which marked pieces get a number below them: the strongest first, as long as numbers do not collide.

    Args:
        pieces (`Sequence[Piece]`): A text.
        scale (`float`): The score that has strength 1.
    """
    pieces = list(pieces)
    widths = [_width(piece.text) for piece in pieces]
    ends = list(itertools.accumulate(widths))
    middles = [end - width / 2 for end, width in zip(ends, widths, strict=True)]
    taken: list[tuple[float, float]] = []
    for i in sorted(range(len(pieces)), key=lambda i: -abs(pieces[i].strength)):
        half = len(format_score(pieces[i].score, scale)) * _NOTE_WIDTH / 2
        room = all(abs(middles[i] - other) >= half + width + _NOTE_MARGIN for other, width in taken)
        if pieces[i].marked and abs(pieces[i].strength) >= _WEAK and room:
            pieces[i] = replace(pieces[i], noted=True)
            taken.append((middles[i], half))
    return pieces


def _width(text: str) -> float:
    """About how wide a text is, in Latin letters: marks take no room of their own, and connected letters little."""
    total, previous = 0.0, ""
    for character in text:
        kind = unicodedata.category(character)
        if kind == "Mc":
            total += _NARROW / 2
        elif kind not in ("Mn", "Me", "Cf"):
            joined = unicodedata.combining(previous) == _VIRAMA if previous else False
            indic = 0x0900 <= ord(character) < 0x0E00
            connected = indic or unicodedata.bidirectional(character) == "AL"
            total += _NARROW / (2 if joined else 1) if connected else 1.0
        previous = character
    return total


def _space_mark(character: str) -> str:
    return "↵\n" if character == "\n" else character
