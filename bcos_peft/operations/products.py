"""Rules of products of matrices: layers, convolutions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bcos_peft.operations.elementwise import share
from bcos_peft.operations.live import _argument, _hold_all, is_live


def _left_held(mode, func: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Of a product of two live matrices the left one is held: attention weights times values, queries times states.

    A single column on the right is a query too: it reads a state (Mamba), and is held instead.
    """
    name = "mat2" if "mat2" in kwargs else "other"
    left, right = _alike(args[0], _argument(args, kwargs, 1, name, "vec", "tensor"))
    if is_live(left) and is_live(right):
        if left.dim() > 1 and left.shape[-2] > 1 and (right.dim() == 1 or right.shape[-1] == 1):
            right = right.detach()
        else:
            left = left.detach()
    more = {key: value for key, value in kwargs.items() if key not in (name, "vec", "tensor")}
    return func(left, right, *args[2:], **more)


def _right_held(mode, func: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    """The reflected form, `other @ self`: the left one is the second argument."""
    right, left = _alike(args[0], args[1])
    return func(right, left.detach() if is_live(left) and is_live(right) else left)


def _einsum(mode, func: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    """A sum of products of several tensors: all live ones but the last are held, as in a product of two matrices."""
    operands = list(args[1]) if len(args) == 2 and isinstance(args[1], (list, tuple)) else list(args[1:])
    live = [index for index, operand in enumerate(operands) if is_live(operand)]
    for index in live[:-1]:
        operands[index] = operands[index].detach()
    wide = torch.float64 if any(t.dtype == torch.float64 for t in operands if is_live(t)) else None
    operands = [t.to(wide) if wide is not None and t.is_floating_point() else t for t in operands]
    return func(args[0], *operands, **kwargs)


def _shared(mode, func: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    """A product of two live tensors that is no product of matrices (an outer product): half each."""
    y = func(*args, **kwargs)
    operands = [*args, *kwargs.values()]
    return share(y) if sum(is_live(one) for one in operands) > 1 else y


def _linear(mode, func: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    """A layer: its bias is a constant. Where weights are made of the input, the map of the input is held."""
    x, weight, bias = args[0], _argument(args, kwargs, 1, "weight"), _argument(args, kwargs, 2, "bias")
    if not is_live(x):
        return func(x, weight, bias)
    x, weight = _alike(x, weight)
    if is_live(weight):
        weight = weight.detach()
    if bias is None or (mode.constants is None and not is_live(bias)):
        return func(x, weight, None if bias is None else bias.to(x.dtype))
    y = func(x, weight)
    return y + (bias if is_live(bias) else mode.constants.leaf(bias, y))


def _convolution(mode, func: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    """A convolution, whose bias is a constant."""
    bias = _argument(args, kwargs, 2, "bias")
    kernel = _argument(args, kwargs, 1, "weight")
    if is_live(kernel):
        args = (args[0], kernel.detach(), *args[2:])
    if bias is None or mode.constants is None:
        return func(*args, **kwargs)
    place = {"bias": None}
    if len(args) > 2:
        args, place = (*args[:2], None, *args[3:]), {}
    y = func(*args, **{**kwargs, **place})
    spread = bias.view(-1, *[1] * (kernel.dim() - 2))
    return y + mode.constants.leaf(spread, y)


def _add_product(mode, func: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    """`β·a + α·b·c`, each operation by its rule."""
    a, b = args[0], _argument(args, kwargs, 1, "batch1", "mat1", "vec")
    c = _argument(args, kwargs, 2, "batch2", "mat2", "vec2")
    alpha, beta = kwargs.get("alpha", 1), kwargs.get("beta", 1)
    with mode:
        product = b @ c if alpha == 1 else (b @ c) * alpha
        if beta == 0:
            return product
        return product + (a if beta == 1 else a * beta)


def _solve(mode, func: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    """The solution of `A·x = b` is linear in `b`; `A` is held."""
    if not is_live(_argument(args, kwargs, 1, "B")):
        return _hold_all(func, args, kwargs)
    return func(args[0].detach(), *args[1:], **kwargs)


def _alike(a: Any, b: Any) -> tuple[Any, Any]:
    """Two factors of one precision: what depends on the input stays in float64 where stock code rounds it."""
    if isinstance(a, Tensor) and isinstance(b, Tensor) and a.dtype != b.dtype:
        if torch.float64 in (a.dtype, b.dtype) and a.is_floating_point() and b.is_floating_point():
            return a.double(), b.double()
    return a, b
