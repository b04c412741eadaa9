"""Plausibility: do the highest tokens agree with the words that people marked as their reasons?"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import comb
from typing import Any

import torch
from torch import Tensor, nn

from bcos_peft.evaluation.metrics.base import Example, Method, Metric, Texts, Value, key_of, unique_keys
from bcos_peft.evaluation.metrics.ranking import average_precision, top_tokens
from bcos_peft.text.segments import shares


__all__ = ["Plausibility", "Rationale", "hatexplain_rationales"]


@dataclass(frozen=True)
class Rationale:
    """A text and the stretches of it that people marked as the reason for its label.

    Args:
        text (`str`): the text.
        spans (`tuple[tuple[int, int], ...]`): what is marked, by characters.
        label (`int` or `str`, *optional*): the class that people gave.

    Raises:
        ValueError: a stretch is empty or lies outside the text.

    Example:
        >>> from bcos_peft.evaluation import Rationale
        >>> Rationale.from_words(["A", "gripping", "film"], [0, 1, 0], label="POSITIVE").spans
        ((2, 10),)
    """

    text: str
    spans: tuple[tuple[int, int], ...]
    label: int | str | None = None

    def __post_init__(self) -> None:
        for start, end in self.spans:
            if not 0 <= start < end <= len(self.text):
                raise ValueError(
                    f"The span {(start, end)} is no part of a text of {len(self.text)} characters; it must be (start, "
                    f"end) with 0 <= start < end <= {len(self.text)}."
                )

    @classmethod
    def from_words(cls, words: Sequence[str], marks: Sequence[int], label: int | str | None = None) -> Rationale:
        """A text given as words, with a mark for each.

        Args:
            words (`Sequence[str]`): they are joined by spaces.
            marks (`Sequence[int]`): 1 for words that are marked, else 0.
            label (`int` or `str`, *optional*): the class that people gave.

        Raises:
            ValueError: there are not as many marks as words.
        """
        if len(words) != len(marks):
            raise ValueError(f"There are {len(marks)} marks for {len(words)} words.")
        spans, start = [], 0
        for word, mark in zip(words, marks, strict=True):
            if mark and word:
                spans.append((start, start + len(word)))
            start += len(word) + 1
        return cls(" ".join(words), tuple(spans), label)


def hatexplain_rationales(rows: Iterable[Mapping[str, Any]], count: int | None = None) -> list[Rationale]:
    """Rationales of the rows of HateXplain (`Hate-speech-CNERG/hatexplain` on the hub).

    The label is that of most annotators; a word is marked if at least half of those who marked words have marked it.
    Posts without marks ("normal" ones) and without a majority are left out.

    Args:
        rows (`Iterable[Mapping]`): with `post_tokens`, `rationales` and `annotators`.
        count (`int`, *optional*): so many at most, from the beginning.

    Returns:
        `list[Rationale]`: with the data set's label numbers: 0 hate speech, 1 normal, 2 offensive.

    Raises:
        ValueError: no row has marks.

    Example:
        >>> from bcos_peft.evaluation import hatexplain_rationales
        >>> row = {"post_tokens": ["you", "fools"], "annotators": {"label": [2, 2, 0]}, "rationales": [[0, 1], [1, 1]]}
        >>> hatexplain_rationales([row])
        [Rationale(text='you fools', spans=((0, 3), (4, 9)), label=2)]

    Source: Mathew et al. (HateXplain, arXiv 2012.10289), section 3.
    """
    found = []
    for row in rows:
        people = row["annotators"]
        labels = list(people["label"]) if isinstance(people, Mapping) else [person["label"] for person in people]
        best = max(set(labels), key=labels.count)
        words = list(row["post_tokens"])
        marked = [list(marks) for marks in row["rationales"] if len(marks) == len(words)]
        if not marked or 2 * labels.count(best) <= len(labels):
            continue
        marks = [2 * sum(column) >= len(marked) for column in zip(*marked, strict=True)]
        if any(marks):
            found.append(Rationale.from_words(words, marks, best))
        if len(found) == count:
            break
    if not found:
        raise ValueError("No row has words that annotators marked.")
    return found


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
        keys = unique_keys([key_of(row) for row in texts.items])
        for i, (key, row) in enumerate(zip(keys, texts.items, strict=True)):
            if not isinstance(row, Rationale):
                raise TypeError(f"plausibility needs Rationale rows, but dataset[{i}] is a {type(row).__name__}.")
            encoding = texts.tokenize(row.text, f"dataset[{i}]")
            question = texts.ask(encoding, texts.target_of(i))
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
        self, model: nn.Module, examples: Sequence[Example], scores: Sequence[list[Tensor]], method: Method
    ) -> list[dict[str, Any]]:
        """The three numbers."""
        rows = []
        for example, (values,) in zip(examples, scores, strict=True):
            ranked, marked = values[example.questions[0].ranked], example.data
            count = self._count(marked)
            chosen = top_tokens(ranked, torch.arange(len(ranked)), count)
            hits = int(marked[chosen].sum())
            rows.append({"auprc": average_precision(ranked, marked), **_overlap(hits, count, int(marked.sum()))})
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
