"""Which texts are taken apart, and which are only asked: the fewest passes for a set of pairs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bcos_peft.similarity.embedder import _Embedder, _Role
from bcos_peft.similarity.tokens import TextTokens, TokenVectors
from bcos_peft.text import Encoding


@dataclass(eq=False)
class _Text:
    """A text, and its token vectors once they are known."""

    tokens: TextTokens
    encoding: Encoding | None
    role: _Role
    vectors: TokenVectors | None = None

    def __len__(self) -> int:
        return len(self.tokens.tokens)


class _Comparison:
    """Pairs of texts. The shorter one of each is taken apart; the longer one is asked for its products with what the
    shorter one's tokens give, unless so much would be asked of it that taking it apart costs less.

    Args:
        pairs: of texts; the same text is the same object.
        embedder: how their embeddings are compared.
        features: of an embedding.
    """

    def __init__(self, pairs: list[tuple[_Text, _Text]], embedder: _Embedder, features: int):
        self.pairs, self._embedder = pairs, embedder
        apart = {id(text) for pair in pairs for text in pair if text.vectors is not None}
        for a, b in pairs:
            if not {id(a), id(b)} & apart:
                apart.add(id(a if embedder.has_sides else min(a, b, key=len)))
        asked: dict[int, list[_Text]] = {}
        self._texts = {id(text): text for pair in pairs for text in pair}
        for a, b in pairs:
            for text, other in ((a, b), (b, a)):
                if id(text) not in apart and other not in asked.setdefault(id(text), []):
                    asked[id(text)].append(other)
        for key, others in asked.items():
            text = self._texts[key]
            if sum(map(len, others)) >= min(len(text), features):
                apart.add(key)
        self._apart = apart
        self._others = {key: others for key, others in asked.items() if key not in apart}
        self._products: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}
        self._embeddings: dict[int, np.ndarray] = {}

    def anchors(self) -> list[_Text]:
        """Texts to take apart."""
        return [self._texts[key] for key in self._apart if self._texts[key].vectors is None]

    def asked(self) -> list[_Text]:
        """Texts to ask, once the others are taken apart."""
        return [self._texts[key] for key in self._others]

    def directions(self, text: _Text, embedding: np.ndarray) -> np.ndarray:
        """What a text of some embedding is asked for its products with, `(directions, features)`."""
        others = [other.vectors for other in self._others[id(text)]]
        return np.concatenate([self._embedder.project(_rows(one), one.embedding, embedding) for one in others])

    def answer(self, text: _Text, embedding: np.ndarray, products: np.ndarray, rest: np.ndarray) -> None:
        """Take what a text gave: `(directions, tokens)`, and `(directions,)` of what belongs to no token."""
        self._embeddings[id(text)] = embedding
        start = 0
        for other in self._others[id(text)]:
            rows = slice(start, start + len(_rows(other.vectors)))
            self._products[id(other), id(text)] = np.concatenate([products[rows].T, rest[None, rows]])
            start = rows.stop

    def read(self, a: _Text, b: _Text, function: str) -> tuple[np.ndarray, float | None, float]:
        """Of a pair what its pairs of tokens add to its similarity, what all with something that is no token add, and
        the similarity."""
        if id(a) in self._others:
            table = self._products[id(b), id(a)]
        elif id(b) in self._others:
            table = self._products[id(a), id(b)].T
        else:
            rows = self._embedder.project(_rows(a.vectors, True), a.vectors.embedding, b.vectors.embedding)
            table = rows @ _rows(b.vectors, True).T
        if len(table) == len(a):  # the text that was taken apart has no constants
            table = np.concatenate([table, np.zeros((1, table.shape[1]))])
        if table.shape[1] == len(b):
            table = np.concatenate([table, np.zeros((len(table), 1))], axis=1)
        left, right = self._embedding(a), self._embedding(b)
        product = float(self._embedder.project(left[None], left, right)[0] @ right)
        scale = self._embedder.scale(function, left, right)
        has_constants = bool(table[-1].any() or table[:, -1].any())
        constants = float(table[-1].sum() + table[:-1, -1].sum()) * scale if has_constants else None
        return table[:-1, :-1] * scale, constants, product * scale

    def _embedding(self, text: _Text) -> np.ndarray:
        return self._embeddings[id(text)] if text.vectors is None else text.vectors.embedding


def _rows(vectors: TokenVectors, always: bool = False) -> np.ndarray:
    """Token vectors, and what belongs to no token as one more, if there is anything."""
    if vectors.constants is None and not always:
        return vectors.vectors
    rest = np.zeros_like(vectors.embedding) if vectors.constants is None else vectors.constants
    return np.concatenate([vectors.vectors, rest[None]])
