"""What makes an embedding of a text: a `SentenceTransformer`, or a model without a head and a way to pool."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn

from bcos_peft._utils.digest import digest
from bcos_peft.attribution import EmbeddingMap, called_part, collate, embedding_map, max_tokens
from bcos_peft.models import find_model
from bcos_peft.nn import pool
from bcos_peft.text import Encoding, encode


_POOLINGS = ("mean", "cls", "last")
_BILINEAR = ("cosine", "dot")
_TASKS = ("query", "document")
_NO_LIMIT = 10**6  # transformers marks "no limit" with a huge model_max_length


class _Role(NamedTuple):
    """As what a text is read: what stands before it, and for what."""

    prompt: str = ""
    task: str | None = None


class _Embedder:
    """Texts as token ids, and batches of them as linear maps to embeddings.

    Args:
        model: of transformers, without a head.
        tokenizer: its tokenizer.
        pooling: one of `_POOLINGS`.
    """

    functions: tuple[str, ...] = _BILINEAR
    has_sides = False  # the first text is a query, the second a document

    def __init__(self, model: nn.Module, tokenizer: Any, pooling: str | None):
        self.inner = find_model(model)
        if pooling not in _POOLINGS:
            raise ValueError(
                f"pooling must be 'mean', 'cls' or 'last', got {pooling!r}: how a text's embedding is made of those "
                "of its tokens; the card of the model says it."
            )
        if not callable(tokenizer) or not hasattr(tokenizer, "convert_ids_to_tokens"):
            raise TypeError(f"tokenizer must be a transformers tokenizer, got {type(tokenizer).__name__}.")
        self.model, self.tokenizer, self.pooling = model, tokenizer, pooling
        self.similarity: str | None = None
        self._called = called_part(model)

    @property
    def max_length(self) -> int | None:
        """How many tokens are read."""
        limits = self.tokenizer.model_max_length, max_tokens(self.inner)
        known = [limit for limit in limits if limit is not None and 0 < limit < _NO_LIMIT]
        return min(known) if known else None

    def role(self, prompt: str | None, role: str | None, place: int) -> _Role:
        """As what the texts of a side are read."""
        if role is not None:
            raise ValueError(f"role={role!r}: only a SentenceTransformer has prompts by name; pass the prompt itself.")
        return _Role(prompt or "")

    def encode(self, text: str, role: _Role, truncation: bool, where: str) -> Encoding:
        """The tokens of a text."""
        return encode(role.prompt + text, self.tokenizer, self.max_length, truncation, where)

    def map(self, encodings: Sequence[Encoding], role: _Role) -> AbstractContextManager[EmbeddingMap]:
        """The linear map of texts that stand in one batch."""
        return embedding_map(self.model, self._embed(role), **collate(encodings, self.inner, self.tokenizer))

    def project(self, rows: np.ndarray, mine: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Vectors of the first text, as what the second's are multiplied with.

        Args:
            rows: `(vectors, features)`.
            mine: `(features,)`, the first text's embedding.
            other: `(features,)`, the second's.
        """
        return rows

    def scale(self, function: str, a: np.ndarray, b: np.ndarray) -> float:
        """What the product of two embeddings is multiplied with."""
        return 1.0 / float(np.linalg.norm(a) * np.linalg.norm(b)) if function == "cosine" else 1.0

    def space(self) -> str:
        """Tells embeddings of different models apart, and those of one model before and after training."""
        parts = []
        for name, weight in self.model.named_parameters():
            some = weight.detach().flatten()[:: max(1, weight.numel() // 64)].double()
            parts.append((name, tuple(weight.shape), float(some.abs().sum()), float(some.sum())))
        return digest(parts)

    def _embed(self, role: _Role) -> Callable[..., Tensor]:
        def embed(**inputs: Tensor) -> Tensor:
            return pool(self._called(**inputs).last_hidden_state, inputs["attention_mask"], self.pooling)

        return embed
