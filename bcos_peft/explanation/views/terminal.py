"""Explanations in the terminal, with rich."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Sequence

from rich.console import Console, Group, RenderableType
from rich.style import Style
from rich.table import Table
from rich.text import Text

from bcos_peft.explanation.views.direction import _line_mark, _number_after, beside
from bcos_peft.explanation.views.text import format_residual
from bcos_peft.explanation.views.view import Piece, View


# Blue speaks for the target, orange against it: a pair that colour-blind readers tell apart. A colour runs from the
# ground (no contribution) to full; the ink reads on every step between.
_DARK = {"ground": (44, 46, 52), "for": (36, 99, 222), "against": (182, 78, 0), "ink": (244, 244, 242)}
_LIGHT = {"ground": (244, 244, 242), "for": (96, 162, 255), "against": (255, 158, 66), "ink": (24, 24, 27)}
_FAINT = 0.03  # strengths below this are left uncoloured
_HALF_BAR = 12  # columns on either side of the axis
_WIDTH_FOR_BARS = 56  # in narrower terminals they would leave the words no place


def render(view: View, console: Console, width: int | None = None) -> RenderableType:
    """Everything about one explanation, for `console.print`.

    Args:
        view (`View`): The explanation, laid out.
        console (`rich.console.Console`): Where it will be printed: without colour, numbers stand in the text.
        width (`int`, *optional*): Columns to use; the console's by default.

    Returns:
        `rich.console.RenderableType`: Safe to print: nothing in it is read as markup.
    """
    coloured = console.color_system is not None and not console.no_color
    palette = choose_palette()
    parts: list[RenderableType] = [_headline(view), Text()]
    for number, line in enumerate(view.lines, start=1):
        if len(view.lines) > 1:
            parts.append(Text(f"text {number}", style="dim"))
        marks = encodable(console.encoding, "\N{RIGHT-TO-LEFT MARK}")
        parts += [render_pieces(line, view.number, palette if coloured else None, marks), Text()]
    if coloured and view.rows:
        parts += [_legend(view, palette), Text()]
    if view.rows:
        bars = (width or console.width) >= _WIDTH_FOR_BARS
        parts += [_table(view, palette, plain=console.options.ascii_only, bars=bars), Text()]
    parts.append(_sum(view, plain=console.options.ascii_only))
    if view.parts:
        sums = ", ".join(f"{row.label} {view.number(row.score)}" for row in view.parts)
        parts.append(Text(f"by source: {sums}", style="dim"))
    if view.unseen:
        parts.append(Text(f"{view.unseen} characters were not seen by the model", style="dim"))
    if not encodable(console.encoding, "…█│Σ"):
        parts = [ascii_text(part) if isinstance(part, Text) else part for part in parts]
    return Group(*parts)


def choose_palette() -> dict[str, tuple[int, int, int]]:
    """The colours for the terminal's background."""
    return _LIGHT if _light_background() else _DARK


def _light_background() -> bool:
    """Whether the terminal says, through `COLORFGBG`, that its background is light."""
    background = os.environ.get("COLORFGBG", "").rpartition(";")[2]
    return background in ("7", "15")


def _headline(view: View) -> Text:
    text = Text()
    for i, (name, value) in enumerate(view.facts):
        text.append("  " if i else "").append(name + " ", style="dim").append(beside(value), style="bold")
    return text


def render_pieces(
    pieces: Sequence[Piece], number: Callable[[float], str], palette: dict | None, marks: bool = True
) -> Text:
    """A text in its colours.

    Args:
        pieces (`Sequence[Piece]`): The text.
        number (`Callable[[float], str]`): A score as text, for where there is no colour.
        palette (`dict`, *optional*): What `choose_palette` gave; without it, numbers stand in the text.
        marks (`bool`, defaults to `True`): Whether marks of direction can be printed.
    """
    text = Text(overflow="fold")
    for index, piece in enumerate(pieces):
        text.append(_line_mark(pieces, index) if marks else "")
        if piece.kind in ("space", "unseen"):
            text.append(piece.text, style="dim" if piece.kind == "unseen" else "")
            continue
        style = Style(underline=piece.explained)
        if palette is None:
            score = f"[{number(piece.score)}]" if piece.marked or piece.kind == "special" else ""
            after = _number_after(piece.text, score) if score and marks else score
            text.append(piece.text + after, style=style)
            continue
        text.append(piece.text, style=style + _colour(piece.strength, palette, dim=piece.kind == "special"))
    return text if text.plain else Text("(no tokens)", style="dim")


def _colour(strength: float, palette: dict, dim: bool = False) -> Style:
    """The style of a piece of text whose contribution has a strength from -1 to 1."""
    if abs(strength) < _FAINT:
        return Style(dim=dim)
    full = palette["for" if strength > 0 else "against"]
    return Style(color=_hex(palette["ink"]), bgcolor=_hex(_mix(palette["ground"], full, abs(strength))), italic=dim)


def _legend(view: View, palette: dict) -> Text:
    text = Text(overflow="fold")
    text.append(f"{beside(view.against)} {view.number(-view.scale)} ", style="dim")
    for step in range(-6, 7):
        text.append(" ", style=Style(bgcolor=_hex(_step(step / 6, palette))))
    return text.append(f" {view.number(view.scale)} for {beside(view.target)}", style="dim")


def _table(view: View, palette: dict, plain: bool, bars: bool) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(overflow="fold", max_width=40)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    for row in view.rows:
        style = "" if row.kind == "top" else "dim"
        label = Text(row.label if plain else beside(row.label), style=style)
        drawn = [render_bar(row.strength, palette, plain)] if bars else []
        table.add_row(ascii_text(label) if plain else label, view.number(row.score), *drawn)
    return table


def render_bar(strength: float, palette: dict, plain: bool) -> Text:
    """A bar from an axis in the middle, to the right for a positive strength.

    Args:
        strength (`float`): -1 to 1.
        palette (`dict`): What `choose_palette` gave.
        plain (`bool`): Whether the console has ASCII only.
    """
    halves = round(abs(strength) * _HALF_BAR * 2)
    full, rest = divmod(halves, 2)
    block, axis = ("#", "|") if plain else ("█", "│")
    if strength < 0:
        bar = ("" if plain else "▐" * rest) + block * full
        left, right = bar.rjust(_HALF_BAR), ""
    else:
        left, right = " " * _HALF_BAR, block * full + ("" if plain else "▌" * rest)
    text = Text().append(left, style=_hex(palette["against"]))
    return text.append(axis, style="dim").append(right.ljust(_HALF_BAR), style=_hex(palette["for"]))


def _sum(view: View, plain: bool) -> Text:
    text = Text(f"{'Sum of' if plain else 'Σ'} contributions ")
    text.append(view.number(view.total), style="bold")
    text.append(f" {'=' if view.exact else '!=' if plain else '≠'} {view.logit_name} ")
    text.append(view.number(view.logit), style="bold")
    text.append(f" (residual {format_residual(view.residual)})")
    if not view.exact:
        text.append("\nThe contributions do not sum to the logit: do not rely on them.", style="bold")
    if view.note is not None:
        text.append(f"\n{view.note}")
    return text


def _step(strength: float, palette: dict) -> tuple[int, int, int]:
    return _mix(palette["ground"], palette["for" if strength > 0 else "against"], abs(strength))


def _mix(one: tuple[int, ...], two: tuple[int, ...], share: float) -> tuple[int, int, int]:
    return tuple(round(a + (b - a) * share) for a, b in zip(one, two, strict=True))


def _hex(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def encodable(encoding: str, sample: str) -> bool:
    """Whether a console of this encoding can print the sample."""
    try:
        sample.encode(encoding)
    except (LookupError, UnicodeEncodeError):
        return False
    return True


def ascii_text(text: Text) -> Text:
    """For consoles without Unicode: escapes such as `\\u4e2d` instead of a crash in the middle of the output."""
    safe = Text(overflow="fold")
    for start in range(len(text.plain)):
        character = text[start]
        plain = character.plain.encode("ascii", "backslashreplace").decode()
        safe.append(plain, style=character.spans[0].style if character.spans else character.style)
    return safe


def draw_svg(show: Callable[[Console], None], width: int, title: str) -> str:
    """What is printed in a colour terminal as a picture, which loads nothing from elsewhere.

    Args:
        show (`Callable[[Console], None]`): Prints on a console.
        width (`int`): Columns of the terminal.
        title (`str`): Of the window.

    Returns:
        `str`: The SVG; equal prints give equal pictures.
    """
    console = Console(
        file=io.StringIO(), record=True, width=width, force_terminal=True, color_system="truecolor", no_color=False,
        legacy_windows=False,
    )  # fmt: skip
    show(console)
    console.print()  # the picture is cut at the foot of its last line
    svg = console.export_svg(title=title, unique_id="bcos-peft")
    return re.sub(r"@font-face\s*\{[^}]*\}", "", svg)  # rich refers to a font on the web
