"""Asking people which explanation is better."""

from bcos_peft.evaluation.human.analysis import Comparison, HumanResult, analyse_answers
from bcos_peft.evaluation.human.explain import explain_with
from bcos_peft.evaluation.human.kit import HumanKit, HumanPair


__all__ = [
    "Comparison",
    "HumanKit",
    "HumanPair",
    "HumanResult",
    "analyse_answers",
    "explain_with",
]
