"""Passage attribution: the answer stands in one of several passages; has that one the largest contribution?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bcos_peft._utils.checks import valid_count
from bcos_peft.evaluation.data import Example, PlantedAnswer, Texts
from bcos_peft.evaluation.metrics.base import Metric, Value, _Method
from bcos_peft.evaluation.metrics.contrastive import _check_language_model, _next_word, _too_long
from bcos_peft.evaluation.metrics.ranking import _expected_reciprocal_rank
from bcos_peft.evaluation.questions import probabilities
from bcos_peft.text import shares


class PassageAttribution(Metric):
    """How often the passage with the largest contribution is the one that has the answer. Larger is better.

    A passage's contribution is the sum of the scores of its tokens. Two numbers: hit@1, and the reciprocal rank of the
    right passage; passages of equal contribution share their ranks. Besides: how often the model gives the answer's
    first token (of the model, the same for every method). The answer's first token is what is explained.

    The dataset must be [`PlantedAnswer`]s and the model a causal language model.

    Args:
        contrast (`bool`, defaults to `False`): explain the answer against the foil, where there is one.
        batch_size (`int`, defaults to 32): texts in one forward.

    Example:
        >>> from bcos_peft.evaluation import PassageAttribution
        >>> list(PassageAttribution().values)
        ['passage_hit', 'passage_mrr', 'answer_given']
    """

    name = "passage_attribution"
    values = {
        "passage_hit": Value("Passage hit@1", True),
        "passage_mrr": Value("Passage MRR", True),
        "answer_given": Value("Answer given"),
    }

    def __init__(self, contrast: bool = False, batch_size: int = 32):
        valid_count("batch_size", batch_size, least=1)
        self.contrast, self._batch_size = contrast, batch_size

    def examples(self, texts: Texts) -> list[Example]:
        """One for each prompt. A prompt that is too long is refused: cut, it could lack its answer."""
        _check_language_model(texts.model, self.name)
        found = []
        keys = texts.keys()
        for i, (key, row) in enumerate(zip(keys, texts.items, strict=True)):
            if not isinstance(row, PlantedAnswer):
                raise TypeError(
                    f"passage_attribution needs PlantedAnswer rows, but dataset[{i}] is a {type(row).__name__}."
                )
            foil = row.foil if self.contrast else None
            for word in (row.answer, foil):
                long = word is not None and _too_long(texts, f"{row.prompt} {word}")
                if long:
                    raise ValueError(
                        f"dataset[{i}] has {long}. Shorten it or leave it out: a prompt that is cut could lack its "
                        "answer."
                    )
            question = _next_word(texts, row.prompt, row.answer, foil, f"dataset[{i}]")
            if question is None:
                raise ValueError(f"dataset[{i}]: in this tokenizer {row.answer!r} cannot follow the prompt.")
            whole = f"{row.prompt} {row.answer}"
            offsets = texts.tokenize(whole).offsets[: len(question)]
            weights = torch.tensor(shares(whole, offsets, row.passages), dtype=torch.float64)
            if bool((weights.sum(1) == 0).any()):
                raise ValueError(f"dataset[{i}] has a passage without a token.")
            size = len(row.passages)
            chance = {"passage_hit": 1 / size, "passage_mrr": sum(1 / k for k in range(1, size + 1)) / size}
            found.append(Example(key, whole, (question,), (weights, row.gold), chance))
        return found

    def measure(
        self, model: nn.Module, examples: Sequence[Example], scores: Sequence[list[Tensor]], method: _Method
    ) -> list[dict[str, Any]]:
        """hit@1, reciprocal rank, whether the model answers, and each passage's contribution."""
        questions = [example.questions[0] for example in examples]
        likely = probabilities(model, questions, batch_size=self._batch_size).argmax(1).tolist()
        rows = []
        for example, question, (values,), best in zip(examples, questions, scores, likely, strict=True):
            weights, gold = example.data
            sums = weights @ values.double()
            right = torch.arange(len(sums)) == gold
            first = sums == sums.max()
            rows.append(
                {
                    "passage_hit": float(first[gold]) / int(first.sum()),
                    "passage_mrr": _expected_reciprocal_rank(sums, right),
                    "answer_given": float(best == question.target),
                    "contributions": sums.tolist(),
                }
            )
        return rows
