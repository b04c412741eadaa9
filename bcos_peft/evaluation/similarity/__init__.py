"""Are explanations of similarity good? Methods that score the words of two texts, and metrics over these."""

from bcos_peft.evaluation.similarity.base import PairScores, SimilarityMethod
from bcos_peft.evaluation.similarity.gradient import IntegratedJacobians, SimilarityInputXGradient
from bcos_peft.evaluation.similarity.methods import (
    SimilarityChance,
    SimilarityContributions,
    SimilarityOcclusion,
    TokenMatching,
)
from bcos_peft.evaluation.similarity.names import SIMILARITY_METHODS, get_similarity_method
from bcos_peft.evaluation.similarity.perturbation import (
    SimilarityComprehensiveness,
    SimilaritySufficiency,
    similarity_curves,
)
from bcos_peft.evaluation.similarity.pointing import JoinedDocument, SimilarityPointingGame
from bcos_peft.evaluation.similarity.reader import WordReader
from bcos_peft.evaluation.similarity.run import evaluate_similarity


__all__ = [
    "IntegratedJacobians",
    "JoinedDocument",
    "PairScores",
    "SIMILARITY_METHODS",
    "SimilarityChance",
    "SimilarityComprehensiveness",
    "SimilarityContributions",
    "SimilarityInputXGradient",
    "SimilarityMethod",
    "SimilarityOcclusion",
    "SimilarityPointingGame",
    "SimilaritySufficiency",
    "TokenMatching",
    "WordReader",
    "evaluate_similarity",
    "get_similarity_method",
    "similarity_curves",
]
