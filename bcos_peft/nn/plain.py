"""The B-cos transform in plain torch operations, whose derivatives are autograd's.

For whatever follows operations one by one: `torch.export`, `torch.jit.trace`, `torch.func`, forward-mode derivatives.
`functional` has the same formula in closed form, for training: it is faster and keeps far less.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bcos_peft.nn.numerics import _row_norms


def _plain_linear(
    x: Tensor, weight: Tensor, w_norm: Tensor | None, b: float, unit_rows: bool, hold_scale: bool
) -> Tensor:
    """`bcos_linear`."""
    w_norm = _row_norms(weight) if w_norm is None else w_norm
    if unit_rows and weight.dtype == w_norm.dtype:  # before the product, which may overflow where the output does not
        rows = weight * _row_scale(w_norm, b, True, hold_scale).unsqueeze(-1)
        return _plain_scale(x, torch.nn.functional.linear(x, rows), None, b, True, hold_scale)
    return _plain_scale(x, torch.nn.functional.linear(x, weight), w_norm, b, unit_rows, hold_scale)


def _plain_scale(
    x: Tensor, product: Tensor, w_norm: Tensor | None, b: float, unit_rows: bool, hold_scale: bool
) -> Tensor:
    """`bcos_scale`; without norms the rows are scaled already."""
    x_norm = _row_norms(x)
    if hold_scale:
        x_norm = x_norm.detach()
    u = product.to(x_norm.dtype) * _power_of_norm(x_norm, (1 - b) / b).unsqueeze(-1)
    if w_norm is not None:
        u = u * _row_scale(w_norm, b, unit_rows, hold_scale)
    if b == 1:
        return u.to(product.dtype)
    size = (u.detach() if hold_scale else u).abs()
    zero = size == 0  # where a power below 1 has no slope; |u|^(b-1)·u has the slope 0
    return (u * size.masked_fill(zero, 1.0).pow(b - 1).masked_fill(zero, 0.0)).to(product.dtype)


def _row_scale(w_norm: Tensor, b: float, unit_rows: bool, hold_scale: bool) -> Tensor:
    w_norm = w_norm.detach() if hold_scale else w_norm
    scale = _power_of_norm(w_norm, -1.0 if unit_rows else (1 - b) / b)
    return scale.masked_fill(w_norm == 0, 0.0) if unit_rows else scale


def _power_of_norm(norm: Tensor, exponent: float) -> Tensor:
    """A negative power. By way of the logarithm, since the slope of a power of a tiny norm overflows by itself."""
    return (norm.clamp_min(torch.finfo(norm.dtype).tiny).log2() * exponent).exp2()
