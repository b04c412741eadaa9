"""Scores that were computed elsewhere, as a method: anybody's attributions can be evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bcos_peft.evaluation.checkpoint import digest
from bcos_peft.evaluation.metric import check_scores
from bcos_peft.evaluation.question import Question
from bcos_peft.explanation import Explanation


__all__ = ["PrecomputedScores"]


class PrecomputedScores:
    """A method that looks its scores up, by the token ids of a text, the target and the foil.

    Args:
        name (`str`): what tables call it.
        questions (`Sequence[Question]`): what the scores are of.
        scores (`Sequence[torch.Tensor]`): `(length,)` for each question, special tokens included.

    Raises:
        ValueError: there are not as many scores as questions, or some do not fit their text.

    Example:
        >>> from transformers import AutoModelForSequenceClassification, AutoTokenizer
        >>> from bcos_peft import BcosConfig, BcosExplainer, get_bcos_model
        >>> from bcos_peft.evaluation import PrecomputedScores, evaluate
        >>> name = "distilbert/distilbert-base-uncased-finetuned-sst-2-english"
        >>> tokenizer = AutoTokenizer.from_pretrained(name)
        >>> model = get_bcos_model(AutoModelForSequenceClassification.from_pretrained(name), BcosConfig())
        >>> texts = ["A gripping film.", "Two hours that I shall not get back."]
        >>> explanations = BcosExplainer(model, tokenizer)(texts)
        >>> method = PrecomputedScores.from_explanations("mine", explanations)
        >>> evaluate(model, tokenizer, texts, [method], ["completeness"]).rows
        [('B-cos', 'mine')]
    """

    def __init__(self, name: str, questions: Sequence[Question], scores: Sequence[Tensor]):
        if len(questions) != len(scores):
            raise ValueError(f"There are {len(scores)} scores for {len(questions)} questions.")
        self.name = name
        self._scores: dict[tuple, Tensor] = {}
        for i, (question, values) in enumerate(zip(questions, scores, strict=True)):
            values = torch.as_tensor(values)
            check_scores(question, values, f"scores[{i}]")
            self._scores[_key(question)] = values

    @property
    def settings(self) -> dict[str, Any]:
        """What changes with the scores: the records of others in a checkpoint are not used again."""
        return {"scores": digest([[key, values] for key, values in self._scores.items()])}

    @classmethod
    def from_explanations(cls, name: str, explanations: Sequence[Explanation]) -> PrecomputedScores:
        """The scores of explanations, each for its target.

        Args:
            name (`str`): what tables call it.
            explanations (`Sequence[Explanation]`): from [`BcosExplainer`], or made of other tokens and scores.

        Raises:
            ValueError: an explanation sums the logits of several tokens.
        """
        several = [one for one in explanations if one.target_ids is not None or one.foil_ids is not None]
        if several:
            raise ValueError("An explanation of several target tokens cannot be evaluated; explain one token each.")
        questions = [Question(torch.tensor(one.token_ids), one.target, one.foil) for one in explanations]
        return cls(name, questions, [torch.tensor(one.scores) for one in explanations])

    def __call__(self, model: nn.Module, question: Question) -> Tensor:
        """The scores of a question.

        Args:
            model (`torch.nn.Module`): not looked at.
            question ([`Question`]): what is asked.

        Raises:
            ValueError: there are none; tokens, target and foil must be those that were given.
        """
        key = _key(question)
        if key not in self._scores:
            same = [target for ids, target, _ in self._scores if ids == key[0]]
            found = f"its scores are for the target {same[0]}, not {key[1]}" if same else "other token ids are known"
            raise ValueError(
                f"The method {self.name!r} has no scores for a text of {len(question)} tokens: {found}. Explain the "
                "same texts with the same tokenizer and target."
            )
        return self._scores[key]


def _key(question: Question) -> tuple:
    return tuple(question.input_ids.tolist()), question.target, question.foil
