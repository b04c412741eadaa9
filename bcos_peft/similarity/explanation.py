"""What the explanation of a similarity is: a number for each pair of tokens, and how to read, save and load them. Pure
data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from bcos_peft._utils.arguments import checked_arguments
from bcos_peft._utils.kept import Kept
from bcos_peft.explanation import Contribution
from bcos_peft.similarity.render import _ShownDifference, _ShownPair
from bcos_peft.similarity.tokens import TextTokens


class Match(NamedTuple):
    """A unit of one text, a unit of the other, and what they add to the similarity.

    Attributes:
        a (`Contribution`): of the first text; its own score is that of all its pairs.
        b (`Contribution`): of the second text.
        score (`float`): of this pair.
    """

    a: Contribution
    b: Contribution
    score: float


class SimilarityTable(NamedTuple):
    """The units of both texts, and what each pair of them adds.

    Attributes:
        a (`list[Contribution]`): of the first text, with the sums of their rows.
        b (`list[Contribution]`): of the second text, with the sums of their columns.
        matrix (`np.ndarray`): float64, `(len(a), len(b))`.
    """

    a: list[Contribution]
    b: list[Contribution]
    matrix: np.ndarray


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class SimilarityExplanation(Kept, _ShownPair):
    """What each pair of tokens of two texts adds to the similarity of their embeddings.

    Embeddings are sums over tokens, `e_a = Σ_i c_i` and `e_b = Σ_j d_j`, so their product is a sum over pairs,
    `e_a·e_b = Σ_ij c_i·d_j`; divided by the two lengths it is the cosine. `matrix.sum() + constants + residual` is the
    similarity, and the residual is rounding.

    Args:
        a ([`TextTokens`]): the first text.
        b ([`TextTokens`]): the second.
        matrix (`np.ndarray`): float64, `(tokens of a, tokens of b)`, in units of the similarity.
        similarity (`float`): the cosine, or the dot product.
        function (`"cosine"` or `"dot"`): which of them.
        constants (`float`, *optional*): what pairs with something that belongs to no token add: biases of a model
            that was not converted, or of a layer after it.
        residual (`float`, *optional*): computed when not given.

    Raises:
        ValueError: sizes do not match, or a number is not finite.

    Example:
        >>> from bcos_peft.similarity import SimilarityExplanation, TextTokens
        >>> a = TextTokens("a film", ["a", "film"], [1, 2], [(0, 1), (2, 6)], [False, False])
        >>> b = TextTokens("movie", ["movie"], [3], [(0, 5)], [False])
        >>> found = SimilarityExplanation(a=a, b=b, matrix=[[0.1], [0.6]], similarity=0.7, function="cosine")
        >>> [(match.a.text, match.b.text, match.score) for match in found.top(1)]
        [('film', 'movie', 0.6)]
        >>> found.a_scores.tolist()
        [0.1, 0.6]

    Source: B-cos LM (arXiv 2502.12992), section 3, for each embedding; pairs of tokens as in Moeller et al. (arXiv
    2310.05703), equation 5, where they are integrated.
    """

    a: TextTokens
    b: TextTokens
    matrix: np.ndarray
    similarity: float
    function: str = "cosine"
    constants: float | None = None
    residual: float | None = None

    _format, _version, _name, _indent = "bcos_peft.similarity", 1, "similarity explanation", None

    def __post_init__(self) -> None:
        for side in ("a", "b"):
            value = getattr(self, side)
            object.__setattr__(self, side, value if isinstance(value, TextTokens) else TextTokens.from_dict(value))
        matrix = np.array(self.matrix, dtype=np.float64)
        shape = len(self.a.tokens), len(self.b.tokens)
        if matrix.shape != shape:
            raise ValueError(f"matrix has shape {matrix.shape} for {shape[0]} and {shape[1]} tokens.")
        matrix.setflags(write=False)
        object.__setattr__(self, "matrix", matrix)
        for name in ("similarity", "constants", "residual"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else float(value))
        if self.residual is None:
            object.__setattr__(self, "residual", self.similarity - self.total)
        numbers = matrix.sum(), self.similarity, self.residual, self.constants or 0.0
        if not np.isfinite(numbers).all():
            raise ValueError("the similarity, or a pair's contribution to it, is not finite.")

    @property
    def total(self) -> float:
        """Sum of all pairs and the constants; `total + residual` is the similarity."""
        return float(self.matrix.sum()) + (self.constants or 0.0)

    @property
    def a_scores(self) -> np.ndarray:
        """What each token of `a` adds, with all of `b`: `(tokens of a,)`."""
        return self.matrix.sum(1)

    @property
    def b_scores(self) -> np.ndarray:
        """What each token of `b` adds, with all of `a`: `(tokens of b,)`."""
        return self.matrix.sum(0)

    @checked_arguments
    def table(self, by: str = "word") -> SimilarityTable:
        """The matrix summed over units of both texts.

        Args:
            by (`"token"`, `"word"` or `"sentence"`, defaults to `"word"`): what is summed over. Special tokens stand
                alone.

        Returns:
            [`SimilarityTable`]

        Raises:
            ValueError: `by` is none of these.
        """
        a, b = self.a.units(by, self.a_scores), self.b.units(by, self.b_scores)
        rows = np.stack([self.matrix[list(unit.token_indices)].sum(0) for unit in a])
        return SimilarityTable(a, b, np.stack([rows[:, list(unit.token_indices)].sum(1) for unit in b], axis=1))

    @checked_arguments
    def top(self, k: int = 5, by: str = "word", include_special: bool = False) -> list[Match]:
        """The pairs that add most, by absolute value, the largest first.

        Args:
            k (`int`, defaults to 5): how many.
            by (`"token"`, `"word"` or `"sentence"`, defaults to `"word"`): pairs of what.
            include_special (`bool`, defaults to `False`): whether special tokens compete too.

        Raises:
            ValueError: `k` is negative, or `by` is none of these.
        """
        if k < 0:
            raise ValueError(f"k={k} must not be negative.")
        table = self.table(by)
        pairs = [
            Match(a, b, float(table.matrix[i, j]))
            for i, a in enumerate(table.a)
            for j, b in enumerate(table.b)
            if include_special or not (a.special or b.special)
        ]
        return sorted(pairs, key=lambda pair: -abs(pair.score))[:k]

    def __sub__(self, other: SimilarityExplanation) -> SimilarityDifference:
        """Why this text is closer to `a` than another one."""
        if not isinstance(other, SimilarityExplanation):
            return NotImplemented
        return SimilarityDifference(first=self, second=other)

    def _plain(self) -> dict[str, Any]:
        return {
            "a": self.a.to_dict(),
            "b": self.b.to_dict(),
            "matrix": self.matrix.tolist(),
            "similarity": self.similarity,
            "function": self.function,
            "constants": self.constants,
            "residual": self.residual,
        }

    def __repr__(self) -> str:
        top = ", ".join(f"{match.a.text!r}–{match.b.text!r} {match.score:+.3g}" for match in self.top(3))
        return (
            f"SimilarityExplanation({self.function}={self.similarity:.4f}, residual={self.residual:.1e}, "
            f"tokens={len(self.a.tokens)} × {len(self.b.tokens)}, top: {top or 'nothing'})"
        )


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class SimilarityDifference(Kept, _ShownDifference):
    """Why one document is closer to a query than another: `first − second`.

    Both explanations have the query as `a`, so each of its tokens has a difference, and all of them with the
    difference of the constants and the residual are the difference of the similarities.

    Args:
        first ([`SimilarityExplanation`]): of the query and a document.
        second ([`SimilarityExplanation`]): of the query and another one.

    Raises:
        ValueError: the queries differ, or one is a cosine and one a dot product.

    Example:
        >>> from bcos_peft.similarity import SimilarityExplanation, TextTokens
        >>> query, b = (TextTokens(word, [word], [1], [(0, len(word))], [False]) for word in ("film", "movie"))
        >>> near = SimilarityExplanation(a=query, b=b, matrix=[[0.6]], similarity=0.6)
        >>> far = SimilarityExplanation(a=query, b=query, matrix=[[0.25]], similarity=0.25)
        >>> (near - far).query_scores.tolist()
        [0.35]
    """

    first: SimilarityExplanation
    second: SimilarityExplanation

    _format, _version, _name, _indent = "bcos_peft.similarity_difference", 1, "similarity difference", None

    def __post_init__(self) -> None:
        for name in ("first", "second"):
            value = getattr(self, name)
            if isinstance(value, Mapping):
                object.__setattr__(self, name, SimilarityExplanation.from_dict(value))
        if self.first.a.token_ids != self.second.a.token_ids:
            raise ValueError(
                f"the explanations are of different queries, {self.first.a.text!r} and {self.second.a.text!r}: only "
                "documents for one query can be compared."
            )
        if self.first.function != self.second.function:
            raise ValueError(f"one similarity is a {self.first.function}, the other a {self.second.function}.")

    @property
    def query_scores(self) -> np.ndarray:
        """What each token of the query adds to the difference, `(tokens of the query,)`."""
        return self.first.a_scores - self.second.a_scores

    @property
    def difference(self) -> float:
        """By how much the first document is closer."""
        return self.first.similarity - self.second.similarity

    @property
    def constants(self) -> float | None:
        """The difference of the constants, where there are any."""
        if self.first.constants is None and self.second.constants is None:
            return None
        return (self.first.constants or 0.0) - (self.second.constants or 0.0)

    @property
    def residual(self) -> float:
        """`difference − Σ query_scores − constants`: zero to rounding."""
        return self.difference - float(self.query_scores.sum()) - (self.constants or 0.0)

    def words(self) -> list[Contribution]:
        """The words of the query, with what each adds to the difference."""
        return self.first.a.units("word", self.query_scores)

    def _plain(self) -> dict[str, Any]:
        return {"first": self.first.to_dict(), "second": self.second.to_dict()}

    def __repr__(self) -> str:
        ranked = sorted((word for word in self.words() if not word.special), key=lambda word: -abs(word.score))
        top = ", ".join(f"{word.text!r} {word.score:+.3g}" for word in ranked[:3])
        return f"SimilarityDifference({self.difference:+.4f}, residual={self.residual:.1e}, top: {top or 'nothing'})"
