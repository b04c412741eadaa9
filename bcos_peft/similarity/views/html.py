"""Explained similarities as a page on which words light up what they match."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from bcos_peft.explanation.views import load_template
from bcos_peft.similarity.views.view import SimilarityView


_STEPS = 1000  # of the largest pair that a page tells apart, where numbers are too small for decimals
_MOST_CELLS = 30_000  # of a heat map on a page
_SHORT = 260  # characters of a text that stays in sight above a longer one
_CHARACTERS = 62  # of a line of text, about
_FRAME_LINES = 16  # heights of a line that the rest of a frame takes


def draw_similarity_page(
    views: Sequence[SimilarityView],
    title: str | None = None,
    notes: Sequence[str] = (),
    headings: Sequence[str] | None = None,
    overview: bool = False,
) -> str:
    """Views on one page of their own, one below the other.

    Args:
        views (`Sequence[SimilarityView]`): What to draw, in order.
        title (`str`, *optional*): Heading of the page.
        notes (`Sequence[str]`): Paragraphs below it.
        headings (`Sequence[str]`, *optional*): One for each view.
        overview (`bool`): Whether a table of all similarities stands first.
    """
    most = max((abs(view.value) for view in views), default=0.0) or 1.0
    return load_template("similarity.html.j2", "bcos_peft.similarity.views").render(
        views=[(view, _data(view)) for view in views],
        title=title,
        notes=notes,
        headings=headings,
        overview=overview,
        share_of=lambda view: view.value / most,
        short=_SHORT,
    )


def draw_similarity_frame(view: SimilarityView) -> str:
    """The page in a frame, for notebooks: its style and script touch nothing else there."""
    characters = sum(len(piece.text) for passage in view.passages for piece in passage.pieces)
    height = min(46, 2.4 * (_FRAME_LINES + len(view.lines) / 2 + characters / _CHARACTERS))
    return (
        f'<iframe srcdoc="{html.escape(draw_similarity_page([view]))}" title="Explained similarity" '
        f'sandbox="allow-scripts" style="width:100%;height:{height:.0f}rem;border:0;border-radius:10px"></iframe>'
    )


def _data(view: SimilarityView) -> dict[str, Any]:
    """What the script of the page reads: texts, and pairs as whole numbers of the last decimal that is shown."""
    one = view.number(view.scale)
    decimals = None if "e" in one else len(one.partition(".")[2])
    step = view.scale / _STEPS if decimals is None else 10.0**-decimals
    return {
        "names": [passage.name for passage in view.passages],
        "labels": [passage.labels for passage in view.passages],
        "sums": [[_minus(view.number(piece.score)) for piece in passage.units] for passage in view.passages],
        "pairs": [
            {"a": pairs.a, "b": pairs.b, "values": (pairs.matrix / step).round().astype(int).tolist()}
            for pairs in view.pairs
        ],
        "drawn": all(pairs.matrix.size <= _MOST_CELLS for pairs in view.pairs),
        "scale": view.scale,
        "step": step,
        "decimals": decimals,
    }


def _minus(text: str) -> str:
    return text.replace("-", "−")
