"""Views draw plain values: in the terminal, as HTML, as SVG."""

from typing import TYPE_CHECKING

from bcos_peft._utils.lazy import lazy_names
from bcos_peft.explanation.views.generation_html import draw_generation_frame, draw_generation_page
from bcos_peft.explanation.views.generation_view import GenerationView, Step, Unit
from bcos_peft.explanation.views.html import draw_fragment, draw_page, load_template
from bcos_peft.explanation.views.text import format_score, label_text, printable, visible
from bcos_peft.explanation.views.view import Piece, Row, View


if TYPE_CHECKING:
    from bcos_peft.explanation.views.generation_terminal import render_generation
    from bcos_peft.explanation.views.terminal import ascii_text, encodable, render

__all__ = [
    "GenerationView",
    "Piece",
    "Row",
    "Step",
    "Unit",
    "View",
    "ascii_text",
    "draw_fragment",
    "draw_generation_frame",
    "draw_generation_page",
    "draw_page",
    "encodable",
    "format_score",
    "label_text",
    "load_template",
    "printable",
    "render",
    "render_generation",
    "visible",
]

# rich is for those who print.
__getattr__ = lazy_names(
    __name__,
    {
        "render_generation": "generation_terminal",
        "ascii_text": "terminal",
        "encodable": "terminal",
        "render": "terminal",
    },
)
