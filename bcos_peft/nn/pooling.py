"""The embedding of a text, of those of its tokens. Only torch is needed."""

from __future__ import annotations

import torch
from torch import Tensor


def pool(hidden: Tensor, mask: Tensor, how: str) -> Tensor:
    """The embedding of each text, linear in the hidden states of its tokens.

    Args:
        hidden: `(texts, length, features)`.
        mask: `(texts, length)`, not 0 for tokens; padding may be on either side.
        how: `"mean"` of all tokens, the first (`"cls"`) or the `"last"` of them.

    Returns:
        `(texts, features)`.

    Example:
        >>> import torch
        >>> from bcos_peft.nn import pool
        >>> hidden, mask = torch.arange(6.0).reshape(1, 3, 2), torch.tensor([[1, 1, 0]])
        >>> [pool(hidden, mask, how).tolist() for how in ("mean", "cls", "last")]
        [[[1.0, 2.0]], [[0.0, 1.0]], [[2.0, 3.0]]]
    """
    mask = mask != 0
    if how == "mean":
        return (hidden * mask.unsqueeze(-1).to(hidden.dtype)).sum(1) / mask.sum(1, keepdim=True)
    places = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
    found = places.masked_fill(~mask, mask.shape[1]).argmin(1) if how == "cls" else (places * mask).argmax(1)
    return hidden[torch.arange(len(hidden), device=hidden.device), found]
