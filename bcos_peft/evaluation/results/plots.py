"""An evaluation's result as pictures, with matplotlib."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bcos_peft.evaluation.results.tables import shown_values


if TYPE_CHECKING:
    from bcos_peft.evaluation.results.result import EvaluationResult

__all__ = ["plot_curves", "plot_means"]

_COLUMNS = 3


def plot_means(result: EvaluationResult, path: str | os.PathLike | None = None, values: Sequence[str] | None = None):
    """Bars of the means with their intervals, a panel for each number."""
    names, summary, chance = shown_values(result, values), result.summary(), result.chance()
    labels = [f"{model} + {method}" for model, method in summary]
    figure, panels = _panels(len(names), height=0.8 + 0.3 * len(labels))
    for column, (panel, name) in enumerate(zip(panels, names, strict=True)):
        found = [(i, row[name]) for i, row in enumerate(summary.values()) if name in row]
        means = np.array([interval.mean for _, interval in found])
        ends = np.array([[interval.low, interval.high] for _, interval in found])
        ends = np.where(np.isnan(ends), means[:, None], ends)
        errors = np.abs(ends - means[:, None]).T
        panel.barh([i for i, _ in found], means, xerr=errors, color="#5b8db8", ecolor="#333333", capsize=2)
        panel.set_yticks(range(len(labels)), labels if column % _COLUMNS == 0 else [""] * len(labels), fontsize=8)
        panel.invert_yaxis()
        panel.axvline(0, color="#333333", linewidth=0.6)
        if name in chance:
            panel.axvline(chance[name], color="#b8655b", linestyle="--", linewidth=1, label="random order")
            panel.legend(fontsize=7)
        panel.set_title(result.values[name].heading, fontsize=9)
    return _written(figure, path)


def plot_curves(result: EvaluationResult, path: str | os.PathLike | None = None):
    """Mean curves of comprehensiveness and sufficiency, a line for each row."""
    # By their numbers, not by their names: a metric may have a label, and others have curves of another kind.
    found = (r.metric for r in result.records if "curve" in r.details and f"{r.metric}_aopc" in r.values)
    metrics = list(dict.fromkeys(found))
    if not metrics:
        raise ValueError("The result has neither comprehensiveness nor sufficiency, and so no curves.")
    figure, panels = _panels(len(metrics), height=3.6)
    for panel, metric in zip(panels, metrics, strict=True):
        for i, row in enumerate(result.rows):
            curves = [r.details["curve"] for r in result.records if r.metric == metric and r.row == row]
            if not curves:
                continue
            fractions = _fractions(result, row, metric, len(curves[0]))
            panel.plot(fractions, np.mean(curves, axis=0), marker=".", color=f"C{i % 10}", label=" + ".join(row))
        panel.set_title(metric.capitalize().replace("_", " "), fontsize=9)
        what = "perturbed" if result.values[metric].higher_is_better else "kept"
        panel.set_xlabel(f"part of the tokens that is {what}", fontsize=8)
        panel.set_ylabel("fall of the target", fontsize=8)
    # A row may have one of the metrics only, and so stand in any of the panels.
    lines = {line.get_label(): line for panel in panels for line in panel.get_lines()}
    figure.legend(lines.values(), lines, loc="outside lower center", ncols=2, fontsize=7)
    return _written(figure, path)


def _fractions(result: EvaluationResult, row: tuple[str, str], metric: str, count: int) -> Sequence[float]:
    for settings in result.settings:
        known = settings.get("metrics", {}).get(metric, {}).get("fractions")
        if settings.get("model") == row[0] and known is not None and len(known) == count:
            return known
    return np.linspace(0.1, 0.9, count)


def _panels(count: int, height: float):
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('Plots need matplotlib: pip install "bcos-peft[evaluation]".') from error
    columns = min(count, _COLUMNS)
    lines = -(-count // columns)
    figure = Figure(figsize=(4.2 * columns, height * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).flatten()
    for panel in panels[count:]:
        panel.set_visible(False)
    return figure, panels[:count]


def _written(figure, path: str | os.PathLike | None):
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure
