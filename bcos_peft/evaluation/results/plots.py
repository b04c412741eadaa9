"""Pictures of plain values, with matplotlib."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bcos_peft._utils.imports import import_extra


_COLUMNS = 3


@dataclass(frozen=True)
class _BarPanel:
    """Means with their intervals, a bar for each row.

    Args:
        title (`str`): of the panel.
        labels (`list[str]`): of all rows.
        places (`list[int]`): rows that have this number.
        means (`list[float]`): of those rows.
        ends (`list[tuple[float, float]]`): of their intervals; NaN where they are not known.
        chance (`float`, *optional*): what random order gives.
    """

    title: str
    labels: list[str]
    places: list[int]
    means: list[float]
    ends: list[tuple[float, float]]
    chance: float | None = None


@dataclass(frozen=True)
class _Curve:
    """A line: its label, the number of its colour, and its points."""

    label: str
    colour: int
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class _CurvePanel:
    """Curves over the same axis, with a title and the axis's name."""

    title: str
    axis: str
    curves: list[_Curve]


def _draw_bars(panels: Sequence[_BarPanel], path: str | os.PathLike | None = None):
    """A figure of bars, a panel for each number; also written to `path`."""
    figure, axes = _panels(len(panels), height=0.8 + 0.3 * len(panels[0].labels))
    for column, (axis, panel) in enumerate(zip(axes, panels, strict=True)):
        means, ends = np.array(panel.means), np.array(panel.ends)
        ends = np.where(np.isnan(ends), means[:, None], ends)
        errors = np.abs(ends - means[:, None]).T
        axis.barh(panel.places, means, xerr=errors, color="#5b8db8", ecolor="#333333", capsize=2)
        labels = panel.labels if column % _COLUMNS == 0 else [""] * len(panel.labels)
        axis.set_yticks(range(len(labels)), labels, fontsize=8)
        axis.invert_yaxis()
        axis.axvline(0, color="#333333", linewidth=0.6)
        if panel.chance is not None:
            axis.axvline(panel.chance, color="#b8655b", linestyle="--", linewidth=1, label="random order")
            axis.legend(fontsize=7)
        axis.set_title(panel.title, fontsize=9)
    return _written(figure, path)


def _draw_curves(panels: Sequence[_CurvePanel], path: str | os.PathLike | None = None):
    """A figure of curves with one legend; also written to `path`."""
    figure, axes = _panels(len(panels), height=3.6)
    for axis, panel in zip(axes, panels, strict=True):
        for curve in panel.curves:
            axis.plot(curve.x, curve.y, marker=".", color=f"C{curve.colour % 10}", label=curve.label)
        axis.set_title(panel.title, fontsize=9)
        axis.set_xlabel(panel.axis, fontsize=8)
        axis.set_ylabel("fall of the target", fontsize=8)
    # A row may have one of the metrics only, and so stand in any of the panels.
    lines = {line.get_label(): line for axis in axes for line in axis.get_lines()}
    figure.legend(lines.values(), lines, loc="outside lower center", ncols=2, fontsize=7)
    return _written(figure, path)


def _panels(count: int, height: float):
    columns = min(count, _COLUMNS)
    lines = -(-count // columns)
    matplotlib = import_extra("matplotlib.figure", "Plots need")
    figure = matplotlib.Figure(figsize=(4.2 * columns, height * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).flatten()
    for axis in axes[count:]:
        axis.set_visible(False)
    return figure, axes[:count]


def _written(figure, path: str | os.PathLike | None):
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure
