"""The B-cos transform and what makes a network dynamic-linear, as functions of tensors.

Start reading here, and go on with `dynamic_linear`: everything else in the package decides *where* these functions are
applied. Only torch is needed.

Notation (B-cos networks, arXiv 2205.10268, section 3; B-cos LM, arXiv 2502.12992, section 3): ``x`` is one token's
input to a layer, ``w_i`` a weight row, ``o_i = w_i·x`` and ``cos_i = o_i / (‖x‖ ‖w_i‖)``. The layer gives ``y_i =
|cos_i|^(B-1) · o_i``: a linear map of ``x`` whose rows are scaled, input by input, by how well they align with it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bcos_peft.nn.numerics import (
    _as_autocast,
    _count_writes,
    _first_order,
    _is_batched,
    _is_differentiated,
    _is_traced,
    _is_written,
    _matrix,
    _pieces,
    _power_,
    _refuse_foreign,
    _row_norms,
    _scales,
    _take_part_along_,
    _unwritten,
    _wants_gradient,
)
from bcos_peft.nn.plain import _plain_linear, _plain_scale


def bcos_linear(
    x: Tensor,
    weight: Tensor,
    b: float = 1.25,
    *,
    normalize_weights: bool = False,
    hold_scale: bool = False,
    w_norm: Tensor | None = None,
) -> Tensor:
    r"""B-cos linear map, ``y_i = |cos(x, w_i)|^(b-1) · w_i·x``.

    The backward pass is in closed form: with ``s_i = |cos_i|^(b-1)`` and ``g`` the gradient of ``y``,

    ``dx = Σ_i b·s_i·g_i·w_i − (b−1)·(Σ_i g_i·y_i)·x/‖x‖²``
    ``dw_i = Σ_tokens b·s_i·g_i·x − (b−1)·(Σ_tokens g_i·y_i)·w_i/‖w_i‖²``

    and needs one tensor more than a plain linear layer: its own output, from which ``s`` is rebuilt.

    Args:
        x: input, ``(..., in_features)``.
        weight: ``(out_features, in_features)``.
        b: the exponent B, at least 1. With ``b=1`` (and weights as they are) this is the plain linear map.
        normalize_weights: divide each row by its norm, ``y_i = |cos_i|^(b-1) · w_i·x / ‖w_i‖``, as the paper does.
        hold_scale: treat ``s`` as a constant in the backward pass, so that gradient × input gives contributions
            that sum to ``y`` (explanation mode). The output is the same, bit for bit.
        w_norm: ``(out_features,)``, the norms of the rows as `numerics.row_norms` gives them, where they are known.
            Under autocast they are taken anew, of the rounded rows.

    Returns:
        ``(..., out_features)``, in the dtype of ``x`` (or of autocast). Zero inputs and zero rows give zeros.

    Raises:
        RuntimeError: when a gradient of the gradient is asked for.
        TypeError: `weight` is of a class with its own arithmetic, such as those of torchao.

    Example:
        >>> import torch
        >>> from bcos_peft.nn import bcos_linear
        >>> x, weight = torch.tensor([[3.0, 4.0]]), torch.tensor([[2.0, 0.0], [3.0, 4.0]])
        >>> bcos_linear(x, weight, b=2.0)  # cosines 0.6 and 1, plain outputs 6 and 25
        tensor([[ 3.6000, 25.0000]])

    Source: B-cos networks (arXiv 2205.10268), equations 3 and 4; B-cos LM (arXiv 2502.12992), section 3.
    """
    if b == 1 and not normalize_weights:
        return torch.nn.functional.linear(x, weight)
    _refuse_foreign(weight)
    x, weight, w_norm = _as_autocast(x, weight, w_norm)
    operands = _matrix(x), weight, w_norm, float(b), normalize_weights
    if _is_traced():
        y = _plain_linear(*operands, hold_scale)
    elif _wants_gradient(x, weight) or torch.compiler.is_compiling():
        y = _BcosLinear.apply(*operands, hold_scale)
    else:
        y = _linear_forward(*operands)[0]
    return y.view(*x.shape[:-1], weight.shape[0])


def _linear_forward(x, weight, w_norm, b, unit_rows):
    """The output, and the norms and scales of inputs and rows."""
    x_norm, w_norm = _row_norms(x), _row_norms(weight) if w_norm is None else w_norm
    sx, sw = _scales(x_norm, w_norm, b, unit_rows)
    # Unit rows are made before the product, which may overflow where the output does not; half precision is scaled
    # after it, in float32, because scaling first would round the operands once more.
    scale_first = unit_rows and weight.dtype == sw.dtype
    y = torch.nn.functional.linear(x, weight * sw.unsqueeze(-1) if scale_first else weight)
    for out, scale in _pieces(y, sx):
        u = out.to(sx.dtype).mul_(scale)
        if not scale_first:
            u = u.mul_(sw)
        torch.mul(u, _power_(u.abs(), b - 1), out=out)
    return y, (x_norm, w_norm), (sx, sw)


class _BcosLinear(torch.autograd.Function):
    # y is homogeneous of degree b in o, so the factors of the cosine can be taken into the product: with sx = ‖x‖^-a,
    # sw = ‖w‖^-a, a = (b-1)/b and u = sx·o·sw, it holds that y = |u|^(b-1)·u and s = |y|^a · sx · sw. (Unit rows:
    # sw = 1/‖w‖, and s below stands for s/‖w‖.) So the power of y is all that the backward pass needs.

    @staticmethod
    def forward(ctx, x, weight, w_norm, b, unit_rows, hold_scale):
        y, norms, scales = _linear_forward(x, weight, w_norm, b, unit_rows)
        keep_x = not hold_scale or ctx.needs_input_grad[1]  # an explanation needs the outputs and norms alone
        ctx.writes = _count_writes(y)
        # Of `y.data`, autograd does not mind writes into y: it can be computed again, from x.
        kept = y.data if keep_x and ctx.writes else y
        ctx.save_for_backward(x if keep_x else None, weight, kept, *(scales if hold_scale else norms))
        ctx.b, ctx.unit_rows, ctx.hold_scale = b, unit_rows, hold_scale
        return y

    @staticmethod
    def backward(ctx, grad):
        if ctx.hold_scale and not ctx.needs_input_grad[1]:
            _unwritten(ctx.writes)
        x, weight, y, *factors = ctx.saved_tensors
        b, unit_rows = ctx.b, ctx.unit_rows
        if ctx.hold_scale and not ctx.needs_input_grad[1] and _is_differentiated(grad):
            return (grad * _held_scale(y, *factors, b)) @ weight, None, None, None, None, None
        with torch.no_grad():
            if _is_written(ctx.writes):
                y = _linear_forward(x, weight, None if ctx.hold_scale else factors[1], b, unit_rows)[0]
            if ctx.hold_scale:
                sx, sw = factors
            else:
                x_norm, w_norm = factors
                sx, sw = _scales(x_norm, w_norm, b, unit_rows)
                sx = sx * b
            many = _is_batched(grad)  # they share the factors
            scaled_grad = torch.empty_like(y)
            for y_rows, grad_rows, scale, out in _pieces(y, y if many else grad, sx, scaled_grad):
                s = _power_(y_rows.abs().to(sx.dtype), (b - 1) / b).mul_(scale).mul_(sw)
                out.copy_(s) if many else torch.mul(s, grad_rows, out=out)
            if many:
                scaled_grad = scaled_grad * grad
            grad_x = scaled_grad @ weight if ctx.needs_input_grad[0] else None
            grad_w = scaled_grad.t() @ x if ctx.needs_input_grad[1] else None
            if not ctx.hold_scale:
                # Σ_i g_i·y_i = x·grad_x/b and Σ_tokens g_i·y_i = w_i·grad_w_i/b: no pass over the outputs is needed.
                if grad_x is not None:
                    _take_part_along_(grad_x, x, x_norm, (b - 1) / b)
                if grad_w is not None:
                    _take_part_along_(grad_w, weight, w_norm, 1.0 if unit_rows else (b - 1) / b)
        return *_first_order((grad_x, grad_w), (grad, x, y, weight)), None, None, None, None


def bcos_scale(
    x: Tensor,
    product: Tensor,
    w_norm: Tensor,
    b: float = 1.25,
    *,
    normalize_weights: bool = False,
    hold_scale: bool = False,
) -> Tensor:
    r"""The same map from the plain product ``o_i = w_i·x``, for weights that are kept in another form (quantised).

    Autograd takes the gradient of ``o`` on to ``x``; this function gives ``x`` and the norms what they get through the
    cosine.

    Args:
        x: input, ``(..., in_features)``.
        product: ``(..., out_features)``.
        w_norm: ``(out_features,)``, the norms of the weight rows, in float32 at least.
        b: the exponent B, at least 1.
        normalize_weights: divide each output by its row's norm, as in `bcos_linear`.
        hold_scale: treat the cosine factors as constants in the backward pass (explanation mode).

    Returns:
        ``(..., out_features)``, in the dtype of ``product``.

    Example:
        >>> import torch
        >>> from bcos_peft.nn import bcos_scale
        >>> x, weight = torch.tensor([[3.0, 4.0]]), torch.tensor([[2.0, 0.0], [3.0, 4.0]])
        >>> bcos_scale(x, x @ weight.T, weight.norm(dim=-1), b=2.0)
        tensor([[ 3.6000, 25.0000]])

    Source: B-cos networks (arXiv 2205.10268), equations 3 and 4.
    """
    if b == 1 and not normalize_weights:
        return product
    operands = _matrix(x), _matrix(product), w_norm, float(b), normalize_weights
    if _is_traced():
        y = _plain_scale(*operands, hold_scale)
    elif _wants_gradient(x, product, w_norm) or torch.compiler.is_compiling():
        y = _BcosScale.apply(*operands, hold_scale)
    else:
        y = _scale_forward(*operands)[0]
    return y.view(product.shape)


def _scale_forward(x, product, w_norm, b, unit_rows):
    x_norm = _row_norms(x)
    sx, sw = _scales(x_norm, w_norm, b, unit_rows)
    y = torch.empty_like(product)
    for out, o, scale in _pieces(y, product, sx):
        u = (o.to(sx.dtype) * scale).mul_(sw)
        torch.mul(u, _power_(u.abs(), b - 1), out=out)
    return y, x_norm


def _held_scale(y: Tensor, sx: Tensor, sw: Tensor, b: float) -> Tensor:
    """`s = |y|^a · sx · sw`, as a constant."""
    return _power_(y.detach().abs().to(sx.dtype), (b - 1) / b).mul_(sx).mul_(sw).to(y.dtype)


class _BcosScale(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, product, w_norm, b, unit_rows, hold_scale):
        y, x_norm = _scale_forward(x, product, w_norm, b, unit_rows)
        ctx.writes = _count_writes(y)
        ctx.save_for_backward(None if hold_scale else x, y, x_norm, w_norm)
        ctx.b, ctx.unit_rows, ctx.hold_scale = b, unit_rows, hold_scale
        return y

    @staticmethod
    def backward(ctx, grad):
        _unwritten(ctx.writes)
        x, y, x_norm, w_norm = ctx.saved_tensors
        b, grad_x, grad_norm = ctx.b, None, None
        if ctx.hold_scale and _is_differentiated(grad):
            scale = _held_scale(y, *_scales(x_norm, w_norm, b, ctx.unit_rows), b)
            return None, grad * scale, None, None, None, None
        with torch.no_grad():
            sx, sw = _scales(x_norm, w_norm, b, ctx.unit_rows)
            grad_product = torch.empty_like(y)
            for y_rows, grad_rows, scale, out in _pieces(y, grad, sx, grad_product):
                s = _power_(y_rows.abs().to(sx.dtype), (b - 1) / b).mul_(scale).mul_(sw)
                torch.mul(s if ctx.hold_scale else s.mul_(b), grad_rows, out=out)
            if not ctx.hold_scale:
                along = y.to(sx.dtype) * grad
                tiny = torch.finfo(sx.dtype).tiny
                inverse = x_norm.clamp_min(tiny).reciprocal()
                grad_x = (x * (along.sum(-1) * inverse * inverse * (1 - b)).unsqueeze(-1)).to(x.dtype)
                if ctx.needs_input_grad[2]:
                    grad_norm = along.sum(0) / w_norm.clamp_min(tiny) * (-b if ctx.unit_rows else 1 - b)
        return *_first_order((grad_x, grad_product, grad_norm), (grad, y)), None, None, None
