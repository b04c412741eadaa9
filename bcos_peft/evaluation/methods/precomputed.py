"""Scores that were computed elsewhere, as a method: anybody's attributions can be evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from bcos_peft._utils.digest import digest
from bcos_peft.evaluation.questions import Question, as_scores, check_scores
from bcos_peft.explanation import Explanation


class PrecomputedScores:
    """A method that looks its scores up, by the token ids of a text, the target and the foil.

    Args:
        name (`str`): what tables call it.
        questions (`Sequence[Question]`): what the scores are of.
        scores (`Sequence`): for each question `(length,)` numbers, a tensor, an array or a list; or one for each token
            that is not special, and special ones get 0.

    Raises:
        ValueError: there are not as many scores as questions, or some do not fit their text.
        TypeError: scores are no numbers.

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

    def __init__(self, name: str, questions: Sequence[Question], scores: Sequence):
        if len(questions) != len(scores):
            raise ValueError(f"There are {len(scores)} scores for {len(questions)} questions.")
        self.name = name
        self._scores: dict[tuple, Tensor] = {}
        for i, (question, values) in enumerate(zip(questions, scores, strict=True)):
            values = as_scores(values, f"scores[{i}]")
            if values.shape == question.ranked.shape:
                values = _spread(question, values)
            check_scores(question, values, f"scores[{i}]")
            self._scores[_key(question)] = values

    @cached_property
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

    @classmethod
    def from_tokens(
        cls,
        name: str,
        tokenizer,
        tokens: Sequence[Sequence[str]],
        scores: Sequence,
        targets: int | Sequence[int] | None = None,
    ) -> PrecomputedScores:
        """Plain tokens and their scores, with special tokens or without; those that are missing get 0.

        Args:
            name (`str`): what tables call it.
            tokenizer ([`~transformers.PreTrainedTokenizerBase`]): that the tokens are of.
            tokens (`Sequence[Sequence[str]]`): of each text, as the tokenizer writes them.
            scores (`Sequence`): of each text, one number for each token.
            targets (`int` or `Sequence[int]`, *optional*): the class that the scores are for, one for all texts or
                one each. Default: they answer for whatever class is asked, so ask for the one that they explain.

        Raises:
            ValueError: numbers of texts, tokens and scores differ, or the tokenizer does not know a token.
            TypeError: scores are no numbers.

        Example:
            >>> from transformers import AutoTokenizer
            >>> from bcos_peft.evaluation import PrecomputedScores
            >>> tokenizer = AutoTokenizer.from_pretrained("google-bert/bert-base-uncased")
            >>> tokens = tokenizer.tokenize("A gripping film.")
            >>> PrecomputedScores.from_tokens("mine", tokenizer, [tokens], [range(len(tokens))]).name
            'mine'
        """
        several = [targets] * len(tokens) if targets is None or isinstance(targets, int) else targets
        if not len(tokens) == len(scores) == len(several):
            raise ValueError(f"There are {len(tokens)} texts, {len(scores)} rows of scores, {len(several)} targets.")
        found = cls(name, [], [])
        for i, (row, values, target) in enumerate(zip(tokens, scores, several, strict=True)):
            ids = [_id(tokenizer, token, f"tokens[{i}]") for token in row]
            values = as_scores(values, f"scores[{i}]")
            check_scores(Question(torch.tensor(ids), 0), values, f"scores[{i}]")
            found._scores[tuple(ids), target, None] = values
        return found

    def __call__(self, model: nn.Module, question: Question) -> Tensor:
        """The scores of a question.

        Args:
            model (`torch.nn.Module`): not looked at.
            question ([`Question`]): what is asked.

        Raises:
            ValueError: there are none; tokens, target and foil must be those that were given.
        """
        whole, target, foil = _key(question)
        words = tuple(question.input_ids[question.ranked].tolist())
        for key in ((whole, target, foil), (whole, None, None)):
            if key in self._scores:
                return self._scores[key]
        for key in ((words, target, foil), (words, None, None)):
            if key in self._scores:
                return _spread(question, self._scores[key])
        same = [_asked(*known) for ids, *known in self._scores if ids in (whole, words)]
        found = f"its scores are for {same[0]}, not {_asked(target, foil)}" if same else "other token ids are known"
        raise ValueError(
            f"The method {self.name!r} has no scores for a text of {len(question)} tokens: {found}. Explain the "
            "same texts with the same tokenizer, target and foil."
        )


def _asked(target: int | None, foil: int | None) -> str:
    return f"the target {target}" + ("" if foil is None else f" against {foil}")


def _key(question: Question) -> tuple:
    return tuple(question.input_ids.tolist()), question.target, question.foil


def _spread(question: Question, values: Tensor) -> Tensor:
    """Scores of the tokens that are not special, as scores of all: 0 for special ones."""
    found = torch.zeros(len(question), dtype=values.dtype)
    found[question.ranked] = values
    return found


def _id(tokenizer, token: str, where: str) -> int:
    found = tokenizer.convert_tokens_to_ids(token)
    if found is None or (found == tokenizer.unk_token_id and token != tokenizer.unk_token):
        raise ValueError(
            f"{where} has {token!r}, which the tokenizer does not know; give tokens as it writes them, as "
            "tokenizer.tokenize(text) does."
        )
    return found
