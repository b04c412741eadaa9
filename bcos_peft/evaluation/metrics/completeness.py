"""Completeness: do the scores sum to what is explained?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bcos_peft._utils.checks import valid_count
from bcos_peft.evaluation.data import Example, Texts
from bcos_peft.evaluation.metrics.base import Metric, Value, _Method
from bcos_peft.evaluation.questions import Question, logits


def completeness_gaps(
    model: nn.Module, questions: Sequence[Question], scores: Sequence[Tensor], batch_size: int = 32
) -> list[float]:
    """What the scores leave unexplained of each logit: `|logit − Σ scores|`, in logit units.

    Args:
        model (`torch.nn.Module`): that the scores are of.
        questions (`Sequence[Question]`): the texts; with a foil the difference of logits counts.
        scores (`Sequence[torch.Tensor]`): `(length,)` for each, special tokens included.
        batch_size (`int`, defaults to 32): texts in one forward.

    Example:
        >>> import torch
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> from bcos_peft import BcosConfig, get_bcos_model
        >>> from bcos_peft.evaluation import Question, completeness_gaps, get_method
        >>> config = BertConfig(num_hidden_layers=1, hidden_size=16, num_attention_heads=2, intermediate_size=32)
        >>> model = get_bcos_model(BertForSequenceClassification(config), BcosConfig())
        >>> question = Question(torch.tensor([101, 7592, 102]), target=1)
        >>> completeness_gaps(model, [question], [get_method("bcos")(model, question)])[0] < 1e-4
        True
    """
    values = _explained(model, questions, batch_size)
    return [abs(value - float(row.double().sum())) for value, row in zip(values, scores, strict=True)]


class Completeness(Metric):
    """By how much the sum of the scores misses the logit. Smaller is better.

    Three numbers: the gap in logit units; the gap as a part of all that it could be, `gap / (|logit| + |Σ scores|)`,
    0 to 1; and, for methods that say themselves what their scores should sum to (integrated gradients: the difference
    to the baseline), how far off they are from that. Methods that only rank (attention, saliency) are not made to sum
    to anything: their gap says so and no more.

    Args:
        batch_size (`int`, defaults to 32): texts in one forward.

    Example:
        >>> from bcos_peft.evaluation import Completeness
        >>> list(Completeness().values)
        ['completeness_gap', 'completeness_gap_share', 'own_gap']

    Source: Sundararajan et al. (integrated gradients, arXiv 1703.01365), section 3, for the property.
    """

    name = "completeness"
    values = {
        "completeness_gap": Value("Gap to the logit", False),
        "completeness_gap_share": Value("Gap to the logit (share)", False),
        "own_gap": Value("Gap to the method's own sum", False),
    }

    def __init__(self, batch_size: int = 32):
        valid_count("batch_size", batch_size, least=1)
        self._batch_size = batch_size

    def examples(self, texts: Texts) -> list[Example]:
        """One for each text."""
        return texts.examples()

    def measure(
        self, model: nn.Module, examples: Sequence[Example], scores: Sequence[list[Tensor]], method: _Method
    ) -> list[dict[str, Any]]:
        """The gaps; the method's own where it has a `total(model, question)`."""
        questions = [example.questions[0] for example in examples]
        rows = []
        explained = _explained(model, questions, self._batch_size)
        for question, value, (given,) in zip(questions, explained, scores, strict=True):
            total = float(given.double().sum())
            gap, most = abs(value - total), abs(value) + abs(total)
            row = {"completeness_gap": gap, "completeness_gap_share": gap / most if most else 0.0}
            own = method.total(model, question) if hasattr(method, "total") else None
            if own is not None:
                row["own_gap"] = abs(own - total)
            rows.append(row)
        return rows


def _explained(model: nn.Module, questions: Sequence[Question], batch_size: int) -> list[float]:
    found = []
    step = 4 * batch_size  # logits of a language model have a whole vocabulary
    for start in range(0, len(questions), step):
        part = questions[start : start + step]
        values = logits(model, part, batch_size=batch_size).double().cpu()
        rows = torch.arange(len(part))
        targets = values[rows, [question.target for question in part]]
        foils = [values[i, q.foil] if q.foil is not None else torch.zeros(()) for i, q in enumerate(part)]
        found += (targets - torch.stack(foils)).tolist()
    return found
