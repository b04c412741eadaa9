"""Moving left padding to the right and back, for models that are read from their first token on."""

from __future__ import annotations

import torch
from torch import Tensor


def left_padding(attention_mask: Tensor | None) -> Tensor | None:
    """Number of padding tokens on the left of each row, `(batch,)`; None if no row has any."""
    if attention_mask is None:
        return None
    count = (attention_mask != 0).int().argmax(dim=1)
    return count if bool(count.any()) else None


def roll(values: Tensor, shift: Tensor) -> Tensor:
    """Roll the sequence dimension by a number of places for each row.

    Args:
        values: `(batch, sequence)`, `(batch, sequence, classes)`, or `(batch, targets, sequence)` with `shift` of
            shape `(batch, 1)`.
        shift: places to the right, `(batch,)`.
    """
    dim = shift.dim()
    length = values.shape[dim]
    index = (torch.arange(length, device=values.device) - shift.to(values.device).unsqueeze(-1)) % length
    index = index.view(*index.shape, *[1] * (values.dim() - dim - 1))
    return values.gather(dim, index.expand(values.shape))
