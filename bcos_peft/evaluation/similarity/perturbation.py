"""Comprehensiveness and sufficiency of pairs: what a cosine is without the highest words, or with only them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from bcos_peft.evaluation.metrics import Value
from bcos_peft.evaluation.similarity.base import PairScores
from bcos_peft.evaluation.similarity.reader import WordReader


_FRACTIONS = (0.1, 0.2, 0.3, 0.4, 0.5)


def similarity_curves(
    reader: WordReader,
    a: str,
    b: str,
    scores: PairScores,
    keep: bool = False,
    fractions: Sequence[float] = _FRACTIONS,
    perturbation: str = "delete",
) -> dict[str, np.ndarray]:
    """By how much a cosine falls when a growing part of the words is hidden.

    Args:
        reader ([`WordReader`]): the model.
        a (`str`): a text.
        b (`str`): the other one.
        scores ([`PairScores`]): of the words. The largest go first (or stay); ties go in the order of the text.
        keep (`bool`, defaults to `False`): hide all but the highest words (sufficiency), not those
            (comprehensiveness).
        fractions (`Sequence[float]`): of the words of each text, rounded, at least one word.
        perturbation (`"delete"` or `"mask"`, defaults to `"delete"`): how words are hidden. Two
            texts of many mask tokens are close for these alone.

    Returns:
        `dict[str, np.ndarray]`: `(fractions,)` each: words hidden in `"both"` texts, in `"a"` alone, in `"b"` alone.

    Raises:
        ValueError: there are not as many scores as words, or there is no such way to hide them.

    Example:
        >>> from sentence_transformers import SentenceTransformer
        >>> from bcos_peft.evaluation.similarity import WordReader, get_similarity_method, similarity_curves
        >>> reader = WordReader(SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2"))
        >>> pair = "A gripping film.", "This movie kept me on edge."
        >>> similarity_curves(reader, *pair, get_similarity_method("random")(reader, *pair))["both"].shape
        (5,)

    Source: DeYoung et al. (ERASER, arXiv 1911.03429), section 4.2, with a cosine in the place of a probability.
    """
    rows, places = [reader.encoding(a), reader.encoding(b)], []
    for text, values in ((a, scores.a), (b, scores.b)):
        words = len(reader.words(text))
        if values.shape != (words,):
            raise ValueError(f"there are scores of shape {values.shape} for the {words} words of {text[:60]!r}.")
        order = np.argsort(-values, kind="stable")
        counts = [_count(fraction, words) for fraction in fractions]
        known = {count: len(rows) + i for i, count in enumerate(dict.fromkeys(counts))}
        rows += [reader.hidden(text, order[count:] if keep else order[:count], perturbation) for count in known]
        places.append([known[count] for count in counts])
    with reader.running():
        found = reader.embeddings(rows)
    left, right = (found[torch.tensor(place)] for place in places)
    whole = found[0] @ found[1]
    after = {"both": (left * right).sum(1), "a": left @ found[1], "b": right @ found[0]}
    return {name: (whole - values).numpy() for name, values in after.items()}


class _SimilarityPerturbation:
    """Comprehensiveness or sufficiency of pairs."""

    name, _keep = "", False

    def __init__(
        self, perturbation: str = "delete", fractions: Sequence[float] = _FRACTIONS, label: str | None = None
    ):
        if not len(fractions) or list(fractions) != sorted(set(fractions)) or fractions[0] <= 0 or fractions[-1] > 1:
            raise ValueError(f"fractions must be numbers in rising order, in (0, 1]; got {fractions!r}.")
        if perturbation not in ("mask", "delete"):
            raise ValueError(f"perturbation must be 'mask' or 'delete', got {perturbation!r}.")
        self.perturbation, self.fractions = perturbation, tuple(fractions)
        self.name = label or self.name
        title = self.name.capitalize().replace("_", " ")
        self.values = {
            self.name: Value(title, not self._keep),
            f"{self.name}_one": Value(f"{title}, one text", not self._keep),
        }

    def measure(self, reader: WordReader, pair: tuple[str, str], scores: PairScores) -> dict[str, float]:
        """The means over the fractions: words hidden in both texts; and in one of them, the mean of either.

        Args:
            reader ([`WordReader`]): the model.
            pair: of texts.
            scores ([`PairScores`]): of their words.
        """
        curves = similarity_curves(
            reader, *pair, scores, keep=self._keep, fractions=self.fractions, perturbation=self.perturbation
        )
        one = (curves["a"].mean() + curves["b"].mean()) / 2
        return {self.name: float(curves["both"].mean()), f"{self.name}_one": float(one)}

    def settings(self) -> dict[str, object]:
        """The options."""
        return {"perturbation": self.perturbation, "fractions": list(self.fractions)}


class SimilarityComprehensiveness(_SimilarityPerturbation):
    """By how much the cosine falls when the highest words are hidden. Larger is better.

    Args:
        perturbation (`"delete"` or `"mask"`, defaults to `"delete"`): how words are hidden.
        fractions (`Sequence[float]`, defaults to 0.1 … 0.5): of the words of each text.
        label (`str`, *optional*): another name for its numbers, to have it twice in a table with different options.

    Raises:
        ValueError: an option has no such value.

    Example:
        >>> from bcos_peft.evaluation.similarity import SimilarityComprehensiveness
        >>> list(SimilarityComprehensiveness().values)
        ['comprehensiveness', 'comprehensiveness_one']

    Source: DeYoung et al. (ERASER, arXiv 1911.03429), section 4.2, with a cosine in the place of a probability.
    """

    name = "comprehensiveness"


class SimilaritySufficiency(_SimilarityPerturbation):
    """By how much the cosine falls when only the highest words are left. Smaller is better.

    Args:
        perturbation (`"delete"` or `"mask"`, defaults to `"delete"`): how words are hidden.
        fractions (`Sequence[float]`, defaults to 0.1 … 0.5): how many words stay.
        label (`str`, *optional*): another name for its numbers, to have it twice in a table with different options.

    Raises:
        ValueError: an option has no such value.

    Example:
        >>> from bcos_peft.evaluation.similarity import SimilaritySufficiency
        >>> SimilaritySufficiency(perturbation="mask").settings()["perturbation"]
        'mask'

    Source: DeYoung et al. (ERASER, arXiv 1911.03429), section 4.2, with a cosine in the place of a probability.
    """

    name, _keep = "sufficiency", True


def _count(fraction: float, words: int) -> int:
    """How many words a fraction is: rounded, a half upwards, and at least one.

    Example:
        >>> [_count(0.1, words) for words in (1, 14, 15, 25)]
        [1, 1, 2, 3]
    """
    return min(words, max(1, int(np.floor(fraction * words + 0.5 + 1e-9))))
