"""The B-cos transform of an updated weight, `W + UD` with a low rank, without forming the sum.

Only torch is needed. `functional` has the transform itself, and its notation; the update of LoRA (arXiv 2106.09685) is
`D = A`, `U = s·B`.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from bcos_peft.nn.numerics import (
    _as_autocast,
    _count_writes,
    _first_order,
    _is_differentiated,
    _is_traced,
    _is_written,
    _matrix,
    _pieces,
    _power_,
    _refuse_foreign,
    _row_norms,
    _scales,
    _unwritten,
    _wants_gradient,
    widest,
)
from bcos_peft.nn.plain import _plain_scale


class LowRank(NamedTuple):
    """An update `up @ down` of a weight, and what `down` makes of a layer's input.

    Attributes:
        hidden (`torch.Tensor`): `(..., rank)`, `x @ down.T`; in training, of the input after dropout.
        down (`torch.Tensor`): `(rank, in_features)`, LoRA's A.
        up (`torch.Tensor`): `(out_features, rank)`, LoRA's B times its scaling.

    Example:
        >>> import torch
        >>> from bcos_peft.nn import LowRank
        >>> x, down, up = torch.ones(3, 4), torch.ones(2, 4), torch.zeros(5, 2)
        >>> LowRank(x @ down.T, down, up).hidden.shape
        torch.Size([3, 2])
    """

    hidden: Tensor
    down: Tensor
    up: Tensor


def bcos_lora_linear(
    x: Tensor,
    weight: Tensor,
    update: LowRank,
    b: float = 1.25,
    *,
    normalize_weights: bool = False,
    hold_scale: bool = False,
    w_norm: Tensor | None = None,
) -> Tensor:
    r"""B-cos linear map with the weight `V = W + UD`: the update is part of the cosine.

    With `o_i = w_i·x + u_i·(Dx)` the output is that of `bcos_linear(x, W + UD)`. The norms of the rows need products
    as thin as the rank only:

    ``‖v_i‖² = ‖w_i‖² + u_i·(2·D·w_i + D·Dᵀ·u_i)``

    The backward pass is in closed form. With `s` and `g` as in `bcos_linear`, ``G = b·s·g``, ``k_i =
    (b−1)·(Σ_tokens g_i·y_i)/‖v_i‖²`` (b instead of b−1 for unit rows) and ``K = diag(k)``:

    ``dx = G·W − (b−1)·(Σ_i g_i·y_i)·x/‖x‖²``, ``d(Dx) = G·U``, ``dU = Gᵀ·(Dx) − K·V·Dᵀ``, ``dD = −(K·U)ᵀ·V``

    where autograd adds what `D` gets through `Dx`.

    Args:
        x: input, ``(..., in_features)``.
        weight: ``W``, ``(out_features, in_features)``; it may be frozen.
        update: ``U`` and ``D``, in the precision of `weight` or higher, and ``Dx``. When that was taken of the input
            after dropout, the cosine has the noise in its numerator only: the norms are those of evaluation.
        b: the exponent B, at least 1.
        normalize_weights: divide each row by its norm, as in `bcos_linear`.
        hold_scale: treat the cosine factors as constants in the backward pass (explanation mode).
        w_norm: the norms of the rows of `weight`, as in `bcos_linear`.

    Returns:
        ``(..., out_features)``, in the dtype of ``x`` (or of autocast).

    Raises:
        RuntimeError: when a gradient of the gradient is asked for.
        TypeError: `weight` is of a class with its own arithmetic, such as those of torchao.

    Example:
        >>> import torch
        >>> from bcos_peft.nn import bcos_linear
        >>> from bcos_peft.nn import LowRank, bcos_lora_linear
        >>> x, weight, down, up = (torch.randn(*shape) for shape in [(2, 4), (3, 4), (1, 4), (3, 1)])
        >>> y = bcos_lora_linear(x, weight, LowRank(x @ down.T, down, up), b=2.0)
        >>> torch.allclose(y, bcos_linear(x, weight + up @ down, b=2.0), atol=1e-5)
        True

    Source: B-cos networks (arXiv 2205.10268), equation 3, for the weight of LoRA (arXiv 2106.09685), equation 3.
    """
    _refuse_foreign(weight)
    x, weight, w_norm = _as_autocast(x, weight, w_norm)
    if b == 1 and not normalize_weights:
        added = torch.nn.functional.linear(update.hidden, update.up.to(update.hidden.dtype))
        return torch.nn.functional.linear(x, weight) + added.to(x.dtype)
    wide = torch.promote_types(x.dtype, torch.float32)
    hidden, down, up = _matrix(update.hidden).to(wide), update.down.to(wide), update.up.to(wide)
    operands = _matrix(x), hidden, weight, down, up, w_norm, float(b), normalize_weights
    if _is_traced():
        y = _plain_lora(*operands, hold_scale)
    elif _wants_gradient(x, *update, weight) or torch.compiler.is_compiling():
        y = _BcosLora.apply(*operands, hold_scale)
    else:
        y = _lora_forward(*operands)[0]
    return y.view(*x.shape[:-1], weight.shape[0])


def _plain_lora(x, hidden, weight, down, up, _, b, unit_rows, hold_scale):
    """In plain torch operations, with the sum formed."""
    on = torch.is_autocast_enabled(x.device.type)
    with torch.autocast(x.device.type, enabled=False) if on else nullcontext():
        product = torch.nn.functional.linear(x, weight).to(up.dtype) + hidden @ up.t()
        norms = _row_norms(weight.to(up.dtype) + up @ down)
        return _plain_scale(x, product, norms, b, unit_rows, hold_scale).to(x.dtype)


def _lora_forward(x, hidden, weight, down, up, w_norm, b, unit_rows):
    """The output, `V·Dᵀ`, and the norms of inputs and rows."""
    with torch.autocast(x.device.type, enabled=False):
        x_norm = _row_norms(x)
        v_norm, v_down = _updated_norms(weight, down, up, w_norm)
        sx, sv = _scales(x_norm, v_norm, b, unit_rows)
        y = torch.nn.functional.linear(x, weight)
        for out, hidden_rows, scale in _pieces(y, hidden, sx):
            u = out.to(sx.dtype).addmm_(hidden_rows, up.t()).mul_(scale).mul_(sv)
            torch.mul(u, _power_(u.abs(), b - 1), out=out)
    return y, v_down, (x_norm, v_norm)


class _BcosLora(torch.autograd.Function):
    # As in functional: |u|^(b-1)·u of the scaled product u gives y, and a power of y gives s back. All that has the
    # rank as a dimension is in float32 at least, whatever the precision of the layer.

    @staticmethod
    def forward(ctx, x, hidden, weight, down, up, w_norm, b, unit_rows, hold_scale):
        y, v_down, norms = _lora_forward(x, hidden, weight, down, up, w_norm, b, unit_rows)
        if hold_scale and not any(ctx.needs_input_grad[2:5]):  # an explanation needs the outputs and norms alone
            x = hidden = None
        if hold_scale:
            down = v_down = None
        ctx.writes = _count_writes(y)
        kept = y if hold_scale or not ctx.writes else y.data  # as in functional
        ctx.save_for_backward(x, hidden, weight, down, up, v_down, kept, *norms)
        ctx.b, ctx.unit_rows, ctx.hold_scale = b, unit_rows, hold_scale
        return y

    @staticmethod
    def backward(ctx, grad):
        if ctx.hold_scale:
            _unwritten(ctx.writes)
        x, hidden, weight, down, up, v_down, y, x_norm, v_norm = ctx.saved_tensors
        b, need_weight = ctx.b, ctx.needs_input_grad[2]
        if ctx.hold_scale and not any(ctx.needs_input_grad[2:5]) and _is_differentiated(grad):
            scales = _scales(x_norm, v_norm, b, ctx.unit_rows)
            scaled = grad * _power_(y.detach().abs().to(v_norm.dtype), (b - 1) / b).mul_(scales[0]).mul_(scales[1])
            return scaled.to(grad.dtype) @ weight, scaled @ up, *[None] * 7
        with torch.no_grad(), torch.autocast(y.device.type, enabled=False):
            if _is_written(ctx.writes):
                y = _lora_forward(x, hidden, weight, down, up, None, b, ctx.unit_rows)[0]
            sx, sv = _scales(x_norm, v_norm, b, ctx.unit_rows)
            if not ctx.hold_scale:
                sx = sx * b
            scaled_grad, grad_hidden = torch.empty_like(y), up.new_empty(len(y), up.shape[1])
            grad_up, along_v, along_x = torch.zeros_like(up), torch.zeros_like(v_norm), torch.empty_like(x_norm)
            for rows in _pieces(y, grad, sx, scaled_grad, grad_hidden, along_x, x_norm if hidden is None else hidden):
                y_rows, grad_rows, scale, out, grad_hidden_rows, along, hidden_rows = rows
                scaled = _power_(y_rows.abs().to(sx.dtype), (b - 1) / b).mul_(scale).mul_(sv).mul_(grad_rows)
                out.copy_(scaled)
                torch.mm(scaled, up, out=grad_hidden_rows)
                if hidden is not None:
                    grad_up.addmm_(scaled.t(), hidden_rows)
                if not ctx.hold_scale:
                    product = torch.mul(y_rows.to(scaled.dtype), grad_rows, out=scaled)
                    along.copy_(product.sum(-1))
                    along_v.add_(product.sum(0))
            grad_x = scaled_grad @ weight
            grad_weight = scaled_grad.t() @ x if need_weight else None
            grad_down = None
            if not ctx.hold_scale:
                share = _by_square(along_x, x_norm).mul_(b - 1).unsqueeze(-1)
                for rows, x_rows, factor in _pieces(grad_x, x, share):
                    rows.sub_(x_rows * factor)
                share = _by_square(along_v, v_norm).mul_(b if ctx.unit_rows else b - 1).unsqueeze(-1)
                grad_up.sub_(v_down * share)
                left = up * share
                grad_down = (left.t() @ up @ down).add_(_left_product(left, weight)).neg_()
                if need_weight:
                    grad_weight.sub_((weight * share).addmm_(left, down))
        grads = _first_order((grad_x, grad_hidden, grad_weight, grad_down, grad_up), (grad, x, y, weight))
        return *grads, None, None, None, None


def _updated_norms(weight: Tensor, down: Tensor, up: Tensor, w_norm: Tensor | None) -> tuple[Tensor, Tensor]:
    """The norms of the rows of `V = W + UD`, and `V·Dᵀ`."""
    w_down = torch.cat([rows @ down.t() for rows in _wide_rows(weight, down.dtype)])
    v_down = w_down + up @ (down @ down.t())
    # A small difference of two squares would be lost in float32; these sums have one term for each row.
    wide = widest(weight)
    more = (up.to(wide) * (w_down.to(wide) + v_down)).sum(-1)
    w_norm = _row_norms(weight) if w_norm is None else w_norm
    norms = w_norm.to(wide).square().add(more).clamp_min_(0).sqrt()
    return norms.to(down.dtype), v_down


def _wide_rows(weight: Tensor, dtype: torch.dtype) -> Iterable[Tensor]:
    """The rows in a wider precision, a part at a time: a whole copy would be twice as large as the weight."""
    if weight.dtype == dtype:
        return (weight,)
    return (rows.to(dtype) for rows in weight.split(max(1, _COPIED // max(1, weight.shape[1]))))


_COPIED = 1 << 22  # elements: 16 MB in float32


def _left_product(left: Tensor, weight: Tensor) -> Tensor:
    """`leftᵀ·weight`, `(rank, in_features)`."""
    total, start = left.new_zeros(left.shape[1], weight.shape[1]), 0
    for rows in _wide_rows(weight, left.dtype):
        total.addmm_(left[start : start + len(rows)].t(), rows)
        start += len(rows)
    return total


def _by_square(t: Tensor, norms: Tensor) -> Tensor:
    """`t/‖·‖²`, and 0 for a norm of 0, where `t` is 0 too."""
    norms = norms.clamp_min(torch.finfo(norms.dtype).tiny)
    return t / norms / norms
