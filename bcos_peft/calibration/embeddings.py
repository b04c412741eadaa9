"""How a model for embeddings reads texts, and what it makes of their hidden states."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn


# Modules of sentence-transformers that make one embedding of hidden states, and need nothing else.
_POOLED = ("Pooling", "Dense", "Normalize", "LayerNorm", "Dropout")
_MODULES = "sentence_transformers.sentence_transformer.modules"


@dataclass(frozen=True)
class Embedding:
    """What is known of a model for embeddings beside the transformer in it.

    Args:
        pool (`Callable`, *optional*): from hidden states `(texts, length, width)` and their mask `(texts, length)`,
            bool, to embeddings `(texts, width of an embedding)`; `None` where there is no single embedding.
        prompts (`tuple[str, ...]`): what may stand before a text.
        max_length (`int`, *optional*): how many tokens of a text are read.

    Example:
        >>> from bcos_peft.calibration import Embedding
        >>> Embedding(prompts=("query: ",)).max_length is None
        True
    """

    pool: Callable[[Tensor, Tensor], Tensor] | None = None
    prompts: tuple[str, ...] = ("",)
    max_length: int | None = None


def embedding_of(model: nn.Module) -> Embedding:
    """What a model of sentence-transformers makes of the hidden states of the transformer inside.

    Args:
        model (`torch.nn.Module`): a `SentenceTransformer`, `CrossEncoder`, `SparseEncoder` or `MultiVectorEncoder`.

    Returns:
        [`Embedding`]: its `pool` is that of a `SentenceTransformer` with pooling, dense layers and norms after the
        transformer, in this order or another; other modules make something that is no sum of hidden states, or more
        than one embedding.
    """
    prompts = [prompt for prompt in model.prompts.values() if prompt is not None]
    if model.default_prompt_name is None or not prompts:
        prompts.append("")
    return Embedding(_pooling_of(model), tuple(dict.fromkeys(prompts)), model.max_seq_length)


def _pooling_of(model: nn.Module) -> Callable[[Tensor, Tensor], Tensor] | None:
    known = sys.modules.get(_MODULES)
    modules = list(model.children())
    if known is None or not isinstance(modules[0], known.Transformer):
        return None
    after = modules[1:]
    pooled = any(isinstance(module, known.Pooling) for module in after)
    if not pooled or not all(isinstance(module, tuple(getattr(known, name) for name in _POOLED)) for module in after):
        return None

    def pool(hidden: Tensor, mask: Tensor) -> Tensor:
        features = {"token_embeddings": hidden, "attention_mask": mask.long()}
        for module in after:
            features = module(features)
        return features["sentence_embedding"]

    return pool
