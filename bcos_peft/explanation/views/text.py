"""Numbers and texts as views show them."""

from __future__ import annotations

import math


_VISIBLE_SPACE = {" ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍"}
_DIRECTION_MARKS = frozenset((*range(0x202A, 0x202F), *range(0x2066, 0x206A)))


def format_score(value: float, scale: float | None = None) -> str:
    """A signed number with two decimals, or more where `scale` (by default the number itself) is small."""
    scale = abs(value) if scale is None else scale
    if 0 < scale < 1e-4:
        return f"{value:+.2e}"
    decimals = 2 if scale == 0 else max(2, 1 - math.floor(math.log10(scale)))
    text = f"{value:+.{decimals}f}"
    return text if float(text) else text.lstrip("+-")


def format_residual(value: float) -> str:
    """The order of magnitude is what matters: `3e-7`; `0` if it is nothing at all, `+3.84` if it is no rounding."""
    if abs(value) >= 0.01:
        return f"{value:+.2f}"
    mantissa, _, exponent = f"{value:.0e}".partition("e")
    return "0" if value == 0 else f"{mantissa}e{int(exponent)}"


def visible(text: str) -> str:
    """Makes white space at the ends visible, since a token of a decoder often is `' film'` or a line break."""
    body = text.strip()
    start = len(text) - len(text.lstrip())
    before, after = (text[:start], text[start + len(body) :]) if body else (text, "")
    marks = [_VISIBLE_SPACE.get(character, "␣") for character in before + after]
    return "".join(marks[: len(before)]) + " ".join(body.split("\n")) + "".join(marks[len(before) :])


def label_text(label: str) -> str:
    """A label on one line, its white space visible."""
    return printable(visible(str(label)))


def printable(text: str) -> str:
    """Replaces control characters by their pictures: a text must not steer the terminal that prints it."""
    return "".join(_picture(character) for character in text)


def _picture(character: str) -> str:
    code = ord(character)
    if code < 0x20 and character not in "\n\t":
        return chr(0x2400 + code)
    # DEL, the second set of control characters, lone surrogates, and the marks that reverse the reading order
    if code == 0x7F or 0x80 <= code < 0xA0 or 0xD800 <= code < 0xE000 or code in _DIRECTION_MARKS:
        return "�"
    return character
