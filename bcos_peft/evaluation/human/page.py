"""The page of a kit: what a reader sees of two explanations, without numbers and without names."""

from __future__ import annotations

import re
from typing import Any

from bcos_peft.explanation import Explanation, layout
from bcos_peft.explanation.views import Piece, View, label_text, load_template


_NAMED = 3  # strongest words that screen readers are told
_FAINT = 4  # strengths in per cent that are not shown as colour

_BOTH = """A model has read each of these texts and come to the conclusion that stands above it. Two methods, A and B,
have marked the words that it came from."""
_SIGNED = f"""{_BOTH} Blue words speak for the conclusion; orange words with a dotted line speak against it. The
stronger the colour, the more."""
_UNSIGNED = f"""{_BOTH} The stronger the colour, the more a word speaks for the conclusion."""
_TASK = """Which marking shows better why the model came to its conclusion? Judge the markings, not the model: it may
be wrong. If you see no difference in quality, say so."""


def _shown(left: Explanation, right: Explanation, signed: bool) -> dict[str, Any]:
    """What is on the page of a pair of explanations: strings and whole numbers."""
    foil = None if left.foil_label is None else label_text(left.foil_label)
    return {
        "says": label_text(left.target_label),
        "rather": foil,
        "left": _marked(left, signed),
        "right": _marked(right, signed),
    }


def _marked(explanation: Explanation, signed: bool) -> dict[str, Any]:
    view = layout(explanation, words=True, hide_special=True, top=0)
    lines = [[_piece(piece, signed) for piece in line] for line in view.lines]
    return {"lines": lines, "spoken": _spoken(view, signed)}


def _piece(piece: Piece, signed: bool) -> list:
    """The text, and its strength from −100 to 100; nothing for what carries no colour."""
    strength = round(100 * piece.strength)
    if piece.kind in ("space", "unseen") or abs(strength) < _FAINT or (strength < 0 and not signed):
        return [piece.text]
    return [piece.text, strength]


def _spoken(view: View, signed: bool) -> str:
    """The strongest words, for those who do not see colours."""
    units = [piece for line in view.lines for piece in (_piece(p, signed) for p in line) if len(piece) == 2]
    ranked = sorted(units, key=lambda unit: -abs(unit[1]))
    parts = []
    for name, sign in (("for", 1), ("against", -1)):
        words = [text.strip() for text, strength in ranked if strength * sign > 0][:_NAMED]
        if words:
            parts.append(f"strongest {name}: {', '.join(words)}")
    return "; ".join(parts) or "no word is marked"


def _render_page(kit: str, views: list[dict], title: str, instructions: str | None, signed: bool) -> str:
    """The page: one file, which loads nothing and sends nothing."""
    text = "\n\n".join([_SIGNED if signed else _UNSIGNED, _TASK]) if instructions is None else instructions
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text) if part.strip()]
    data = {"kit": kit, "pairs": views}
    return load_template("kit.html.j2", package="bcos_peft.evaluation.human").render(
        title=title, instructions=paragraphs, data=data, signed=signed
    )
