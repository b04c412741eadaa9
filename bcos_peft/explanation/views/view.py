"""What views draw of an explanation: pieces of text, rows of numbers and a headline, as plain values."""

from __future__ import annotations

from dataclasses import dataclass

from bcos_peft.explanation.views.text import format_score


@dataclass(frozen=True)
class Piece:
    """A stretch of text to print in one colour.

    Args:
        text (`str`): The characters, free of control characters.
        kind (`str`): "word", "special", "space" (between words) or "unseen" (text that no token covers).
        score (`float`): Contribution in logit units (0 for "space" and "unseen").
        strength (`float`): The same from -1 to 1, relative to the largest contribution in the text.
        marked (`bool`): Whether it is among the top contributions.
        noted (`bool`): Whether it is marked, not weak, and has room for its number below it.
        explained (`bool`): Whether it is the token whose output is explained.
        passage (`int`, *optional*): The number of its message, where that shares a line with something else.
    """

    text: str
    kind: str
    score: float = 0.0
    strength: float = 0.0
    marked: bool = False
    noted: bool = False
    explained: bool = False
    passage: int | None = None


@dataclass(frozen=True)
class Row:
    """One line of the table: `kind` is "top", "rest", "special" or "part"; `strength` as in `Piece`."""

    label: str
    score: float
    strength: float
    kind: str


@dataclass(frozen=True)
class View:
    """One explanation, laid out: strings and numbers, and nothing that knows a model or a tokenizer.

    Args:
        facts (`list[tuple[str, str]]`): The headline, as names and values.
        lines (`list[list[Piece]]`): The text, or both texts of a pair.
        rows (`list[Row]`): Top contributions, the others together, special tokens, the baseline; their scores sum to
            the total.
        parts (`list[Row]`): Sums by source, if the explanation was split.
        scale (`float`): The contribution that has strength 1.
        target (`str`): Label that positive contributions speak for.
        against (`str`): What negative contributions speak for.
        logit_name (`str`): "logit", or "logit difference" with a foil.
        total (`float`): Sum of all contributions, in logit units.
        logit (`float`): What they sum to.
        residual (`float`): The logit less the total.
        exact (`bool`): Whether the contributions sum to the logit.
        unseen (`int`): Characters that no token covers.
        note (`str`, *optional*): What a reader should know of the architecture.
    """

    facts: list[tuple[str, str]]
    lines: list[list[Piece]]
    rows: list[Row]
    parts: list[Row]
    scale: float
    target: str
    against: str
    logit_name: str
    total: float
    logit: float
    residual: float
    exact: bool
    unseen: int
    note: str | None = None

    def number(self, value: float) -> str:
        """A contribution as text, with as many decimals as the largest one needs."""
        return format_score(value, self.scale)
