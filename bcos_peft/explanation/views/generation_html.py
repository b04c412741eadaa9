"""Explained generations as a page on which generated tokens light up their sources."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from bcos_peft.explanation.views.generation_view import GenerationView, Step
from bcos_peft.explanation.views.html import load_template
from bcos_peft.explanation.views.text import format_residual
from bcos_peft.explanation.views.view import Row


_STEPS_OF_STRENGTH = 100  # colours that a page tells apart


def draw_generation_page(view: GenerationView, title: str | None = None, notes: Sequence[str] = ()) -> str:
    """A view as a page of its own."""
    return load_template("generation.html.j2").render(
        view=view, whole=_step(view, view.whole), data=_data(view), title=title, notes=notes, rows=_table(view)
    )


def draw_generation_frame(view: GenerationView) -> str:
    """The page in a frame, for notebooks: its style and script touch nothing else there."""
    return (
        f'<iframe srcdoc="{html.escape(draw_generation_page(view))}" title="Explained generation" '
        'sandbox="allow-scripts" style="width:100%;height:42rem;border:0;border-radius:10px"></iframe>'
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
