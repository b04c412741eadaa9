"""Explained generations in the terminal, with rich."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console, Group, RenderableType
from rich.style import Style
from rich.table import Table
from rich.text import Text

from bcos_peft.explanation.views.direction import _line_mark, beside
from bcos_peft.explanation.views.generation_view import GenerationView, Step, Unit
from bcos_peft.explanation.views.terminal import _colour, ascii_text, choose_palette, encodable, render_bar
from bcos_peft.explanation.views.text import format_residual
from bcos_peft.explanation.views.view import Row


_NAMED = 3  # sources that the line of a token names


def render_generation(view: GenerationView, console: Console, steps: int | None = None) -> RenderableType:
    """Everything about an explained generation, for `console.print`.

    Args:
        view (`GenerationView`): The generation, laid out.
        console (`rich.console.Console`): Where it will be printed.
        steps (`int`, *optional*): How many generated tokens get a line; all by default.

    Returns:
        `rich.console.RenderableType`: Safe to print: nothing in it is read as markup.
    """
    coloured = console.color_system is not None and not console.no_color
    palette, plain = choose_palette(), console.options.ascii_only
    strengths = iter(view.whole.strengths)
    parts: list[RenderableType] = [_headline(view), Text()]
    marks = encodable(console.encoding, "\N{RIGHT-TO-LEFT MARK}")
    parts += [_text(view.prompt, strengths, palette if coloured else None, marks), Text()]
    parts += [_text(view.answer, strengths, palette if coloured else None, marks, bold=True), Text()]
    if view.whole.passages:
        parts += [_rows(view.whole, view.whole.passages, palette, plain), Text()]
    parts += [_steps(view, steps, plain), Text(), _sum(view, plain)]
    if not encodable(console.encoding, "…█│Σ"):
        parts = [ascii_text(part) if isinstance(part, Text) else part for part in parts]
    return Group(*parts)


def _headline(view: GenerationView) -> Text:
    count = sum(len(unit.tokens) for unit in view.answer)
    text = Text().append("generated ", style="dim").append(f"{count}", style="bold")
    text.append(" tokens" if count != 1 else " token", style="dim")
    if view.compared:
        text.append(", each rather than the runner-up", style="dim")
    return text.append("; colours: what the whole answer came from", style="dim")


def _text(units: list[Unit], strengths, palette: dict | None, marks: bool, bold: bool = False) -> Text:
    text = Text(overflow="fold")
    for index, unit in enumerate(units):
        text.append(_line_mark(units, index) if marks else "")
        if not unit.tokens:
            text.append(unit.text)
            continue
        strength = float(next(strengths))
        style = Style(bold=bold)
        if palette is not None:
            style += _colour(strength, palette, dim=unit.kind == "special")
        text.append(unit.text, style=style)
    return text if text.plain else Text("(no tokens)", style="dim")


def _rows(step: Step, rows: list[Row], palette: dict, plain: bool) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(overflow="fold", max_width=40)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    for row in rows:
        label = Text(row.label if plain else beside(row.label), style="dim" if row.kind == "rest" else "")
        table.add_row(
            ascii_text(label) if plain else label, step.number(row.score), render_bar(row.strength, palette, plain)
        )
    return table


def _steps(view: GenerationView, limit: int | None, plain: bool) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    heads = ["token", *(["rather than"] if view.compared else []), "probability", view.logit_name, "came from"]
    for head in heads:
        number = head in ("probability", view.logit_name)
        table.add_column(justify="right" if number else "left", overflow="fold")
    table.add_row(*(Text(head, style="dim") for head in heads))
    shown = view.steps if limit is None else view.steps[: max(0, limit)]
    for step in shown:
        apart = str if plain else beside
        cells = [Text(apart(step.label), style="bold")]
        cells += [Text(apart(step.foil or ""))] if view.compared else []
        cells += [Text(f"{step.probability:.2f}"), Text(step.number(step.logit)), _sources(step, apart)]
        table.add_row(*(ascii_text(cell) if plain else cell for cell in cells))
    if len(shown) < len(view.steps):
        table.add_row(Text(f"and {len(view.steps) - len(shown)} more", style="dim"))
    return table


def _sources(step: Step, apart: Callable[[str], str]) -> Text:
    text = Text(overflow="fold")
    for row in [row for row in step.sources if row.kind == "top"][:_NAMED]:
        text.append("  " if text.plain else "").append(apart(row.label) + "\N{NO-BREAK SPACE}")
        text.append(step.number(row.score), style="dim")
    return text


def _sum(view: GenerationView, plain: bool) -> Text:
    whole = view.whole
    exact = whole.exact and all(step.exact for step in view.steps)
    text = Text(f"{'Sum of' if plain else 'Σ'} contributions to all tokens ")
    text.append(whole.number(whole.logit - whole.residual), style="bold")
    text.append(f" {'=' if exact else '!=' if plain else '≠'} sum of {view.logit_name}s ")
    text.append(whole.number(whole.logit), style="bold")
    worst = max((abs(step.residual) for step in view.steps), default=0.0)
    text.append(f" (largest residual of a token {format_residual(worst)})")
    if not exact:
        text.append("\nThe contributions do not sum to the logit: do not rely on them.", style="bold")
    if view.note is not None:
        text.append(f"\n{view.note}")
    return text
