"""Scripts that run from right to left: where lines begin, what stands apart, and numbers beside words.

A reader's program orders a line by its first letter (Unicode Annex 9). Special tokens and numbers are no part of what
is written, and must not decide.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from itertools import groupby
from typing import TypeVar

from bcos_peft.explanation.views.generation_view import Unit
from bcos_peft.explanation.views.view import Piece


_FROM_LEFT, _FROM_RIGHT = "\N{LEFT-TO-RIGHT MARK}", "\N{RIGHT-TO-LEFT MARK}"  # no wider than nothing
_RIGHT_TO_LEFT = ("R", "AL")

_Part = TypeVar("_Part", Piece, Unit)


def _runs(parts: Sequence[_Part]) -> list[tuple[bool, list[_Part]]]:
    """Parts of one passage together, and whether it stands apart from the rest of its line."""
    return [(passage is not None, list(some)) for passage, some in groupby(parts, key=lambda part: part.passage)]


def _tooltip(text: str, number: str) -> str:
    """A text and its number, in this order also where the text runs from right to left."""
    if not _has_right_to_left(text):
        return f"{text}: {number}"
    isolates = "\N{LEFT-TO-RIGHT ISOLATE}", "\N{FIRST STRONG ISOLATE}", "\N{POP DIRECTIONAL ISOLATE}"
    return f"{isolates[0]}{isolates[1]}{text}{isolates[2]}: {number}{isolates[2]}"


def beside(text: str) -> str:
    """A text that numbers stand beside: in a terminal that orders letters they stay on its right."""
    return f"{_FROM_LEFT}{text}{_FROM_LEFT}" if _has_right_to_left(text) else text


def _number_after(text: str, number: str) -> str:
    """A number that follows a text: after letters from right to left its sign would go to the other end."""
    return _FROM_LEFT + number if _has_right_to_left(text) else number


def _line_mark(parts: Sequence[_Part], index: int) -> str:
    """What goes before a special token so that it does not decide about its line: the mark of what follows it."""
    before = parts[index - 1].text if index else "\n"
    if parts[index].kind != "special" or not before.endswith("\n"):
        return ""
    for part in parts[index:]:
        line, *more = part.text.split("\n")
        strong = [unicodedata.bidirectional(character) for character in line if part.kind != "special"]
        for kind in strong:
            if kind in ("L", *_RIGHT_TO_LEFT):
                return _FROM_RIGHT if kind in _RIGHT_TO_LEFT else ""
        if more:
            break
    return ""


def _has_right_to_left(text: str) -> bool:
    return any(unicodedata.bidirectional(character) in _RIGHT_TO_LEFT for character in text)
