"""How the contributions of an explanation are read: by token, word, stretch of text and passage. Pure data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral

import numpy as np

from bcos_peft._utils.arguments import checked_arguments
from bcos_peft.explanation.checks import _checked_span
from bcos_peft.text import Span, known_segments, refuse_overlap, shares, strip_span, sum_segments


def _members(weights: np.ndarray) -> tuple[int, ...]:
    return tuple(np.flatnonzero(weights).tolist())


def _joined(
    texts: tuple[str, str], offsets: Sequence[Span | None], sequence_ids: Sequence[int | None]
) -> tuple[str, list[Span | None], dict[str, Span]]:
    """Both texts of a pair as one, the places of the tokens in it, and those of the texts."""
    starts = 0, len(texts[0]) + 1
    places = [
        None if span is None or sequence is None else (span[0] + starts[sequence], span[1] + starts[sequence])
        for span, sequence in zip(offsets, sequence_ids, strict=True)
    ]
    names = zip(("first", "second"), starts, texts, strict=True)
    whole = {name: (start, start + len(text)) for name, start, text in names}
    return "\n".join(texts), places, {name: span for name, span in whole.items() if span[0] < span[1]}


@dataclass(frozen=True)
class Contribution:
    """A piece of text and what it adds to the explained logit.

    Args:
        text (`str`): The characters, or the token itself where it has no place in the text.
        score (`float`): Contribution in logit units; positive speaks for the target.
        start (`int`, *optional*): First character in its text.
        end (`int`, *optional*): One past its last character.
        index (`int`): Number of the token, word or span, as the method that made it counts.
        sequence_id (`int`, *optional*): Which text of a pair; `None` for special tokens.
        special (`bool`): Whether this is a special token.
        token_indices (`tuple[int, ...]`): The tokens it is made of.

    Example:

    ```python
    >>> from bcos_peft import Contribution

    >>> piece = Contribution("gripping", 3.0, start=2, end=10, index=0, token_indices=(2, 3))
    >>> piece.text, piece.score
    ('gripping', 3.0)

    ```
    """

    text: str
    score: float
    start: int | None
    end: int | None
    index: int
    sequence_id: int | None = 0
    special: bool = False
    token_indices: tuple[int, ...] = ()


class _Readings:
    """What can be read off an [`Explanation`], which has the fields.

    Example:

    ```python
    >>> from bcos_peft.explanation import Explanation

    >>> explanation = Explanation(
    ...     tokens=["un", "happy", "end"], scores=[-1.0, -2.0, 0.5], text="unhappy end",
    ...     offsets=[(0, 2), (2, 7), (8, 11)], sequence_ids=[0, 0, 0], special=[False, False, False],
    ...     token_ids=[4, 5, 6], target=1, target_label="positive", predicted=0, predicted_label="negative",
    ...     logit=-2.5, probability=0.08,
    ... )
    >>> [(piece.text, piece.score) for piece in explanation.spans(["unhappy", (8, 11)])]
    [('unhappy', -3.0), ('end', 0.5)]
    >>> explanation.by_segment({"mood": "unhappy"})
    {'mood': -3.0, 'rest': 0.5}

    ```
    """

    tokens: list[str]
    scores: np.ndarray
    text: str | tuple[str, str]
    offsets: list[tuple[int, int] | None]
    sequence_ids: list[int | None]
    special: list[bool]
    target: int
    target_label: str
    predicted: int
    predicted_label: str
    logit: float
    probability: float | None
    foil: int | None
    foil_label: str | None
    residual: float | None
    position: int | None
    parts: dict[str, np.ndarray] | None
    word_ids: list[int | None] | None
    segments: dict[str, tuple[int, int]] | None
    baseline: float | None
    constants: float | None
    positions: list[int] | None

    @property
    def texts(self) -> tuple[str, ...]:
        """The text as a tuple of one, or both texts of a pair."""
        return (self.text,) if isinstance(self.text, str) else self.text

    @property
    def total(self) -> float:
        """Sum of all contributions, baseline and constants, in logit units; `total + residual` is the logit."""
        return float(self.scores.sum()) + (self.baseline or 0.0) + (self.constants or 0.0)

    @property
    def special_score(self) -> float:
        """Summed contribution of the special tokens, in logit units."""
        return float(self.scores[np.array(self.special, dtype=bool)].sum())

    @checked_arguments
    def top(self, k: int = 5, include_special: bool = False, words: bool = False) -> list[Contribution]:
        """The largest contributions by absolute value, the largest first.

        Args:
            k (`int`, defaults to 5): How many; fewer come back if there are fewer.
            include_special (`bool`, defaults to `False`): Whether special tokens compete too.
            words (`bool`, defaults to `False`): Rank words instead of tokens.

        Returns:
            `list[Contribution]`: `index` is the token's index, or the word's with `words=True`. Equal tokens are
            separate entries; ties keep the order of the text.

        Raises:
            ValueError: If `k` is negative.
        """
        if k < 0:
            raise ValueError(f"k={k} must not be negative.")
        if words:
            pieces = self.words(include_special=include_special)
        else:
            indices = (i for i in range(len(self.tokens)) if include_special or not self.special[i])
            pieces = [self.merge([i], index=i) for i in indices]
        return sorted(pieces, key=lambda piece: -abs(piece.score))[:k]

    @checked_arguments
    def words(self, include_special: bool = False) -> list[Contribution]:
        """Contributions merged word by word, in the order of the text.

        Args:
            include_special (`bool`, defaults to `False`): Whether special tokens appear, each on its own.

        Returns:
            `list[Contribution]`: `index` is the word's number in `word_ids` (the token's for special tokens). With
            special tokens the scores sum to `total`, less the `baseline` if there is one.
        """
        groups: dict[object, list[int]] = {}
        for i, word in enumerate(self.word_ids):
            if word is not None:
                groups.setdefault(word, []).append(i)
            elif include_special:
                groups[("special", i)] = [i]
        return [
            self.merge(indices, index=indices[0] if isinstance(key, tuple) else key) for key, indices in groups.items()
        ]

    @checked_arguments
    def spans(self, spans: Sequence[tuple[int, int] | str], sequence_id: int = 0) -> list[Contribution]:
        """Contributions of chosen stretches of a text.

        A token counts with the span it overlaps, whole even if it reaches beyond it; a token that overlaps several of
        the spans is divided among them in proportion to the characters each shares with it. So no score is counted
        twice. White space at the ends of a token does not count as overlap.

        Args:
            spans (`Sequence[tuple[int, int] | str]`): Character spans `(start, end)`, or substrings that occur once.
            sequence_id (`int`, defaults to 0): Which text of a pair.

        Returns:
            `list[Contribution]`: One per span, in the order given; `index` counts the spans.

        Raises:
            TypeError: If it is one span instead of a list.
            ValueError: If a span lies outside the text or is empty, two spans overlap, or a substring does not occur
                exactly once.
        """
        if not 0 <= sequence_id < len(self.texts):
            raise ValueError(f"sequence_id={sequence_id} is no text; the number of texts is {len(self.texts)}.")
        if isinstance(spans, str) or (len(spans) and isinstance(spans[0], Integral)):
            raise TypeError(f"spans must be a list of spans or substrings; write [{spans!r}].")
        text = self.texts[sequence_id]
        places = [_checked_span(text, span) for span in spans]
        refuse_overlap({f"span {i}": place for i, place in enumerate(places)})
        offsets = [
            span if self.sequence_ids[i] == sequence_id and not self.special[i] else None
            for i, span in enumerate(self.offsets)
        ]
        weights = shares(text, offsets, places)
        return [
            Contribution(text[low:high], float(self.scores @ row), low, high, j, sequence_id, False, _members(row))
            for j, ((low, high), row) in enumerate(zip(places, weights, strict=True))
        ]

    def by_segment(self, segments: Mapping[str, tuple[int, int] | str] | None = None) -> dict[str, float]:
        """Contributions summed by passage: retrieved documents, turns of a chat, steps of a reasoning.

        Tokens are placed as in `spans`, special tokens too where they have a place in the text.

        Args:
            segments (`Mapping[str, tuple[int, int] | str]`, *optional*):
                By name, a character span of `text` or a substring that occurs once. Default: the messages of a chat;
                of a pair its two texts, `"first"` and `"second"`. In a pair a substring occurs once in both texts
                together, and a span counts on from the first into the second, one character between them.

        Returns:
            `dict[str, float]`: In the order given, then `"rest"`, which holds every other token, and `"baseline"` and
            `"constants"`, if there are any. The values sum to `total`, which is the logit less `residual`.

        Raises:
            TypeError: If `segments` is no dict from names to spans or substrings.
            ValueError: If a substring is missing or ambiguous, a span is empty or lies outside the text, segments
                overlap, one is called "rest" (or "baseline", if there is one), or none are given and there are no
                messages.
        """
        text, offsets, known = self.text, self.offsets, self.segments
        if not isinstance(text, str):
            text, offsets, known = _joined(text, offsets, self.sequence_ids)
        places = known_segments(segments, known)
        sums = sum_segments(text, offsets, self.scores, places, baseline=self.baseline, constants=self.constants)
        return {name: float(value) for name, value in sums.items()}

    def merge(self, indices: Sequence[int], index: int) -> Contribution:
        """Sums some tokens into one `Contribution` that spans them; `index` becomes its number."""
        sequence_id, special = self.sequence_ids[indices[0]], self.special[indices[0]]
        score = float(self.scores[list(indices)].sum())
        raw = [self.offsets[i] for i in indices if self.offsets[i] is not None]
        if sequence_id is None or not raw:
            text, start, end = "".join(self.tokens[i] for i in indices), None, None
        else:
            whole = self.texts[sequence_id]
            inked = [span for span in (strip_span(whole, span) for span in raw) if span[0] < span[1]] or raw
            start, end = min(span[0] for span in inked), max(span[1] for span in inked)
            text = whole[start:end] or "".join(self.tokens[i] for i in indices)
        return Contribution(text, score, start, end, index, sequence_id, special, tuple(indices))
