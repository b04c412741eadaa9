"""Are the explanations good? Metrics over the scores of any method, for any classifier or causal language model."""

from bcos_peft.evaluation.perturbation import Comprehensiveness, Sufficiency
from bcos_peft.evaluation.question import Question, ask, logits, probabilities, score


__all__ = ["Comprehensiveness", "Question", "Sufficiency", "ask", "logits", "probabilities", "score"]
