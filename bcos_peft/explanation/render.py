"""Explanations for the eye: in the terminal, as an SVG picture of it, and as HTML."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from bcos_peft._utils.arguments import checked_arguments
from bcos_peft._utils.files import write_text
from bcos_peft.explanation.contribution import _Readings
from bcos_peft.explanation.generation_contributions import _GenerationReadings
from bcos_peft.explanation.generation_layout import _layout_generation
from bcos_peft.explanation.text_layout import layout
from bcos_peft.explanation.views import draw_fragment, draw_generation_frame, draw_generation_page, draw_page
from bcos_peft.text import Span


if TYPE_CHECKING:
    from rich.console import Console


@checked_arguments
def show(
    explanation: _Readings,
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

    from bcos_peft.explanation.views import render

    console = Console() if console is None else console
    view = layout(explanation, words=words, hide_special=hide_special, top=top)
    console.print(render(view, console, width), width=width, highlight=False)


@checked_arguments
def export_svg(
    explanation: _Readings,
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
    from bcos_peft.explanation.views import draw_svg

    svg = draw_svg(
        lambda console: show(explanation, words=words, console=console, hide_special=hide_special, top=top),
        width,
        title,
    )
    if path is not None:
        write_text(path, svg)
    return svg


@checked_arguments
def render_html(
    explanations: _Readings | Sequence[_Readings],
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
    explanations = [explanations] if isinstance(explanations, _Readings) else list(explanations)
    if headings is not None and len(headings) != len(explanations):
        raise ValueError(f"headings has {len(headings)} entries for {len(explanations)} explanations; give one each.")
    views = [layout(one, words=words, hide_special=hide_special, top=top) for one in explanations]
    return draw_page(views, title, _paragraphs(notes), headings)


def _render_fragment(explanation: _Readings, words: bool = True, hide_special: bool = False, top: int = 5) -> str:
    """The explanation as a piece of HTML for notebooks; its style touches nothing else on the page.

    Args:
        explanation (`Explanation`): What to show.
        words (`bool`, defaults to `True`): Merge tokens into words.
        hide_special (`bool`, defaults to `False`): Leave special tokens out of the text.
        top (`int`, defaults to 5): How many contributions the table names.

    Returns:
        `str`: A `style` and a `section` element.
    """
    return draw_fragment(layout(explanation, words=words, hide_special=hide_special, top=top))


@checked_arguments
def show_generation(
    explanation: _GenerationReadings,
    width: int | None = None,
    console: Console | None = None,
    top: int = 3,
    segments: Mapping[str, Span | str] | None = None,
    steps: int | None = None,
) -> None:
    """Prints an explained generation in the terminal.

    The text is coloured by what the whole answer came from; a table has the largest sources of each generated token.

    Args:
        explanation (`GenerationExplanation`): What to show.
        width (`int`, *optional*): Columns to use; the console's by default.
        console (`rich.console.Console`, *optional*): Where to print; standard output by default.
        top (`int`, defaults to 3): How many sources the table names for each token, at most 3.
        segments (`Mapping[str, tuple[int, int] | str]`, *optional*): Passages whose sums are shown, as in
            `by_segment`; by default the messages or the prompt, and the answer.
        steps (`int`, *optional*): How many generated tokens get a line; all by default.
    """
    from rich.console import Console

    from bcos_peft.explanation.views import render_generation

    console = Console() if console is None else console
    view = _layout_generation(explanation, segments, top)
    console.print(render_generation(view, console, steps), width=width, highlight=False)


@checked_arguments
def render_generation_html(
    explanation: _GenerationReadings,
    title: str | None = None,
    notes: str | None = None,
    segments: Mapping[str, Span | str] | None = None,
    top: int = 5,
) -> str:
    """One self-contained HTML page, on which pointing at a generated token lights up what it came from.

    The arrow keys go from token to token, Enter holds one and Escape lets it go. A plain table has the same without a
    pointer or a script. The page loads nothing from elsewhere, and forbids itself to.

    Args:
        explanation (`GenerationExplanation`): What to show.
        title (`str`, *optional*): Heading of the page.
        notes (`str`, *optional*): A paragraph below the heading; empty lines separate paragraphs.
        segments (`Mapping[str, tuple[int, int] | str]`, *optional*): Passages whose sums are shown, as in
            `by_segment`; by default the messages or the prompt, and the answer.
        top (`int`, defaults to 5): How many sources of each token are named.

    Returns:
        `str`: The page; everything taken from the explanation is escaped.

    Raises:
        ValueError: If a segment cannot be placed.

    Example:

    ```python
    >>> from bcos_peft import GenerationExplanation
    >>> from bcos_peft.explanation import render_generation_html

    >>> explanation = GenerationExplanation(
    ...     text="one <two>", tokens=["one", " <two>"], token_ids=[4, 5], offsets=[(0, 3), (3, 9)], prompt_length=1,
    ...     special=[False, False], scores=[[1.0, 0]], logits=[1.0], probabilities=[0.6], predicted=[5],
    ...     labels={5: " <two>"},
    ... )
    >>> page = render_generation_html(explanation)
    >>> "&lt;two&gt;" in page, "<two>" in page
    (True, False)

    ```
    """
    return draw_generation_page(_layout_generation(explanation, segments, top), title, _paragraphs(notes))


def _render_generation_frame(explanation: _GenerationReadings) -> str:
    """The page in a frame of its own, for notebooks: its style and script touch nothing else there.

    Args:
        explanation (`GenerationExplanation`): What to show.

    Returns:
        `str`: An `iframe` element.
    """
    return draw_generation_frame(_layout_generation(explanation))


def _paragraphs(notes: str | None) -> list[str]:
    return [part for part in re.split(r"\n\s*\n", notes or "") if part.strip()]
