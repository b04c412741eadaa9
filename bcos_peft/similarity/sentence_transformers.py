"""The models of sentence-transformers: what feeds them, and how their embeddings are compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bcos_peft._utils.sentence_models import is_sentence_model
from bcos_peft.models import find_model
from bcos_peft.similarity.embedder import _TASKS, _Embedder, _Role
from bcos_peft.text import Encoding, encode


class _SentenceEmbedder(_Embedder):
    """A `SentenceTransformer` or a `SparseEncoder`, with everything that comes after its transformer."""

    def __init__(self, model: nn.Module):
        self.inner = find_model(model)
        self.model, self.tokenizer = model, model.tokenizer
        self.similarity = model.similarity_fn_name

    @property
    def max_length(self) -> int | None:
        return self.model.max_seq_length

    def role(self, prompt: str | None, role: str | None, place: int) -> _Role:
        task = role if role in _TASKS else None
        if prompt is not None:
            return _Role(prompt, task)
        name = self.model.default_prompt_name if role is None else role
        if name is not None and name not in self.model.prompts and task is None:
            raise ValueError(f"role={name!r} is none of the model's prompts, {sorted(self.model.prompts)}.")
        return _Role(self.model.prompts.get(name) or "", task)

    def encode(self, text: str, role: _Role, truncation: bool, where: str) -> Encoding:
        encoding = super().encode(text, role, truncation, where)
        found = self._preprocess(text, role)
        ids = found["input_ids"][0].tolist()
        if ids == encoding.input_ids:
            return encoding
        # It reads something else than the text: lower case, a template.
        rows = {name: value[0] for name, value in found.items() if isinstance(value, Tensor) and value.dim() > 1}
        return encode({name: row.tolist() for name, row in rows.items()}, self.tokenizer, None, False, where)

    def _preprocess(self, text: str, role: _Role) -> dict[str, Any]:
        task = {} if role.task is None else {"task": role.task}
        return self.model.preprocess([text], prompt=role.prompt or None, **task)

    def _run(self, role: _Role) -> Callable[..., dict[str, Tensor]]:
        length = self._preprocess(".", role).get("prompt_length") if role.prompt else None
        more = {} if length is None else {"prompt_length": length}
        task = {} if role.task is None else {"task": role.task}

        def run(**inputs: Tensor) -> dict[str, Tensor]:
            return self.model({**inputs, **more}, **task)

        return run

    def _embed(self, role: _Role) -> Callable[..., Tensor]:
        run, limit = self._run(role), self.model.truncate_dim
        return lambda **inputs: run(**inputs)["sentence_embedding"][..., :limit]


class _SparseEmbedder(_SentenceEmbedder):
    """A `SparseEncoder`, whose embeddings have a feature for each word of the vocabulary."""

    def _embed(self, role: _Role) -> Callable[..., Tensor]:
        run, limit = self._run(role), self.model.max_active_dims

        def embed(**inputs: Tensor) -> Tensor:
            found = run(**inputs)["sentence_embedding"]
            if limit is None:
                return found
            kept = torch.zeros_like(found).scatter(-1, found.detach().topk(limit, -1).indices, 1.0)
            return found * kept

        return embed


class _LateEmbedder(_SentenceEmbedder):
    """A `MultiVectorEncoder`: each token of a query is compared with the nearest of a document, which is held.

    `MaxSim = Σ_i q_i·d_j(i)`, and each `q_i` and `d_j` is a sum over the tokens of its text.
    """

    functions = ("maxsim", "meanmaxsim")
    has_sides = True

    def role(self, prompt: str | None, role: str | None, place: int) -> _Role:
        return super().role(prompt, _TASKS[place] if role is None else role, place)

    def encode(self, text: str, role: _Role, truncation: bool, where: str) -> Encoding:
        if "query_expansion_positions" in self._preprocess(text, role):
            raise ValueError(
                "the model puts tokens of its own behind a query (query expansion), which are no text. Explain it "
                "without them: model[0].query_expansion = None."
            )
        return super().encode(text, role, truncation, where)

    def _embed(self, role: _Role) -> Callable[..., Tensor]:
        run = self._run(role)

        def embed(**inputs: Tensor) -> Tensor:
            found = run(**inputs)
            vectors = found["token_embeddings"]
            return (vectors * found["attention_mask"].unsqueeze(-1).to(vectors.dtype)).flatten(1)

        return embed

    def project(self, rows: np.ndarray, mine: np.ndarray, other: np.ndarray) -> np.ndarray:
        size = self.model.get_embedding_dimension()
        query, document = mine.reshape(-1, size), other.reshape(-1, size)
        products = query @ document.T
        products[:, ~document.any(1)] = -np.inf  # tokens that do not count
        found = np.zeros((len(rows), *document.shape))
        np.add.at(found, (slice(None), products.argmax(1)), rows.reshape(len(rows), -1, size))
        return found.reshape(len(rows), -1)

    def scale(self, function: str, a: np.ndarray, b: np.ndarray) -> float:
        count = a.reshape(-1, self.model.get_embedding_dimension()).any(1).sum()
        return 1.0 / float(count) if function == "meanmaxsim" else 1.0


_KINDS = {
    "SentenceTransformer": _SentenceEmbedder,
    "SparseEncoder": _SparseEmbedder,
    "MultiVectorEncoder": _LateEmbedder,
}


def _embedder_of(model: nn.Module, tokenizer: Any, pooling: str | None) -> _Embedder:
    """What feeds a model.

    Raises:
        TypeError: the model, or the tokenizer, is of the wrong kind.
        ValueError: an argument is missing, or is not wanted.
    """
    if not is_sentence_model(model):
        return _Embedder(model, tokenizer, pooling)
    kind = next((_KINDS[cls.__name__] for cls in type(model).__mro__ if cls.__name__ in _KINDS), None)
    if kind is None:
        raise TypeError(
            f"A {type(model).__name__} has no embeddings. One that reads both texts together is explained as the "
            "classifier that it is: BcosExplainer(cross_encoder, cross_encoder.tokenizer)((query, document))."
        )
    for name, value in (("tokenizer", tokenizer), ("pooling", pooling)):
        if value is not None:
            raise ValueError(f"{name}={value!r} given, but a {type(model).__name__} has its own; leave it out.")
    return kind(model)
