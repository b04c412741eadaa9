"""What views draw of an explained generation, as plain values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bcos_peft.explanation.views.text import format_score
from bcos_peft.explanation.views.view import Row


@dataclass(frozen=True)
class Unit:
    """A stretch of text to print in one colour: a word of the prompt, or a generated token.

    Args:
        text (`str`): The characters, free of control characters.
        kind (`str`): "word", "special" or "space" (what lies between).
        tokens (`tuple[int, ...]`): The tokens it is made of; none for a space.
        step (`int`, *optional*): The number of its `Step`; `None` in the prompt.
        passage (`int`, *optional*): The number of its message, where that shares a line with something else.
    """

    text: str
    kind: str
    tokens: tuple[int, ...] = ()
    step: int | None = None
    passage: int | None = None


@dataclass(frozen=True)
class Step:
    """One generated unit of text, or the whole answer.

    Args:
        label (`str`): What was generated.
        foil (`str`, *optional*): What it is compared with.
        probability (`float`): 0 to 1.
        logit (`float`): The explained value, in logit units.
        residual (`float`): The logit less all contributions.
        exact (`bool`): Whether the contributions sum to the logit.
        strengths (`np.ndarray`): `(units that have tokens,)`, -1 to 1, relative to the largest of the step.
        scale (`float`): The contribution that has strength 1.
        sources (`list[Row]`): The largest contributions, the others together, special tokens, the baseline; they sum
            to the total.
        passages (`list[Row]`): Sums by segment, the rest, and the baseline.
    """

    label: str
    foil: str | None
    probability: float
    logit: float
    residual: float
    exact: bool
    strengths: np.ndarray
    scale: float
    sources: list[Row]
    passages: list[Row]

    def number(self, value: float) -> str:
        """A contribution as text, with as many decimals as the largest one needs."""
        return format_score(value, self.scale)


@dataclass(frozen=True)
class GenerationView:
    """An explained generation, laid out.

    Args:
        prompt (`list[Unit]`): The text before the answer.
        answer (`list[Unit]`): The generated text.
        steps (`list[Step]`): One for each unit of the answer that has tokens.
        whole (`Step`): The answer as one.
        compared (`bool`): Whether logits are differences.
        note (`str`, *optional*): What a reader should know of the architecture.
    """

    prompt: list[Unit]
    answer: list[Unit]
    steps: list[Step]
    whole: Step
    compared: bool
    note: str | None = None

    @property
    def logit_name(self) -> str:
        """What the contributions sum to."""
        return "logit difference" if self.compared else "logit"
