"""Explained generations for the eye: the terminal, and a page on which generated tokens light up their sources."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bcos_peft.explanation.generation import GenerationExplanation
from bcos_peft.explanation.views.generation_layout import GenerationView, Step, layout_generation
from bcos_peft.explanation.views.html import load_template
from bcos_peft.explanation.views.layout import Row
from bcos_peft.explanation.views.text import format_residual
from bcos_peft.text.words import Span


if TYPE_CHECKING:
    from rich.console import Console

_STEPS_OF_STRENGTH = 100  # colours that a page tells apart


def show_generation(
    explanation: GenerationExplanation,
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

    from bcos_peft.explanation.views.generation_terminal import render_generation

    console = Console() if console is None else console
    view = layout_generation(explanation, segments, top)
    console.print(render_generation(view, console, steps), width=width, highlight=False)


def render_generation_html(
    explanation: GenerationExplanation,
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
    >>> from bcos_peft.explanation.views.generation_html import render_generation_html

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
    view = layout_generation(explanation, segments, top)
    paragraphs = [part for part in re.split(r"\n\s*\n", notes or "") if part.strip()]
    return load_template("generation.html.j2").render(
        view=view, whole=_step(view, view.whole), data=_data(view), title=title, notes=paragraphs, rows=_table(view)
    )


def render_generation_frame(explanation: GenerationExplanation) -> str:
    """The page in a frame of its own, for notebooks: its style and script touch nothing else there."""
    page = html.escape(render_generation_html(explanation))
    return (
        f'<iframe srcdoc="{page}" title="Explained generation" sandbox="allow-scripts" '
        'style="width:100%;height:42rem;border:0;border-radius:10px"></iframe>'
    )


def _data(view: GenerationView) -> dict[str, Any]:
    """What the script of the page reads: for each step its strengths as whole numbers, and its rows as text."""
    return {"logit": view.logit_name, "whole": _step(view, view.whole), "steps": [_step(view, s) for s in view.steps]}


def _step(view: GenerationView, step: Step) -> dict[str, Any]:
    return {
        "label": step.label,
        "foil": step.foil,
        "probability": _probability(step.probability),
        "logit": _minus(step.number(step.logit)),
        "total": _minus(step.number(step.logit - step.residual)),
        "residual": _minus(format_residual(step.residual)),
        "exact": step.exact,
        "strengths": [round(float(value) * _STEPS_OF_STRENGTH) for value in step.strengths],
        "sources": [_row(step, row) for row in step.sources],
        "passages": [_row(step, row) for row in step.passages],
    }


def _row(step: Step, row: Row) -> list:
    return [row.label, _minus(step.number(row.score)), round(row.strength * _STEPS_OF_STRENGTH), row.kind]


def _table(view: GenerationView) -> list[dict[str, Any]]:
    """The same as `_data` for readers: one line for each step."""
    return [
        _step(view, step) | {"named": [_row(step, row) for row in step.sources if row.kind == "top"]}
        for step in view.steps
    ]


def _probability(value: float) -> str:
    if 0 < value < 0.0005:
        return "<0.001"
    return ">0.999" if 0.9995 <= value < 1 else f"{value:.3f}"


def _minus(text: str) -> str:
    return text.replace("-", "−")


__all__ = ["render_generation_frame", "render_generation_html", "show_generation"]
