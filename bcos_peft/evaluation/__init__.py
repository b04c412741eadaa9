"""Are the explanations good? Metrics over the scores of any method, for any classifier or causal language model."""

from bcos_peft.evaluation.methods import METHODS, get_method
from bcos_peft.evaluation.methods_base import Method
from bcos_peft.evaluation.methods_cost import Cost, Metered
from bcos_peft.evaluation.perturbation import Comprehensiveness, Sufficiency
from bcos_peft.evaluation.question import Question, ask, logits, probabilities, score


__all__ = [
    "METHODS",
    "Comprehensiveness",
    "Cost",
    "Metered",
    "Method",
    "Question",
    "Sufficiency",
    "ask",
    "get_method",
    "logits",
    "probabilities",
    "score",
]
