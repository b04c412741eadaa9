"""A short text that changes with plain values and tensors."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from torch import Tensor


__all__ = ["digest"]


def digest(value: Any) -> str:
    """A short text that changes with plain values and tensors.

    Args:
        value (`Any`): lists, dictionaries, texts, numbers and tensors; others count as what `str` makes of them.

    Example:
        >>> import torch
        >>> from bcos_peft._utils.digest import digest
        >>> digest([1, torch.tensor([2.0])]) == digest([1, [2.0]])
        True
    """
    text = json.dumps(value, sort_keys=True, skipkeys=True, default=_plain, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, Tensor) else str(value)
