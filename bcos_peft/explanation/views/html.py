"""Explanations for the eye: the terminal, an SVG picture of it, and static HTML."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from bcos_peft._utils.files import write_text
from bcos_peft.explanation.explanation import Explanation
from bcos_peft.explanation.views.layout import View, layout
from bcos_peft.explanation.views.text import format_residual


if TYPE_CHECKING:
    from jinja2 import Template
    from rich.console import Console


def show(
    explanation: Explanation,
    width: int | None = None,
    words: bool = True,
    console: Console | None = None,
    hide_special: bool = False,
    top: int = 5,
) -> None:
    """Prints an explanation in the terminal.

    The text is coloured in place, blue for the target and orange against it, the stronger the larger the contribution
    relative to the largest in the text. Where there is no colour (`NO_COLOR`, a pipe, a file) the largest
    contributions stand in the text as numbers. A table and the sum follow.

    Args:
        explanation (`Explanation`): What to show.
        width (`int`, *optional*): Columns to use; the console's by default.
        words (`bool`, defaults to `True`): Merge tokens into words.
        console (`rich.console.Console`, *optional*): Where to print; standard output by default.
        hide_special (`bool`, defaults to `False`): Leave special tokens out of the text; the table states their sum.
        top (`int`, defaults to 5): How many contributions the table names.
    """
    from rich.console import Console

    from bcos_peft.explanation.views.terminal import render

    console = Console() if console is None else console
    view = layout(explanation, words=words, hide_special=hide_special, top=top)
    console.print(render(view, console, width), width=width, highlight=False)


def export_svg(
    explanation: Explanation,
    path: str | os.PathLike | None = None,
    width: int = 88,
    words: bool = True,
    hide_special: bool = False,
    top: int = 5,
    title: str = "explanation.show()",
) -> str:
    """Draws what `show` prints in a colour terminal as an SVG picture, for a README.

    Args:
        explanation (`Explanation`): What to show.
        path (`str` or `os.PathLike`, *optional*): File to write.
        width (`int`, defaults to 88): Columns of the terminal.
        words (`bool`, defaults to `True`): Merge tokens into words.
        hide_special (`bool`, defaults to `False`): Leave special tokens out of the text.
        top (`int`, defaults to 5): How many contributions the table names.
        title (`str`): Title of the window.

    Returns:
        `str`: The SVG, which loads nothing from elsewhere. Equal explanations give equal pictures.
    """
    from rich.console import Console

    console = Console(
        file=io.StringIO(), record=True, width=width, force_terminal=True, color_system="truecolor", no_color=False,
        legacy_windows=False,
    )  # fmt: skip
    show(explanation, words=words, console=console, hide_special=hide_special, top=top)
    console.print()  # the picture is cut at the foot of its last line
    svg = console.export_svg(title=title, unique_id="bcos-peft")
    svg = re.sub(r"@font-face\s*\{[^}]*\}", "", svg)  # rich refers to a font on the web
    if path is not None:
        write_text(path, svg)
    return svg


def render_html(
    explanations: Explanation | Sequence[Explanation],
    title: str | None = None,
    notes: str | None = None,
    headings: Sequence[str] | None = None,
    words: bool = True,
    hide_special: bool = False,
    top: int = 5,
) -> str:
    """One self-contained HTML page: no scripts, nothing loaded from elsewhere, light and dark.

    Args:
        explanations (`Explanation` or a sequence of them): What to show, in order.
        title (`str`, *optional*): Heading of the page.
        notes (`str`, *optional*): A paragraph below the heading; empty lines separate paragraphs.
        headings (`Sequence[str]`, *optional*): One heading per explanation.
        words (`bool`, defaults to `True`): Merge tokens into words.
        hide_special (`bool`, defaults to `False`): Leave special tokens out of the text; the table states their sum.
        top (`int`, defaults to 5): How many contributions the table names.

    Returns:
        `str`: The page; everything taken from the explanations is escaped.

    Raises:
        ValueError: If the number of headings is not the number of explanations.
    """
    explanations = [explanations] if isinstance(explanations, Explanation) else list(explanations)
    if headings is not None and len(headings) != len(explanations):
        raise ValueError(f"headings has {len(headings)} entries for {len(explanations)} explanations; give one each.")
    views = [layout(one, words=words, hide_special=hide_special, top=top) for one in explanations]
    paragraphs = [part for part in re.split(r"\n\s*\n", notes or "") if part.strip()]
    template = load_template("explanation.html.j2")
    return template.render(page=True, views=views, title=title, notes=paragraphs, headings=headings)


def render_fragment(explanation: Explanation, words: bool = True, hide_special: bool = False, top: int = 5) -> str:
    """The explanation as a piece of HTML for notebooks; its style touches nothing else on the page.

    Args:
        explanation (`Explanation`): What to show.
        words (`bool`, defaults to `True`): Merge tokens into words.
        hide_special (`bool`, defaults to `False`): Leave special tokens out of the text.
        top (`int`, defaults to 5): How many contributions the table names.

    Returns:
        `str`: A `style` and a `section` element.
    """
    view = layout(explanation, words=words, hide_special=hide_special, top=top)
    return load_template("explanation.html.j2").render(page=False, views=[view], headings=None)


@cache
def load_template(name: str) -> Template:
    """A template of the package, with its filters; everything that it is given is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("bcos_peft.explanation.views"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["exact_number"] = lambda value: f"{value:+.6g}".replace("-", "−")
    environment.filters["minus"] = lambda text: text.replace("-", "−")
    environment.filters["residual"] = lambda value: format_residual(value).replace("-", "−")
    environment.filters["share"] = lambda strength: f"{abs(strength):.3f}"
    environment.filters["side"] = _side
    return environment.get_template(name)


def _side(strength: float) -> str:
    return "for" if strength > 0 else "against" if strength < 0 else "none"


__all__ = ["View", "export_svg", "layout", "render_fragment", "render_html", "show"]
