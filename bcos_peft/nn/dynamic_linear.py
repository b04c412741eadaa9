"""Activations, norms and output heads whose input-dependent factors are held constant: linear in their input.

`functional` offers the first three to users; only torch is needed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bcos_peft.nn.numerics import _first_order, _is_batched, _is_differentiated, _is_traced, _matrix, _pieces


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
        >>> from bcos_peft.nn import hold_ratio
        >>> x = torch.tensor([2.0], requires_grad=True)
        >>> hold_ratio(x, torch.relu(x) ** 2).backward()
        >>> x.grad  # 4 / 2, not the derivative 4
        tensor([2.])

    Source: B-cos LM (arXiv 2502.12992), section 3 (dynamic-linear activations).
    """
    if _is_traced():
        ratio = (y / x).nan_to_num(0.0, float("inf"), float("-inf"))
        return y.detach() + (x - x.detach()) * ratio.detach()
    return _HoldRatio.apply(x, y.detach())


class _HoldRatio(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y):
        ctx.save_for_backward(x, y)
        return y.view_as(y)

    @staticmethod
    def backward(ctx, grad):
        x, y = ctx.saved_tensors
        if _is_differentiated(grad):
            return grad * (y / x.detach()).nan_to_num_(0.0, float("inf"), float("-inf")), None
        with torch.no_grad():
            many = _is_batched(grad)
            grad_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
            for x_rows, y_rows, grad_rows, out in _pieces(*map(_matrix, (x, y, y if many else grad, grad_x))):
                # 0/0 is 0 here, in a quarter of the time of a mask.
                ratio = (y_rows / x_rows).nan_to_num_(0.0, float("inf"), float("-inf"))
                out.copy_(ratio) if many else torch.mul(ratio, grad_rows, out=out)
            if many:
                grad_x = grad_x * grad
        return *_first_order((grad_x,), (grad, x)), None


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
        >>> from bcos_peft.nn import layer_norm
        >>> layer_norm(torch.tensor([[1.0, 3.0]]), None, eps=0.0)
        tensor([[-1.,  1.]])

    Source: B-cos LM (arXiv 2502.12992), section 3 and appendix on normalisation layers.
    """
    if _is_traced():
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        centred = wide - wide.mean(-1, keepdim=True)
        y = centred * (centred.square().mean(-1, keepdim=True) + eps).rsqrt().detach()
        return (y if weight is None else y * weight).to(x.dtype)
    return _weighted(_HeldLayerNorm, x, weight, eps)


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
        if _is_differentiated(grad):
            scaled = grad * (inverse_sigma if weight is None else weight)
            centred = scaled - scaled.mean(-1, keepdim=True)
            return (centred if weight is None else centred * inverse_sigma).to(grad.dtype), None, None
        with torch.no_grad():
            grad_x = grad.to(inverse_sigma.dtype) * (inverse_sigma if weight is None else weight)
            grad_x = grad_x.sub_(grad_x.mean(-1, keepdim=True))
            if weight is not None:
                grad_x = grad_x.mul_(inverse_sigma)
        return *_first_order((grad_x.to(grad.dtype),), (grad,)), None, None


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
        >>> from bcos_peft.nn import rms_norm
        >>> rms_norm(torch.tensor([[3.0, 3.0]]), None, eps=0.0)
        tensor([[1., 1.]])

    Source: B-cos LM (arXiv 2502.12992), section 3.
    """
    if hold_scale and not _is_traced():
        return _weighted(_HeldRMSNorm, x, weight, eps)
    return _rms_norm(x, weight, eps, hold_scale)[0]


def _rms_norm(x: Tensor, weight: Tensor | None, eps: float, hold_scale: bool = False) -> tuple[Tensor, Tensor]:
    """The norm, and `1/rms`."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    inverse_rms = (wide.square().mean(-1, keepdim=True) + eps).rsqrt()
    if hold_scale:
        inverse_rms = inverse_rms.detach()
    y = (wide * inverse_rms).to(x.dtype)
    return y if weight is None else y * weight, inverse_rms


class _HeldRMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, eps):
        y, inverse_rms = _rms_norm(x, weight, eps)
        ctx.save_for_backward(weight, inverse_rms)
        return y

    @staticmethod
    def backward(ctx, grad):
        weight, inverse_rms = ctx.saved_tensors
        grad_x = grad if weight is None else grad * weight
        return (grad_x * inverse_rms).to(grad.dtype), None, None


def _weighted(norm: type[torch.autograd.Function], x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """A held norm, whose own backward pass is for frozen weights."""
    if weight is not None and weight.requires_grad:
        return norm.apply(x, None, eps) * weight
    return norm.apply(x, weight, eps)


def few_rows(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """``y = x·weightᵀ`` as it is, with a backward pass that reads only the rows of the weight that it needs.

    Of a whole vocabulary, an explanation asks for the gradient of one logit or two; the plain product would read all
    of the weight again, for zeros.

    Args:
        x: what the linear layer was given, ``(..., in_features)``.
        y: what it returned, ``(..., out_features)``.
        weight: ``(out_features, in_features)``, frozen.

    Returns:
        ``y`` unchanged, with the gradient of the linear layer towards ``x``.

    Example:
        >>> import torch
        >>> from bcos_peft.nn import few_rows
        >>> x, weight = torch.ones(1, 2, requires_grad=True), torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
        >>> few_rows(x, x @ weight.T, weight)[0, 1].backward()
        >>> x.grad
        tensor([[3., 4.]])
    """
    if _is_traced():
        return y
    return _FewRows.apply(x, y.detach(), weight)


class _FewRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y, weight):
        ctx.save_for_backward(weight)
        ctx.dtype = x.dtype
        return y.view_as(y)

    @staticmethod
    def backward(ctx, grad):
        (weight,) = ctx.saved_tensors
        if _is_differentiated(grad):
            return (grad @ weight.to(grad.dtype)).to(ctx.dtype), None, None
        with torch.no_grad():
            if _is_batched(grad):
                grad_x = grad @ weight.to(grad.dtype)
            else:
                rows = _matrix(grad).any(0).nonzero().flatten()
                grad_x = grad[..., rows] @ weight[rows].to(grad.dtype)
        return *_first_order((grad_x.to(ctx.dtype),), (grad,)), None, None
