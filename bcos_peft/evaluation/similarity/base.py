"""What a method says of a pair of texts, and what methods share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bcos_peft.evaluation.similarity.reader import WordReader


@dataclass(frozen=True, eq=False)
class PairScores:
    """What each word of two texts has to do with their similarity.

    Args:
        a (`np.ndarray`): `(words of a,)`.
        b (`np.ndarray`): `(words of b,)`.
        matrix (`np.ndarray`, *optional*): `(words of a, words of b)`, of methods that score pairs of words and were
            asked for it.

    Raises:
        ValueError: a score is not finite.

    Example:
        >>> from bcos_peft.evaluation.similarity import PairScores
        >>> PairScores([0.5, 0.25], [0.75]).b.tolist()
        [0.75]
    """

    a: np.ndarray
    b: np.ndarray
    matrix: np.ndarray | None = None

    def __post_init__(self) -> None:
        for name in ("a", "b"):
            values = np.asarray(getattr(self, name), dtype=np.float64)
            object.__setattr__(self, name, values)
            if not np.isfinite(values).all():
                raise ValueError(f"the scores of {name} have a number that is not finite.")


@dataclass(frozen=True, kw_only=True)
class SimilarityMethod(ABC):
    """A way to score the words of two texts by what they have to do with their cosine.

    Any callable with a `name` that takes these arguments can stand for one.

    Args:
        name (`str`): what tables call it.

    Example:
        >>> from sentence_transformers import SentenceTransformer
        >>> from bcos_peft.evaluation.similarity import WordReader, get_similarity_method
        >>> reader = WordReader(SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2"))
        >>> scores = get_similarity_method("occlusion")(reader, "A gripping film.", "This movie kept me on edge.")
        >>> scores.a.shape, scores.b.shape
        ((4,), (7,))
    """

    name: str = ""

    def __call__(self, reader: WordReader, a: str, b: str) -> PairScores:
        """Scores of the words of both texts.

        Args:
            reader ([`WordReader`]): the model.
            a (`str`): a text.
            b (`str`): the other one.

        Returns:
            [`PairScores`]
        """
        with reader.running():
            return self._scores(reader, a, b)

    @abstractmethod
    def _scores(self, reader: WordReader, a: str, b: str) -> PairScores: ...

    @property
    def settings(self) -> dict[str, Any]:
        """The options, for the record."""
        return asdict(self)


def _of_words(reader: WordReader, text: str, tokens: np.ndarray) -> np.ndarray:
    """Scores of the words of a text, from those of its tokens (the first dimension): their sums."""
    return np.stack([tokens[list(word.token_indices)].sum(0) for word in reader.words(text)])
