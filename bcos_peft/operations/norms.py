"""Rules of fused norms: the statistics of a norm are held."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bcos_peft.nn import layer_norm, rms_norm
from bcos_peft.operations.live import _argument, _held, _hold_all, is_live


def _layer_norm(mode, func: Callable, args: tuple, kwargs: dict[str, Any]) -> Tensor:
    """LayerNorm with 1/σ held; its bias is a constant."""
    x, shape = args[0], _argument(args, kwargs, 1, "normalized_shape")
    weight, bias = _argument(args, kwargs, 2, "weight"), _argument(args, kwargs, 3, "bias")
    eps = _argument(args, kwargs, 4, "eps", default=1e-5)
    if not is_live(x):
        return _hold_all(func, args, kwargs)
    if len(shape) == 1:
        y = layer_norm(x, _held(weight), eps)
    else:
        dims = tuple(range(-len(shape), 0))
        centred = x - x.mean(dims, keepdim=True)
        y = centred * (centred.detach().square().mean(dims, keepdim=True) + eps).rsqrt()
        y = y if weight is None else y * weight
    return _with_bias(mode, y, bias)


def _rms_norm(mode, func: Callable, args: tuple, kwargs: dict[str, Any]) -> Tensor:
    """RMSNorm with 1/rms held."""
    x, shape = args[0], _argument(args, kwargs, 1, "normalized_shape")
    weight, eps = _argument(args, kwargs, 2, "weight"), _argument(args, kwargs, 3, "eps")
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    if len(shape) == 1:
        return rms_norm(x, _held(weight), eps)
    dims = tuple(range(-len(shape), 0))
    y = x * (x.detach().square().mean(dims, keepdim=True) + eps).rsqrt()
    return y if weight is None else y * weight


def _group_norm(mode, func: Callable, args: tuple, kwargs: dict[str, Any]) -> Tensor:
    """GroupNorm with 1/σ held; its bias is a constant."""
    x, groups = args[0], _argument(args, kwargs, 1, "num_groups")
    weight, bias = _argument(args, kwargs, 2, "weight"), _argument(args, kwargs, 3, "bias")
    eps = _argument(args, kwargs, 4, "eps", default=1e-5)
    flat = x.reshape(x.shape[0], groups, -1)
    centred = flat - flat.mean(-1, keepdim=True)
    y = (centred * (centred.detach().square().mean(-1, keepdim=True) + eps).rsqrt()).reshape(x.shape)
    shape = (1, -1) + (1,) * (x.dim() - 2)
    y = y if weight is None else y * weight.view(shape)
    return _with_bias(mode, y, None if bias is None else bias.view(shape))


def _batch_norm(mode, func: Callable, args: tuple, kwargs: dict[str, Any]) -> Tensor:
    """BatchNorm in evaluation is affine: its mean and bias are a constant."""
    x, mean, variance = args[0], _argument(args, kwargs, 1, "running_mean"), _argument(args, kwargs, 2, "running_var")
    weight, bias = _argument(args, kwargs, 3, "weight"), _argument(args, kwargs, 4, "bias")
    slope = (variance + _argument(args, kwargs, 7, "eps", default=1e-5)).rsqrt() * (1 if weight is None else weight)
    shape = (1, -1) + (1,) * (x.dim() - 2)
    offset = -mean * slope + (0 if bias is None else bias)
    return _with_bias(mode, x * slope.view(shape), offset.view(shape))


def _normalize(mode, func: Callable, args: tuple, kwargs: dict[str, Any]) -> Tensor:
    """`x/‖x‖` with the length held."""
    x, p = args[0], _argument(args, kwargs, 1, "p", default=2.0)
    dim, eps = _argument(args, kwargs, 2, "dim", default=1), _argument(args, kwargs, 3, "eps", default=1e-12)
    return x / x.detach().norm(p, dim, keepdim=True).clamp_min(eps)


def _with_bias(mode, y: Tensor, bias: Tensor | None) -> Tensor:
    if bias is None:
        return y
    return y + (bias if mode.constants is None else mode.constants.leaf(bias, y))
