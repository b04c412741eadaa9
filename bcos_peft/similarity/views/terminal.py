"""Explained similarities in the terminal, with rich."""

from __future__ import annotations

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from bcos_peft.explanation.views import (
    ascii_text,
    beside,
    choose_palette,
    encodable,
    format_residual,
    render_bar,
    render_pieces,
)
from bcos_peft.similarity.views.view import SimilarityView


_WIDTH_FOR_BARS = 64  # in narrower terminals they would leave the words no place


def render_similarity(view: SimilarityView, console: Console, width: int | None = None) -> RenderableType:
    """Everything about an explained similarity, for `console.print`.

    Args:
        view (`SimilarityView`): The similarity, laid out.
        console (`rich.console.Console`): Where it will be printed: without colour, numbers stand in the texts.
        width (`int`, *optional*): Columns to use; the console's by default.

    Returns:
        `rich.console.RenderableType`: Safe to print: nothing in it is read as markup.
    """
    coloured = console.color_system is not None and not console.no_color
    palette, plain = choose_palette(), console.options.ascii_only
    marks = encodable(console.encoding, "\N{RIGHT-TO-LEFT MARK}")
    parts: list[RenderableType] = [_headline(view), Text()]
    for passage in view.passages:
        parts.append(_name(view, passage))
        parts += [render_pieces(passage.pieces, view.number, palette if coloured else None, marks), Text()]
    if view.lines:
        bars = (width or console.width) >= _WIDTH_FOR_BARS + 8 * (len(view.heads) - 2)
        parts += [_table(view, palette, plain, bars), Text()]
    parts.append(_sum(view))
    unseen = sum(passage.unseen for passage in view.passages)
    if unseen:
        parts.append(Text(f"{unseen} characters were not seen by the model", style="dim"))
    if not encodable(console.encoding, "…█│–"):
        parts = [ascii_text(part) if isinstance(part, Text) else part for part in parts]
    return Group(*parts)


def _headline(view: SimilarityView) -> Text:
    text = Text()
    for i, (name, value) in enumerate(view.facts):
        text.append("  " if i else "").append(name + " ", style="dim").append(value, style="bold")
    return text


def _name(view: SimilarityView, passage) -> Text:
    against, speaks = passage.kinds
    ends = f"{view.number(-passage.scale)} {against}, {view.number(passage.scale)} {speaks}"
    return Text(f"{passage.name} (strongest colours: {ends})", style="dim")


def _table(view: SimilarityView, palette: dict, plain: bool, bars: bool) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(overflow="fold", max_width=44)
    for _ in view.heads[1:]:
        table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_row(*(Text(head, style="dim") for head in view.heads))
    for line in view.lines:
        between = " - " if plain else " – "
        label = Text(
            between.join(text if plain else beside(text) for text in line.labels),
            style="" if line.kind == "top" else "dim",
        )
        drawn = [render_bar(line.strength, palette, plain)] if bars else []
        table.add_row(ascii_text(label) if plain else label, *(view.number(score) for score in line.scores), *drawn)
    return table


def _sum(view: SimilarityView) -> Text:
    text = Text()
    for i, (name, value) in enumerate(view.terms):
        sign = "" if not i else " - " if value < 0 else " + "
        text.append(f"{sign}{name} ").append(view.amount(abs(value) if i else value), style="bold")
    text.append(f" {'-' if view.residual < 0 else '+'} residual {format_residual(abs(view.residual)).lstrip('+')}")
    text.append(f" = {view.name} ").append(view.amount(view.value), style="bold")
    if not view.exact:
        text.append(f"\nWhat is shown does not sum to the {view.name}: do not rely on it.", style="bold")
    return text
