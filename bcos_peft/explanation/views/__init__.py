"""Views draw plain values: in the terminal, as HTML, as SVG."""

from typing import TYPE_CHECKING

from bcos_peft._utils.lazy import lazy_names
from bcos_peft.explanation.views.direction import beside
from bcos_peft.explanation.views.generation_html import draw_generation_frame, draw_generation_page
from bcos_peft.explanation.views.generation_view import GenerationView, Step, Unit
from bcos_peft.explanation.views.html import draw_fragment, draw_page, load_template
from bcos_peft.explanation.views.line import is_exact, note_pieces, place_units, strength_of
from bcos_peft.explanation.views.text import format_residual, format_score, label_text, printable, visible
from bcos_peft.explanation.views.view import Piece, Row, View


if TYPE_CHECKING:
    from bcos_peft.explanation.views.generation_terminal import render_generation
    from bcos_peft.explanation.views.terminal import (
        ascii_text,
        choose_palette,
        draw_svg,
        encodable,
        render,
        render_bar,
        render_pieces,
    )

__all__ = [
    "GenerationView",
    "Piece",
    "Row",
    "Step",
    "Unit",
    "View",
    "ascii_text",
    "beside",
    "choose_palette",
    "draw_fragment",
    "draw_generation_frame",
    "draw_generation_page",
    "draw_page",
    "draw_svg",
    "encodable",
    "format_residual",
    "format_score",
    "is_exact",
    "label_text",
    "load_template",
    "note_pieces",
    "place_units",
    "printable",
    "render",
    "render_bar",
    "render_generation",
    "render_pieces",
    "strength_of",
    "visible",
]

# rich is for those who print.
__getattr__ = lazy_names(
    __name__,
    {
        "render_generation": "generation_terminal",
        "ascii_text": "terminal",
        "encodable": "terminal",
        "choose_palette": "terminal",
        "draw_svg": "terminal",
        "render": "terminal",
        "render_bar": "terminal",
        "render_pieces": "terminal",
    },
)
