"""The B-cos transform and what makes a network dynamic-linear, as functions of tensors.

Start reading here: everything else in the package decides *where* these functions are applied. Only torch is needed.

Notation (B-cos networks, arXiv 2205.10268, section 3; B-cos LM, arXiv 2502.12992, section 3): ``x`` is one token's
input to a layer, ``w_i`` a weight row, ``o_i = w_i·x`` and ``cos_i = o_i / (‖x‖ ‖w_i‖)``. The layer gives ``y_i =
|cos_i|^(B-1) · o_i``: a linear map of ``x`` whose rows are scaled, input by input, by how well they align with it.
"""

from __future__ import annotations

import torch
from torch import Tensor


__all__ = ["bcos_linear", "hold_ratio", "layer_norm", "rms_norm"]

# Sums of squares stay accurate in float32 while norms stay in this range; outside, they are taken again in float64.
_SAFE_NORMS = (1e-16, 1e16)


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
    return _BcosLinear.apply(x, weight, float(b), normalize_weights, hold_scale)


class _BcosLinear(torch.autograd.Function):
    # y is homogeneous of degree b in o, so the factors of the cosine can be moved in front of the product:
    # with sx = ‖x‖^-a, sw = ‖w‖^-a, a = (b-1)/b and u = (sx·x)·(sw·w), it holds that y = |u|^(b-1)·u and
    # s = |y|^a · sx · sw. (Unit rows: sw = 1/‖w‖, and s below stands for s/‖w‖.) Scaling the smaller side of the
    # product is what keeps the layer close to a plain one, and the power of y is all that the backward pass needs.

    @staticmethod
    def forward(ctx, x, weight, b, normalize_weights, hold_scale):
        x_norm, w_norm = row_norms(x), row_norms(weight)
        sx, sw = _scales(x_norm, w_norm, b, normalize_weights)
        u = _scaled_linear(x, weight, sx, sw, normalize_weights)
        y = _power_(u.abs(), b - 1).mul_(u).to(x.dtype)
        ctx.save_for_backward(x, weight, y, x_norm, w_norm)
        ctx.b, ctx.normalize_weights, ctx.hold_scale = b, normalize_weights, hold_scale
        return y

    @staticmethod
    def backward(ctx, grad):
        x, weight, y, x_norm, w_norm = ctx.saved_tensors
        b, unit_rows = ctx.b, ctx.normalize_weights
        need_x, need_w = ctx.needs_input_grad[:2]
        with torch.no_grad():
            sx, sw = _scales(x_norm, w_norm, b, unit_rows)
            scaled_grad = _power_(y.abs().to(sx.dtype), (b - 1) / b).mul_(grad)
            grad_x, grad_w = _scaled_linear_backward(scaled_grad, x, weight, sx, sw, unit_rows, need_x, need_w)
            if not ctx.hold_scale:
                # Σ_i g_i·y_i = x·grad_x and Σ_tokens g_i·y_i = w_i·grad_w: no pass over the outputs is needed.
                grad_x = _along(grad_x, x, x_norm, b, b - 1) if need_x else None
                grad_w = _along(grad_w, weight, w_norm, b, b if unit_rows else b - 1) if need_w else None
        return *_first_order((grad_x, grad_w), (grad, x, weight)), None, None, None


def _first_order(grads, origins):
    """The same gradients, such that asking for their own gradient is an error, and not silently zero."""
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():  # it is enabled when create_graph=True
        return grads
    return tuple(grad if grad is None else _FirstOrder.apply(grad, *origins) for grad in grads)


class _FirstOrder(torch.autograd.Function):
    @staticmethod
    def forward(ctx, grad, *origins):
        return grad.view_as(grad)

    @staticmethod
    def backward(ctx, *grads):
        raise RuntimeError(
            "The B-cos transform has a first derivative only: it cannot be differentiated twice (gradient penalties, "
            "Hessians). Write it with plain torch operations for that."
        )


def row_norms(x: Tensor) -> Tensor:
    """Norms over the last dimension, ``(...)``, accumulated in float32 at least and right for huge and tiny values."""
    if x.dtype == torch.float64:
        return torch.linalg.vector_norm(x, dim=-1)
    norms = torch.linalg.vector_norm(x, dim=-1, dtype=torch.float32)
    if torch.compiler.is_compiling() or x.device.type == "cuda":
        # No look at the values (it would break the graph, or wait for the device): a wide sum costs nothing there.
        return torch.linalg.vector_norm(x, dim=-1, dtype=torch.float64).to(torch.float32)
    if x.device.type == "cpu" and norms.numel():
        low, high = norms.aminmax()
        if not (low >= _SAFE_NORMS[0] and high <= _SAFE_NORMS[1]):
            return torch.linalg.vector_norm(x, dim=-1, dtype=torch.float64).to(torch.float32)
    return norms


def _scales(x_norm: Tensor, w_norm: Tensor, b: float, unit_rows: bool) -> tuple[Tensor, Tensor]:
    tiny = torch.finfo(x_norm.dtype).tiny
    exponent = (1 - b) / b
    sx = x_norm.clamp_min(tiny).pow(exponent).unsqueeze(-1)
    sw = w_norm.clamp_min(tiny).pow(-1.0 if unit_rows else exponent)
    if unit_rows:
        sw = sw.masked_fill(w_norm == 0, 0)  # a zero row has no direction; 1/tiny times a gradient would overflow
    return sx, sw


def _scale_weight_first(x: Tensor, weight: Tensor, unit_rows: bool) -> bool:
    # Two passes over the weight are fewer elements than one over the outputs. Unit rows are made first in any case:
    # the product of inputs and raw rows may overflow where the output does not. Half precision is scaled after the
    # product, in float32: scaling first would round the operands once more.
    if x.dtype not in (torch.float32, torch.float64):
        return False
    return unit_rows or x.numel() >= 2 * weight.shape[1] ** 2


def _scale_input_first(x: Tensor, weight: Tensor) -> bool:
    return x.dtype in (torch.float32, torch.float64) and weight.shape[1] <= weight.shape[0]


def _scaled_linear(x: Tensor, weight: Tensor, sx: Tensor, sw: Tensor, unit_rows: bool) -> Tensor:
    """``(sx·x) @ (sw·weight)^T`` with each scale applied where it touches the fewest elements; float32 at least."""
    input_first, weight_first = _scale_input_first(x, weight), _scale_weight_first(x, weight, unit_rows)
    u = torch.nn.functional.linear(x * sx if input_first else x, weight * sw.unsqueeze(-1) if weight_first else weight)
    u = u.to(sx.dtype)
    if not input_first:
        u = u.mul_(sx)
    return u if weight_first else u.mul_(sw)


def _scaled_linear_backward(g, x, weight, sx, sw, unit_rows, need_x, need_w):
    """Gradients of ``_scaled_linear`` with both scales held constant; ``g`` may be overwritten."""
    input_first, weight_first = _scale_input_first(x, weight), _scale_weight_first(x, weight, unit_rows)
    if not input_first:
        g = g.mul_(sx)
    if not weight_first:
        g = g.mul_(sw)
    g = g.to(x.dtype)
    grad_x = grad_w = None
    if need_x:
        grad_x = g @ (weight * sw.unsqueeze(-1) if weight_first else weight)
        if input_first:
            grad_x = grad_x.mul_(sx)
    if need_w:
        rows = torch.atleast_2d(x * sx if input_first else x).flatten(0, -2)
        grad_w = torch.atleast_2d(g).flatten(0, -2).t() @ rows
        if weight_first:
            grad_w = grad_w.mul_(sw.unsqueeze(-1))
    return grad_x, grad_w


def _along(linear: Tensor, vector: Tensor, norm: Tensor, b: float, share: float) -> Tensor:
    """``b·linear − share·(vector·linear)·vector/‖vector‖²``, row by row; ``linear`` is overwritten."""
    if share == 0:
        return linear.mul_(b)
    inverse = norm.clamp_min(torch.finfo(norm.dtype).tiny).reciprocal().unsqueeze(-1)
    if linear.dtype == norm.dtype:
        unit = vector * inverse
        projection = (unit * linear).sum(-1, keepdim=True)
        return linear.mul_(b).addcmul_(unit, projection, value=-share)
    linear32, unit = linear.to(norm.dtype), vector.to(norm.dtype) * inverse
    projection = (unit * linear32).sum(-1, keepdim=True)
    return linear32.mul_(b).addcmul_(unit, projection, value=-share).to(linear.dtype)


def _power_(t: Tensor, exponent: float) -> Tensor:
    """``t ** exponent`` for ``t >= 0``, in place; the powers of the usual B are square roots, which are cheaper."""
    if exponent == 0:
        return t.fill_(1.0)
    if exponent == 1:
        return t
    if exponent == 0.5:
        return t.sqrt_()
    if exponent == 0.25:
        return t.sqrt_().sqrt_()
    return t.pow_(exponent)


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
            grad_x = torch.where(x == 0, 0, grad * (y / x))
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
        >>> from bcos_peft.functional import layer_norm
        >>> layer_norm(torch.tensor([[1.0, 3.0]]), None, eps=0.0)
        tensor([[-1.,  1.]])

    Source: B-cos LM (arXiv 2502.12992), section 3 and appendix on normalisation layers.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    centred = wide - wide.mean(-1, keepdim=True)
    y = centred * (centred.detach().square().mean(-1, keepdim=True) + eps).rsqrt()
    y = y.to(x.dtype)
    return y if weight is None else y * weight


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
