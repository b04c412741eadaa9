"""From text to explanations, and what can be read off, saved and shown of them."""

from bcos_peft.explanation.contribution import Contribution
from bcos_peft.explanation.explainer import BcosExplainer
from bcos_peft.explanation.explanation import Explanation, PairDifference, pair_difference
from bcos_peft.explanation.generation import GenerationExplanation
from bcos_peft.explanation.render import export_svg, render_generation_html, render_html, show, show_generation
from bcos_peft.explanation.targets import Alternatives
from bcos_peft.explanation.text_layout import layout


__all__ = [
    "Alternatives",
    "BcosExplainer",
    "Contribution",
    "Explanation",
    "GenerationExplanation",
    "PairDifference",
    "export_svg",
    "layout",
    "pair_difference",
    "render_generation_html",
    "render_html",
    "show",
    "show_generation",
]
