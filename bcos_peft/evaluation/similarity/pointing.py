"""The pointing game of retrieval: of two texts joined into a document, does the one that a query is near light up?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bcos_peft.evaluation.metrics import Value
from bcos_peft.evaluation.similarity.base import PairScores
from bcos_peft.evaluation.similarity.reader import WordReader
from bcos_peft.text import shares


@dataclass(frozen=True)
class JoinedDocument:
    """A query, and two texts that are joined into one document.

    Args:
        query (`str`): what the document is compared with.
        first (`str`), second (`str`): its halves.
        related (`int`): which of them the query is near, 0 or 1.

    Raises:
        ValueError: `related` is neither.

    Example:
        >>> from bcos_peft.evaluation.similarity import JoinedDocument
        >>> JoinedDocument("A gripping film.", "Rain until noon.", "This movie kept me on edge.", related=1).text
        'Rain until noon. This movie kept me on edge.'
    """

    query: str
    first: str
    second: str
    related: int

    def __post_init__(self) -> None:
        if self.related not in (0, 1):
            raise ValueError(f"related must be 0 or 1, got {self.related!r}.")

    @property
    def text(self) -> str:
        """The document."""
        return f"{self.first} {self.second}"


class SimilarityPointingGame:
    """How often the half of a document that the query is near has the larger sum of scores; a tie counts one half.

    Also given: its share of the positive scores, 0 where there are none. Only the words of the document count, and a
    word that lies in both halves (as `end.Start` may be one) as it is shared out.

    Example:
        >>> from bcos_peft.evaluation.similarity import SimilarityPointingGame
        >>> SimilarityPointingGame().values["pointing"].heading
        'Pointing game ↑'

    Source: the sequence pointing game of B-cos LM (arXiv 2502.12992), section 5, with a query in the place of a class.
    """

    name = "pointing"
    values = {"pointing": Value("Pointing game", True), "pointing_share": Value("Share of the right half", True)}

    def measure(self, reader: WordReader, document: JoinedDocument, scores: PairScores) -> dict[str, float]:
        """Whether the right half wins, and its share.

        Args:
            reader ([`WordReader`]): the model.
            document ([`JoinedDocument`]): the query and the halves.
            scores ([`PairScores`]): of the words of the query (`a`) and the document (`b`).

        Raises:
            ValueError: the model reads nothing of a half.
        """
        text = document.text
        places = [(0, len(document.first)), (len(text) - len(document.second), len(text))]
        spans = [(word.start, word.end) for word in reader.words(text)]
        inside = np.array(shares(text, spans, places))
        if (inside.sum(1) == 0).any():
            raise ValueError(f"The model reads too few tokens of {text[:60]!r}.")
        sums, positive = inside @ scores.b, inside @ scores.b.clip(min=0)
        right, other = sums[document.related], sums[1 - document.related]
        whole = positive.sum()
        return {
            "pointing": 0.5 if right == other else float(right > other),
            "pointing_share": float(positive[document.related] / whole) if whole else 0.0,
        }

    def settings(self) -> dict[str, object]:
        """The options: none."""
        return {}
