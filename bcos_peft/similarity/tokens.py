"""One text of a comparison: its tokens, and what each of them gives to the text's embedding. Pure data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bcos_peft.explanation import Contribution
from bcos_peft.text import group_tokens, split_sentences, strip_span


_UNITS = ("token", "word", "sentence")


@dataclass(frozen=True)
class TextTokens:
    """The tokens of one text, and their places in it.

    Args:
        text (`str`): the text, with its prompt.
        tokens (`list[str]`): as the tokenizer writes them.
        token_ids (`list[int]`): vocabulary ids.
        offsets (`list[tuple[int, int] | None]`): character span of each token; `None` if it has none.
        special (`list[bool]`): which tokens are special.

    Example:
        >>> from bcos_peft.similarity import TextTokens
        >>> tokens, places = ["[CLS]", "grip", "##ping"], [None, (0, 4), (4, 8)]
        >>> text = TextTokens("gripping", tokens, [101, 5, 6], places, [True, False, False])
        >>> [(unit.text, unit.token_indices) for unit in text.units("word")]
        [('[CLS]', (0,)), ('gripping', (1, 2))]
    """

    text: str
    tokens: list[str]
    token_ids: list[int]
    offsets: list[tuple[int, int] | None]
    special: list[bool]

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "offsets", [None if span is None else (int(span[0]), int(span[1])) for span in self.offsets]
        )
        for field in ("token_ids", "offsets", "special"):
            if len(getattr(self, field)) != len(self.tokens):
                raise ValueError(
                    f"{field} has {len(getattr(self, field))} values for {len(self.tokens)} tokens; one each."
                )

    def units(self, by: str, scores: np.ndarray | None = None) -> list[Contribution]:
        """The tokens, words or sentences of the text, in order. Special tokens stand alone.

        Args:
            by (`"token"`, `"word"` or `"sentence"`): which of them.
            scores (`np.ndarray`, *optional*): `(tokens,)`, which are summed; default: zeros.

        Raises:
            ValueError: `by` is none of these.
        """
        if by not in _UNITS:
            raise ValueError(f"by must be 'token', 'word' or 'sentence', got {by!r}.")
        scores = np.zeros(len(self.tokens)) if scores is None else scores
        return [self._unit(number, members, scores) for number, members in enumerate(self._groups(by))]

    def _groups(self, by: str) -> list[list[int]]:
        sequences = [None if special else 0 for special in self.special]
        if by == "word":
            keys = group_tokens([self.text], self.offsets, sequences, self.special)
        elif by == "sentence":
            keys = self._sentences()
        else:
            keys = [None] * len(self.tokens)
        groups: dict[Any, list[int]] = {}
        for i, key in enumerate(keys):
            groups.setdefault(("alone", i) if key is None else key, []).append(i)
        return list(groups.values())

    def _sentences(self) -> list[int | None]:
        """By each token's first character: a token that reaches over the end of a sentence is of the first."""
        ends = [end for _, end in split_sentences(self.text)]
        found: list[int | None] = []
        for span, special in zip(self.offsets, self.special, strict=True):
            if special or span is None:
                found.append(None)
                continue
            start, _ = strip_span(self.text, span)
            found.append(min(int(np.searchsorted(ends, start, side="right")), len(ends) - 1))
        return found

    def _unit(self, number: int, members: Sequence[int], scores: np.ndarray) -> Contribution:
        spans = [self.offsets[i] for i in members if self.offsets[i] is not None]
        special = all(self.special[i] for i in members)
        score = float(scores[list(members)].sum())
        if not spans or special:
            text = self.tokens[members[0]]
            return Contribution(text, score, None, None, number, None if special else 0, special, tuple(members))
        start, end = strip_span(self.text, (min(low for low, _ in spans), max(high for _, high in spans)))
        text = self.text[start:end] or self.tokens[members[0]]
        return Contribution(text, score, start, end, number, 0, special, tuple(members))

    def to_dict(self) -> dict[str, Any]:
        """As plain values, which the class takes again."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(TextTokens)}
        return {**values, "offsets": [None if span is None else list(span) for span in self.offsets]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TextTokens:
        """Of what `to_dict` gave."""
        return cls(**values)


@dataclass(frozen=True, eq=False)
class TokenVectors:
    """What each token of a text gives to its embedding: `embedding = Σ vectors + constants`, to rounding.

    Explained once, a text can be compared with any number of others: pass it to [`SimilarityExplainer`] in the
    place of the text.

    Args:
        tokens ([`TextTokens`]): the text.
        vectors (`np.ndarray`): `(tokens, features)`.
        embedding (`np.ndarray`): `(features,)`.
        constants (`np.ndarray`, *optional*): `(features,)`, what belongs to no token: biases of a model that was not
            converted, or of a layer after it.
        space (`str`): tells embeddings of different models apart.

    Example:
        >>> import numpy as np
        >>> from bcos_peft.similarity import TextTokens, TokenVectors
        >>> text = TextTokens("a", ["a"], [1], [(0, 1)], [False])
        >>> TokenVectors(text, np.ones((1, 2)), np.ones(2)).residual
        0.0
    """

    tokens: TextTokens
    vectors: np.ndarray
    embedding: np.ndarray
    constants: np.ndarray | None = None
    space: str = ""

    @property
    def residual(self) -> float:
        """The length of what is left of the embedding when all vectors are taken away, as a share of its length."""
        rest = self.embedding - self.vectors.sum(0) - (0 if self.constants is None else self.constants)
        return float(np.linalg.norm(rest) / max(np.linalg.norm(self.embedding), np.finfo(float).tiny))
