"""Plausibility: do the highest tokens agree with the words that people marked as their reasons?"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from math import comb
from typing import Any

import torch
from torch import Tensor, nn

from bcos_peft.evaluation.data import Example, Rationale, Texts
from bcos_peft.evaluation.metrics.base import Metric, Value, _Method
from bcos_peft.evaluation.metrics.ranking import _average_precision, _top_tokens
from bcos_peft.text import shares


class Plausibility(Metric):
    """How well the scores find the words that people marked. Larger is better; it says nothing about the model.

    Three numbers: the area under the precision-recall curve (AUPRC) of all scores, and token F1 and the intersection
    over union (IOU) of the highest tokens with the marked ones. A token counts as marked if it overlaps a marked
    stretch.

    The dataset must be [`Rationale`]s; with `target="label"` the class that people gave is explained.

    Args:
        top (`int` or `float`, *optional*): how many of the highest tokens are taken: a number, or a part (0 to 1) of
            the text. Default: as many as are marked in the text.

    Raises:
        ValueError: `top` is no such number.

    Example:
        >>> from bcos_peft.evaluation import Plausibility
        >>> list(Plausibility(top=5).values)
        ['auprc', 'token_f1', 'token_iou']

    Source: DeYoung et al. (ERASER, arXiv 1911.03429), section 4.1.
    """

    name = "plausibility"
    values = {
        "auprc": Value("AUPRC", True),
        "token_f1": Value("Token F1", True),
        "token_iou": Value("Token IOU", True),
    }

    def __init__(self, top: int | float | None = None):
        fits = isinstance(top, (int, float)) and not isinstance(top, bool)
        if top is not None and not (fits and top > 0 and (isinstance(top, int) or top <= 1)):
            raise ValueError(f"top must be a number of tokens (an int) or a part (a float up to 1), got {top!r}.")
        self.top = top

    def examples(self, texts: Texts) -> list[Example]:
        """One for each rationale that has a marked token; the others are left out, with a warning."""
        found = []
        keys = texts.keys()
        for i, (key, row) in enumerate(zip(keys, texts.items, strict=True)):
            if not isinstance(row, Rationale):
                raise TypeError(f"plausibility needs Rationale rows, but dataset[{i}] is a {type(row).__name__}.")
            encoding = texts.tokenize(row.text, f"dataset[{i}]")
            question = texts.ask(encoding, texts.target_of(i, encoding))
            inside = torch.tensor(shares(row.text, encoding.offsets, row.spans).sum(0) > 0)[question.ranked]
            if bool(inside.any()):  # not where the text was cut before its marks
                found.append(Example(key, row.text, (question,), inside, self._chance(inside)))
        if not found:
            raise ValueError("No text has a token that is marked.")
        if len(found) < len(texts.items):
            warnings.warn(
                f"{len(texts.items) - len(found)} of {len(texts.items)} rationales are left out: none of the tokens "
                "that the model reads is marked.",
                stacklevel=2,
            )
        return found

    def measure(
        self, model: nn.Module, examples: Sequence[Example], scores: Sequence[list[Tensor]], method: _Method
    ) -> list[dict[str, Any]]:
        """The three numbers."""
        rows = []
        for example, (values,) in zip(examples, scores, strict=True):
            ranked, marked = values[example.questions[0].ranked], example.data
            count = self._count(marked)
            chosen = _top_tokens(ranked, torch.arange(len(ranked)), count)
            hits = int(marked[chosen].sum())
            rows.append({"auprc": _average_precision(ranked, marked), **_overlap(hits, count, int(marked.sum()))})
        return rows

    def _count(self, marked: Tensor) -> int:
        if self.top is None:
            return int(marked.sum())
        wanted = round(self.top * len(marked)) if isinstance(self.top, float) else self.top
        return min(len(marked), max(1, wanted))

    def _chance(self, marked: Tensor) -> dict[str, float]:
        """The expected values under random order."""
        size, wanted, count = len(marked), int(marked.sum()), self._count(marked)
        harmonic = sum(1 / k for k in range(1, size + 1))
        precision = (harmonic + (wanted - 1) / max(1, size - 1) * (size - harmonic)) / size
        means = {"auprc": precision, "token_f1": 0.0, "token_iou": 0.0}
        for hits in range(max(0, count + wanted - size), min(count, wanted) + 1):
            likely = comb(wanted, hits) * comb(size - wanted, count - hits) / comb(size, count)
            for name, value in _overlap(hits, count, wanted).items():
                means[name] += likely * value
        return means


def _overlap(hits: int, count: int, wanted: int) -> dict[str, float]:
    return {"token_f1": 2 * hits / (count + wanted), "token_iou": hits / (count + wanted - hits)}
