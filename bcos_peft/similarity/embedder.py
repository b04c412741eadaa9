"""What makes an embedding of a text: a `SentenceTransformer`, or a model without a head and a way to pool."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from bcos_peft._utils.digest import digest
from bcos_peft.attribution import EmbeddingMap, called_part, embedding_map, forward_parameters, max_tokens
from bcos_peft.models import find_model
from bcos_peft.text import Encoding, encode


_POOLINGS = ("mean", "cls", "last")
_NO_LIMIT = 10**6  # transformers marks "no limit" with a huge model_max_length


class _Embedder:
    """Texts as token ids, and batches of them as linear maps to embeddings.

    Args:
        model: of transformers, without a head.
        tokenizer: its tokenizer.
        pooling: one of `_POOLINGS`.
    """

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

    def prompt(self, prompt: str | None, name: str | None) -> str:
        """What stands before a text."""
        if name is not None:
            raise ValueError(f"prompt_name={name!r}: only a SentenceTransformer has prompts by name; pass prompt=...")
        return prompt or ""

    def encode(self, text: str, prompt: str, truncation: bool, where: str) -> Encoding:
        """The tokens of a text."""
        return encode(prompt + text, self.tokenizer, self.max_length, truncation, where)

    def embedding_map(self, encodings: Sequence[Encoding], prompt: str = "") -> AbstractContextManager[EmbeddingMap]:
        """The linear map of texts that stand in one batch."""
        return embedding_map(self.inner, self._embed(prompt), **self._collate(encodings))

    def _embed(self, prompt: str) -> Callable[..., Tensor]:
        def embed(**inputs: Tensor) -> Tensor:
            return _pool(self._called(**inputs).last_hidden_state, inputs["attention_mask"], self.pooling)

        return embed

    def _collate(self, encodings: Sequence[Encoding]) -> dict[str, Tensor]:
        """Right-padded tensors on the model's device."""
        known = getattr(self.inner.config, "pad_token_id", None), self.tokenizer.pad_token_id, 0
        pad = next(token for token in known if token is not None and token >= 0)
        taken = forward_parameters(type(self.inner))
        length = max(len(encoding.input_ids) for encoding in encodings)
        rows: dict[str, list] = {"input_ids": [], "attention_mask": []}
        for encoding in encodings:
            missing = length - len(encoding.input_ids)
            rows["input_ids"].append(encoding.input_ids + [pad] * missing)
            rows["attention_mask"].append([1] * (length - missing) + [0] * missing)
            for name, values in encoding.extra.items():
                if name in taken:
                    rows.setdefault(name, []).append(values + [0] * missing)
        return {name: torch.tensor(values, device=self.inner.device) for name, values in rows.items()}

    def space(self) -> str:
        """Tells embeddings of different models apart, and those of one model before and after training."""
        parts = []
        for name, weight in self.model.named_parameters():
            some = weight.detach().flatten()[:: max(1, weight.numel() // 64)].double()
            parts.append((name, tuple(weight.shape), float(some.abs().sum()), float(some.sum())))
        return digest(parts)


class _SentenceEmbedder(_Embedder):
    """A `SentenceTransformer`, with everything that comes after its transformer."""

    def __init__(self, model: nn.Module):
        self.inner = find_model(model)
        self.model, self.tokenizer = model, model.tokenizer
        self.similarity = model.similarity_fn_name

    @property
    def max_length(self) -> int | None:
        return self.model.max_seq_length

    def prompt(self, prompt: str | None, name: str | None) -> str:
        if prompt is not None:
            return prompt
        name = self.model.default_prompt_name if name is None else name
        if name is None:
            return ""
        if name not in self.model.prompts:
            raise ValueError(f"prompt_name={name!r} is none of the model's prompts, {sorted(self.model.prompts)}.")
        return self.model.prompts[name]

    def encode(self, text: str, prompt: str, truncation: bool, where: str) -> Encoding:
        encoding = encode(prompt + text, self.tokenizer, self.max_length, truncation, where)
        found = self.model.preprocess([text], prompt=prompt or None)
        ids = found["input_ids"][0].tolist()
        if ids == encoding.input_ids:
            return encoding
        # It reads something else than the text: lower case, a template.
        values = {
            name: value[0].tolist() for name, value in found.items() if isinstance(value, Tensor) and value.dim() > 1
        }
        return encode(values, self.tokenizer, None, False, where)

    def _embed(self, prompt: str) -> Callable[..., Tensor]:
        more = {}
        if prompt:
            length = self.model.preprocess(["."], prompt=prompt).get("prompt_length")
            more = {} if length is None else {"prompt_length": length}

        def embed(**inputs: Tensor) -> Tensor:
            found = self.model({**inputs, **more})["sentence_embedding"]
            return found if self.model.truncate_dim is None else found[..., : self.model.truncate_dim]

        return embed


def _pool(hidden: Tensor, attention_mask: Tensor, pooling: str) -> Tensor:
    """The embedding of each text, `(batch, features)`, of those of its tokens.

    Args:
        hidden: `(batch, sequence, features)`.
        attention_mask: `(batch, sequence)`, padding on the right.
        pooling: one of `_POOLINGS`.
    """
    if pooling == "cls":
        return hidden[:, 0]
    if pooling == "last":
        return hidden[torch.arange(len(hidden)), attention_mask.sum(1) - 1]
    mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * mask).sum(1) / mask.sum(1)


def _embedder_of(model: nn.Module, tokenizer: Any, pooling: str | None) -> _Embedder:
    """What feeds a model.

    Raises:
        TypeError: the model, or the tokenizer, is of the wrong kind.
        ValueError: an argument is missing, or is not wanted.
    """
    names = {cls.__name__ for cls in type(model).__mro__ if cls.__module__.startswith("sentence_transformers.")}
    if not names:
        return _Embedder(model, tokenizer, pooling)
    if "CrossEncoder" in names:
        raise TypeError(
            "A CrossEncoder reads both texts together and has no embeddings: explain it as the classifier that it is, "
            "BcosExplainer(cross_encoder, cross_encoder.tokenizer)((query, document))."
        )
    if "MultiVectorEncoder" in names:
        raise TypeError("A MultiVectorEncoder has an embedding for each token.")
    for name, value in (("tokenizer", tokenizer), ("pooling", pooling)):
        if value is not None:
            raise ValueError(f"{name}={value!r} given, but a {type(model).__name__} has its own; leave it out.")
    return _SentenceEmbedder(model)
