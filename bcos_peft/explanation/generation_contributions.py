"""How the contributions of an explained generation are read: prompt, answer, and sums by passage. Pure data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bcos_peft._utils.arguments import checked_arguments
from bcos_peft.text import known_segments, sum_segments


class _GenerationReadings:
    """What can be read off a [`GenerationExplanation`], which says what the fields are."""

    text: str
    tokens: list[str]
    token_ids: list[int]
    offsets: list[tuple[int, int] | None]
    special: list[bool]
    prompt_length: int
    scores: np.ndarray
    logits: np.ndarray
    probabilities: np.ndarray
    labels: dict[int, str]
    foils: list[int] | None
    residuals: np.ndarray | None
    segments: dict[str, tuple[int, int]] | None
    baselines: np.ndarray | None
    constants: np.ndarray | None

    def __len__(self) -> int:
        return len(self.tokens) - self.prompt_length

    @property
    def answer(self) -> str:
        """The generated text, without special tokens."""
        places = self.offsets[self.prompt_length :]
        seen, pieces = self.prompt_end, []
        for place, special in zip(places, self.special[self.prompt_length :], strict=True):
            if place is not None and place[1] > seen:
                pieces.append("" if special else self.text[max(seen, place[0]) : place[1]])
                seen = place[1]
        return "".join(pieces)

    @property
    def prompt(self) -> str:
        """The text before the generated one."""
        return self.text[: self.prompt_end]

    @property
    def prompt_end(self) -> int:
        """Where in `text` the prompt ends and the generated text begins."""
        starts = [place[0] for place in self.offsets[self.prompt_length :] if place is not None]
        return min(starts, default=len(self.text))

    @checked_arguments
    def by_segment(
        self, segments: Mapping[str, tuple[int, int] | str] | None = None, whole: bool = False
    ) -> dict[str, Any]:
        """Contributions summed by passage: retrieved documents, turns of a chat, steps of a reasoning.

        Args:
            segments (`Mapping[str, tuple[int, int] | str]`, *optional*):
                By name, a character span of `text` or a substring that occurs once: in the prompt or, where the prompt
                does not have it, in the generated text. (Models repeat what they read.) Default: the messages of a
                chat, or the prompt; and the answer.
            whole (`bool`, defaults to `False`): Also add up the generated tokens.

        Returns:
            `dict[str, np.ndarray]`: Arrays of shape `(generated,)` in the order given, then `"rest"`, which holds
            every other token, and `"baseline"`, if there is one; with `whole=True` numbers. The values sum to the
            logits less their residuals.

        Raises:
            TypeError: If `segments` is no dict from names to spans or substrings.
            ValueError: If a substring is missing or ambiguous, a span is empty or lies outside the text, segments
                overlap, or one is called "rest" (or "baseline", if there is one).

        Example:

        ```python
        >>> from bcos_peft import GenerationExplanation

        >>> explanation = GenerationExplanation(
        ...     text="one two three", tokens=["one", " two", " three"], token_ids=[4, 5, 6], prompt_length=2,
        ...     offsets=[(0, 3), (3, 7), (7, 13)], special=[False, False, False], scores=[[0.5, 2.0, 0]],
        ...     logits=[2.5], probabilities=[0.9], predicted=[6], labels={6: " three"},
        ... )
        >>> explanation.by_segment({"first": "one"}, whole=True)
        {'first': 0.5, 'rest': 2.0}

        ```
        """
        places = known_segments(segments, self.segments)
        sums = sum_segments(
            self.text, self.offsets, self.scores, places, self.prompt_end, self.baselines, self.constants
        )
        return {name: float(values.sum()) if whole else values for name, values in sums.items()}
