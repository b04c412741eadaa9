"""Views of explained similarities draw plain values: in the terminal, as a page, as a picture."""

from typing import TYPE_CHECKING

from bcos_peft._utils.lazy import lazy_names
from bcos_peft.similarity.views.html import draw_similarity_frame, draw_similarity_page
from bcos_peft.similarity.views.image import draw_heat_maps
from bcos_peft.similarity.views.view import Line, Pairs, Passage, SimilarityView


if TYPE_CHECKING:
    from bcos_peft.similarity.views.terminal import render_similarity

__all__ = [
    "Line",
    "Pairs",
    "Passage",
    "SimilarityView",
    "draw_heat_maps",
    "draw_similarity_frame",
    "draw_similarity_page",
    "render_similarity",
]

# rich is for those who print.
__getattr__ = lazy_names(__name__, {"render_similarity": "terminal"})
