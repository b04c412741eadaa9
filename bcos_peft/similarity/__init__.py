"""Why two texts are close: the similarity of their embeddings as a sum over pairs of tokens."""

from bcos_peft.similarity.explainer import SimilarityExplainer
from bcos_peft.similarity.explanation import Match, SimilarityDifference, SimilarityExplanation, SimilarityTable
from bcos_peft.similarity.render import render_ranking
from bcos_peft.similarity.tokens import TextTokens, TokenVectors


__all__ = [
    "Match",
    "SimilarityDifference",
    "SimilarityExplainer",
    "SimilarityExplanation",
    "SimilarityTable",
    "TextTokens",
    "TokenVectors",
    "render_ranking",
]
