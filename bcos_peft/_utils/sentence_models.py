"""Models of sentence-transformers, told by their class; the package is not imported for it."""

from __future__ import annotations

import sys
from typing import Any


__all__ = ["is_sentence_model"]


def is_sentence_model(model: Any) -> bool:
    """Whether a model is one of sentence-transformers: a `SentenceTransformer`, `CrossEncoder`, `SparseEncoder` or
    `MultiVectorEncoder`. Where nobody has imported the package, nothing is.

    Args:
        model: anything.

    Example:
        >>> from bcos_peft._utils.sentence_models import is_sentence_model
        >>> is_sentence_model("all-MiniLM-L6-v2")
        False
    """
    module = sys.modules.get("sentence_transformers.base.model")
    return module is not None and isinstance(model, module.BaseModel)
