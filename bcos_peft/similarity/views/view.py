"""What views draw of an explained similarity, as plain values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bcos_peft.explanation.views import Piece, format_score


@dataclass(frozen=True)
class Passage:
    """One text.

    Args:
        name (`str`): What it is called.
        pieces (`list[Piece]`): Its units in order, with the characters between them; "word" and "special" are units.
        labels (`list[str]`): Each unit on one line.
        scale (`float`): The sum of a unit that has strength 1.
        kinds (`tuple[str, str]`): What a negative and a positive sum does.
        unseen (`int`): Characters that no token covers.
    """

    name: str
    pieces: list[Piece]
    labels: list[str]
    scale: float
    kinds: tuple[str, str]
    unseen: int = 0

    @property
    def units(self) -> list[Piece]:
        """The pieces that have a score."""
        return [piece for piece in self.pieces if piece.kind in ("word", "special")]


@dataclass(frozen=True)
class Pairs:
    """Two texts of a page, and what each unit of one adds with each of the other.

    Args:
        a (`int`): Number of the first text.
        b (`int`): Number of the second.
        matrix (`np.ndarray`): `(units of a, units of b)`.
    """

    a: int
    b: int
    matrix: np.ndarray


@dataclass(frozen=True)
class Line:
    """One line of the table.

    Args:
        labels (`list[str]`): A pair of units, one unit, or what is summed.
        scores (`list[float]`): Its numbers, the last of which is drawn as a bar.
        strength (`float`): Of the last number, -1 to 1.
        kind (`str`): "top", "rest" or "special".
        place (`tuple[int, int, int]`, *optional*): The number of the `Pairs`, and the unit of either text; of a unit
            that stands alone `(number of the text, unit, -1)`.
    """

    labels: list[str]
    scores: list[float]
    strength: float
    kind: str
    place: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class SimilarityView:
    """An explained similarity, or the difference of two, laid out.

    Args:
        facts (`list[tuple[str, str]]`): The headline, as names and values.
        passages (`list[Passage]`): The texts: two, or the query and both documents.
        pairs (`list[Pairs]`): One for each two texts that are compared.
        scale (`float`): What a pair adds that has strength 1.
        heads (`list[str]`): What the columns of the table are called.
        lines (`list[Line]`): The largest contributions, the others together, special tokens and constants. Their last
            scores sum to `total`.
        name (`str`): What the contributions sum to: "cosine", "dot product", or a difference.
        value (`float`): It.
        terms (`list[tuple[str, float]]`): What adds up to it, without the residual.
        residual (`float`): The value less all terms.
        exact (`bool`): Whether the residual is rounding.
    """

    facts: list[tuple[str, str]]
    passages: list[Passage]
    pairs: list[Pairs]
    scale: float
    heads: list[str]
    lines: list[Line]
    name: str
    value: float
    terms: list[tuple[str, float]]
    residual: float
    exact: bool

    @property
    def total(self) -> float:
        """The sum of all terms; with the residual it is `value`."""
        return sum(value for _, value in self.terms)

    def number(self, value: float) -> str:
        """A contribution as text, with three digits of the largest pair."""
        return format_score(value, self.scale / 10)

    def amount(self, value: float) -> str:
        """The same, without a sign if it is positive."""
        return self.number(value).lstrip("+")
