"""Texts with the words that people marked as their reasons."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


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
