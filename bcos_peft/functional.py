"""The B-cos transform and what makes a network dynamic-linear, as functions of tensors.

Start reading here: everything else in the package decides *where* these functions are applied. Only torch is needed.

Notation (B-cos networks, arXiv 2205.10268, section 3; B-cos LM, arXiv 2502.12992, section 3): ``x`` is one token's
input to a layer, ``w_i`` a weight row, ``o_i = w_i·x`` and ``cos_i = o_i / (‖x‖ ‖w_i‖)``. The layer gives ``y_i =
|cos_i|^(B-1) · o_i``: a linear map of ``x`` whose rows are scaled, input by input, by how well they align with it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bcos_peft.numerics import (
    first_order,
    is_batched,
    matrix,
    pieces,
    power_,
    row_norms,
    scales,
    take_part_along_,
)  # fmt: skip


__all__ = ["bcos_linear", "bcos_scale", "hold_ratio", "layer_norm", "rms_norm"]


def bcos_linear(
    x: Tensor, weight: Tensor, b: float = 1.25, *, normalize_weights: bool = False, hold_scale: bool = False
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

    Returns:
        ``(..., out_features)``, in the dtype of ``x`` (or of autocast). Zero inputs and zero rows give zeros.

    Raises:
        RuntimeError: when a gradient of the gradient is asked for.

    Example:
        >>> import torch
        >>> from bcos_peft.functional import bcos_linear
        >>> x, weight = torch.tensor([[3.0, 4.0]]), torch.tensor([[2.0, 0.0], [3.0, 4.0]])
        >>> bcos_linear(x, weight, b=2.0)  # cosines 0.6 and 1, plain outputs 6 and 25
        tensor([[ 3.6000, 25.0000]])

    Source: B-cos networks (arXiv 2205.10268), equations 3 and 4; B-cos LM (arXiv 2502.12992), section 3.
    """
    if b == 1 and not normalize_weights:
        return torch.nn.functional.linear(x, weight)
    if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:  # which autocast leaves alone
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight = x.to(dtype), weight.to(dtype)
    y = _BcosLinear.apply(matrix(x), weight, float(b), normalize_weights, hold_scale)
    return y.view(*x.shape[:-1], weight.shape[0])


class _BcosLinear(torch.autograd.Function):
    # y is homogeneous of degree b in o, so the factors of the cosine can be taken into the product: with sx = ‖x‖^-a,
    # sw = ‖w‖^-a, a = (b-1)/b and u = sx·o·sw, it holds that y = |u|^(b-1)·u and s = |y|^a · sx · sw. (Unit rows:
    # sw = 1/‖w‖, and s below stands for s/‖w‖.) So the power of y is all that the backward pass needs.

    @staticmethod
    def forward(ctx, x, weight, b, unit_rows, hold_scale):
        x_norm, w_norm = row_norms(x), row_norms(weight)
        sx, sw = scales(x_norm, w_norm, b, unit_rows)
        # Unit rows are made before the product, which may overflow where the output does not; half precision is scaled
        # after it, in float32, because scaling first would round the operands once more.
        scale_first = unit_rows and weight.dtype == sw.dtype
        y = torch.nn.functional.linear(x, weight * sw.unsqueeze(-1) if scale_first else weight)
        for out, scale in pieces(y, sx):
            u = out.to(sx.dtype).mul_(scale)
            if not scale_first:
                u = u.mul_(sw)
            torch.mul(u, power_(u.abs(), b - 1), out=out)
        keep_x = not hold_scale or ctx.needs_input_grad[1]  # an explanation needs the outputs and norms alone
        ctx.save_for_backward(x if keep_x else None, weight, y, x_norm, w_norm)
        ctx.b, ctx.unit_rows, ctx.hold_scale = b, unit_rows, hold_scale
        return y

    @staticmethod
    def backward(ctx, grad):
        x, weight, y, x_norm, w_norm = ctx.saved_tensors
        b, unit_rows = ctx.b, ctx.unit_rows
        with torch.no_grad():
            sx, sw = scales(x_norm, w_norm, b, unit_rows)
            if not ctx.hold_scale:
                sx = sx * b
            many = is_batched(grad)  # they share the factors
            scaled_grad = torch.empty_like(y)
            for y_rows, grad_rows, scale, out in pieces(y, y if many else grad, sx, scaled_grad):
                s = power_(y_rows.abs().to(sx.dtype), (b - 1) / b).mul_(scale).mul_(sw)
                out.copy_(s) if many else torch.mul(s, grad_rows, out=out)
            if many:
                scaled_grad = scaled_grad * grad
            grad_x = scaled_grad @ weight if ctx.needs_input_grad[0] else None
            grad_w = scaled_grad.t() @ x if ctx.needs_input_grad[1] else None
            if not ctx.hold_scale:
                # Σ_i g_i·y_i = x·grad_x/b and Σ_tokens g_i·y_i = w_i·grad_w_i/b: no pass over the outputs is needed.
                if grad_x is not None:
                    take_part_along_(grad_x, x, x_norm, (b - 1) / b)
                if grad_w is not None:
                    take_part_along_(grad_w, weight, w_norm, 1.0 if unit_rows else (b - 1) / b)
        return *first_order((grad_x, grad_w), (grad, y, weight)), None, None, None


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
        >>> from bcos_peft.functional import bcos_scale
        >>> x, weight = torch.tensor([[3.0, 4.0]]), torch.tensor([[2.0, 0.0], [3.0, 4.0]])
        >>> bcos_scale(x, x @ weight.T, weight.norm(dim=-1), b=2.0)
        tensor([[ 3.6000, 25.0000]])

    Source: B-cos networks (arXiv 2205.10268), equations 3 and 4.
    """
    if b == 1 and not normalize_weights:
        return product
    y = _BcosScale.apply(matrix(x), matrix(product), w_norm, float(b), normalize_weights, hold_scale)
    return y.view(product.shape)


class _BcosScale(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, product, w_norm, b, unit_rows, hold_scale):
        x_norm = row_norms(x)
        sx, sw = scales(x_norm, w_norm, b, unit_rows)
        y = torch.empty_like(product)
        for out, o, scale in pieces(y, product, sx):
            u = (o.to(sx.dtype) * scale).mul_(sw)
            torch.mul(u, power_(u.abs(), b - 1), out=out)
        ctx.save_for_backward(None if hold_scale else x, y, x_norm, w_norm)
        ctx.b, ctx.unit_rows, ctx.hold_scale = b, unit_rows, hold_scale
        return y

    @staticmethod
    def backward(ctx, grad):
        x, y, x_norm, w_norm = ctx.saved_tensors
        b, grad_x, grad_norm = ctx.b, None, None
        with torch.no_grad():
            sx, sw = scales(x_norm, w_norm, b, ctx.unit_rows)
            grad_product = torch.empty_like(y)
            for y_rows, grad_rows, scale, out in pieces(y, grad, sx, grad_product):
                s = power_(y_rows.abs().to(sx.dtype), (b - 1) / b).mul_(scale).mul_(sw)
                torch.mul(s if ctx.hold_scale else s.mul_(b), grad_rows, out=out)
            if not ctx.hold_scale:
                along = y.to(sx.dtype) * grad
                tiny = torch.finfo(sx.dtype).tiny
                inverse = x_norm.clamp_min(tiny).reciprocal()
                grad_x = (x * (along.sum(-1) * inverse * inverse * (1 - b)).unsqueeze(-1)).to(x.dtype)
                if ctx.needs_input_grad[2]:
                    grad_norm = along.sum(0) / w_norm.clamp_min(tiny) * (-b if ctx.unit_rows else 1 - b)
        return *first_order((grad_x, grad_product, grad_norm), (grad, y)), None, None, None


def hold_ratio(x: Tensor, y: Tensor) -> Tensor:
    """``y`` as the linear map ``(y/x)·x`` with ``y/x`` held constant, elementwise.

    This is how an activation is explained: GELU, SiLU, ReLU and tanh are ``x·g(x)``, and ``g(x)`` is held constant.

    Args:
        x: what the elementwise function was given, any shape.
        y: what it returned, same shape; it must be 0 wherever ``x`` is 0.

    Returns:
        ``y`` unchanged, with the gradient ``grad·y/x`` (0 where ``x`` is 0) towards ``x`` and none towards ``y``.

    Example:
        >>> import torch
        >>> from bcos_peft.functional import hold_ratio
        >>> x = torch.tensor([2.0], requires_grad=True)
        >>> hold_ratio(x, torch.relu(x) ** 2).backward()
        >>> x.grad  # 4 / 2, not the derivative 4
        tensor([2.])

    Source: B-cos LM (arXiv 2502.12992), section 3 (dynamic-linear activations).
    """
    return _HoldRatio.apply(x, y.detach())


class _HoldRatio(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y):
        ctx.save_for_backward(x, y)
        return y.view_as(y)

    @staticmethod
    def backward(ctx, grad):
        x, y = ctx.saved_tensors
        with torch.no_grad():
            many = is_batched(grad)
            grad_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
            for x_rows, y_rows, grad_rows, out in pieces(*map(matrix, (x, y, y if many else grad, grad_x))):
                # 0/0 is 0 here, in a quarter of the time of a mask.
                ratio = (y_rows / x_rows).nan_to_num_(0.0, float("inf"), float("-inf"))
                out.copy_(ratio) if many else torch.mul(ratio, grad_rows, out=out)
            if many:
                grad_x = grad_x * grad
        return *first_order((grad_x,), (grad, x)), None


def layer_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """LayerNorm without bias, ``weight·(x − mean)/σ``, with ``1/σ`` held constant: linear in ``x``.

    Args:
        x: ``(..., features)``.
        weight: ``(features,)``, or None.
        eps: added to the variance.

    Returns:
        ``(..., features)`` in the dtype of ``x``; the statistics are taken in float32 at least.

    Example:
        >>> import torch
        >>> from bcos_peft.functional import layer_norm
        >>> layer_norm(torch.tensor([[1.0, 3.0]]), None, eps=0.0)
        tensor([[-1.,  1.]])

    Source: B-cos LM (arXiv 2502.12992), section 3 and appendix on normalisation layers.
    """
    if weight is not None and weight.requires_grad:
        return _HeldLayerNorm.apply(x, None, eps) * weight
    return _HeldLayerNorm.apply(x, weight, eps)


class _HeldLayerNorm(torch.autograd.Function):
    # The stock kernel, and a backward pass of three passes; the graph of the same in torch operations has ten.

    @staticmethod
    def forward(ctx, x, weight, eps):
        wide = torch.promote_types(x.dtype, torch.float32)
        wide_weight = None if weight is None else weight.to(wide)
        y, _, inverse_sigma = torch.native_layer_norm(x.to(wide), x.shape[-1:], wide_weight, None, eps)
        ctx.save_for_backward(weight, inverse_sigma)
        return y.to(x.dtype)

    @staticmethod
    def backward(ctx, grad):
        weight, inverse_sigma = ctx.saved_tensors
        with torch.no_grad():
            grad_x = grad.to(inverse_sigma.dtype) * (inverse_sigma if weight is None else weight)
            grad_x = grad_x.sub_(grad_x.mean(-1, keepdim=True))
            if weight is not None:
                grad_x = grad_x.mul_(inverse_sigma)
        return *first_order((grad_x.to(grad.dtype),), (grad,)), None, None


def rms_norm(x: Tensor, weight: Tensor | None, eps: float, *, hold_scale: bool = True) -> Tensor:
    """RMSNorm, ``weight·x/rms``; linear in ``x`` when ``1/rms`` is held constant.

    Args:
        x: ``(..., features)``.
        weight: ``(features,)``, or None.
        eps: added to the mean square.
        hold_scale: hold ``1/rms`` constant (explanation mode); False is the ordinary norm.

    Returns:
        ``(..., features)`` in the dtype of ``x``; the statistics are taken in float32 at least.

    Example:
        >>> import torch
        >>> from bcos_peft.functional import rms_norm
        >>> rms_norm(torch.tensor([[3.0, 3.0]]), None, eps=0.0)
        tensor([[1., 1.]])

    Source: B-cos LM (arXiv 2502.12992), section 3.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    measured = wide.detach() if hold_scale else wide
    y = (wide * (measured.square().mean(-1, keepdim=True) + eps).rsqrt()).to(x.dtype)
    return y if weight is None else y * weight
