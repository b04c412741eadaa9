"""What is asked of a model about a text."""

from bcos_peft.evaluation.questions.forward import predicts_next_token
from bcos_peft.evaluation.questions.question import (
    Question,
    ask,
    check_tokenizer,
    evaluating,
    logits,
    max_length,
    probabilities,
    question_of,
    score,
    tokenize,
)
from bcos_peft.evaluation.questions.scores import as_scores, check_scores


__all__ = [
    "Question",
    "as_scores",
    "ask",
    "check_scores",
    "check_tokenizer",
    "evaluating",
    "logits",
    "max_length",
    "predicts_next_token",
    "probabilities",
    "question_of",
    "score",
    "tokenize",
]
