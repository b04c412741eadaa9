"""Heat maps of similarities as pictures, with matplotlib."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np

from bcos_peft._utils.files import check_target, write_bytes
from bcos_peft._utils.imports import import_extra
from bcos_peft.explanation.views import format_score
from bcos_peft.similarity.views.view import Pairs, SimilarityView


_SUFFIXES = (".pdf", ".png", ".svg")
_CELL = 0.23  # inches: lines of 8-point labels that keep apart
_WIDE_CELL = 0.42  # with a number in it
_NUMBERED = 16  # rows and columns up to which cells have their numbers
_LONGEST = 22  # characters of a label
_LETTER = 0.075  # inches
_COLOURS = "#b64e00", "#f7a65c", "#f5f4f1", "#7fb1f7", "#1757b8"
_FONTS = (
    "DejaVu Sans",
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans Devanagari",
    "Arial Unicode MS",
    "Segoe UI",
)


def draw_heat_maps(
    view: SimilarityView, path: str | os.PathLike, title: str | None = None, resolution: int = 200
) -> None:
    """Pictures of all pairs, one below the other in the same colours, written to a file.

    Args:
        view (`SimilarityView`): What to draw.
        path (`str` or `os.PathLike`): Ends in .png, .svg or .pdf.
        title (`str`, *optional*): By default what the pairs sum to.
        resolution (`int`): Of a PNG, in dots per inch.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: the path has another ending, or a text has no tokens.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in _SUFFIXES:
        raise ValueError(f"path={os.fspath(path)!r} must end in .png, .svg or .pdf.")
    if not all(pairs.matrix.size for pairs in view.pairs):
        raise ValueError("a text has no tokens to draw.")
    check_target(path)
    figures = import_extra("matplotlib.figure", "to_image needs", extra="notebooks")
    from matplotlib import font_manager, rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    known = set(font_manager.get_font_names())
    fonts = [name for name in _FONTS if name in known]
    # What is written does not depend on the day, on the settings of the user, or on signs that mathematics has.
    with rc_context({"font.family": fonts or ["sans-serif"], "svg.hashsalt": "bcos_peft", "svg.fonttype": "path"}):
        figure = figures.Figure(layout="constrained")
        FigureCanvasAgg(figure)
        _fill(figure, view, title)
        dates = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}.get(suffix)
        data = io.BytesIO()
        figure.savefig(data, format=suffix[1:], dpi=resolution, metadata=dates)
    write_bytes(path, data.getvalue())


def _fill(figure, view: SimilarityView, title: str | None) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    colours = LinearSegmentedColormap.from_list("bcos", _COLOURS)
    panels = [_Panel(view, pairs) for pairs in view.pairs]
    heights = [panel.height for panel in panels]
    figure.set_size_inches(max(3.6, *(panel.width for panel in panels)) + 0.9, sum(heights) + 0.7)
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, panel in zip(axes, panels, strict=True):
        image = panel.draw(axis, colours)
    bar = figure.colorbar(image, ax=list(axes), shrink=min(1.0, 2.4 / sum(heights)), aspect=14, pad=0.02)
    bar.ax.tick_params(labelsize=7, length=2)
    bar.outline.set_visible(False)
    figure.suptitle(title or _equation(view), fontsize=9, parse_math=False)


class _Panel:
    """One heat map: the longer text runs down."""

    def __init__(self, view: SimilarityView, pairs: Pairs) -> None:
        flip = pairs.matrix.shape[0] < pairs.matrix.shape[1]
        self.down, self.along = (view.passages[i] for i in ((pairs.b, pairs.a) if flip else (pairs.a, pairs.b)))
        self.matrix = pairs.matrix.T if flip else pairs.matrix
        self.named = len(view.pairs) > 1
        self.scale = view.scale or 1.0
        self.numbered = max(self.matrix.shape) <= _NUMBERED
        rows, columns = self.matrix.shape
        self.rows, self.columns = ([_short(label) for label in side.labels] for side in (self.down, self.along))
        longest = [max(map(len, labels), default=0) * _LETTER for labels in (self.rows, self.columns)]
        self.width = columns * (_WIDE_CELL if self.numbered else _CELL) + longest[0] + 0.3
        self.height = rows * _CELL + longest[1] + 0.3 + 0.25 * self.named

    def draw(self, axis, colours):
        image = axis.imshow(self.matrix, cmap=colours, vmin=-self.scale, vmax=self.scale, aspect="auto")
        rows, columns = self.matrix.shape
        axis.set_yticks(range(rows), self.rows, fontsize=8)
        axis.set_xticks(range(columns), self.columns, fontsize=8, rotation=90)
        axis.tick_params(length=0, top=False, labeltop=True, bottom=False, labelbottom=False)
        for label in (*axis.get_xticklabels(), *axis.get_yticklabels()):
            label.set_parse_math(False)
        axis.set_xticks(np.arange(columns + 1) - 0.5, minor=True)
        axis.set_yticks(np.arange(rows + 1) - 0.5, minor=True)
        axis.grid(which="minor", color="white", linewidth=1)
        axis.tick_params(which="minor", length=0)
        axis.spines[:].set_visible(False)
        if self.named:
            axis.set_xlabel(self.along.name, fontsize=8)
            axis.set_ylabel(self.down.name, fontsize=8)
        if self.numbered:
            for (i, j), value in np.ndenumerate(self.matrix):
                ink = "white" if abs(value) > 0.8 * self.scale else "#333333"
                faint = 0.35 if abs(value) < 0.05 * self.scale else 1.0
                number = format_score(float(value), self.scale / 2).lstrip("+").replace("-", "−").replace("0.", ".", 1)
                axis.text(j, i, number, ha="center", va="center", fontsize=6, color=ink, alpha=faint)
        return image


def _short(label: str) -> str:
    return label if len(label) <= _LONGEST else label[: _LONGEST - 1] + "…"


def _equation(view: SimilarityView) -> str:
    terms = "".join(
        f"{'' if not i else ' − ' if value < 0 else ' + '}{name} {view.amount(abs(value) if i else value)}"
        for i, (name, value) in enumerate(view.terms)
    )
    return f"{view.name} {view.amount(view.value)} = {terms}".replace("-", "−")
