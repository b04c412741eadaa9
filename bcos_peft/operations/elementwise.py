"""Rules of elementwise functions: what is held, what is shared, what is added."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bcos_peft.nn import hold_ratio
from bcos_peft.operations.affine import _mark, _marked, _product_with_constant, _SharedProduct
from bcos_peft.operations.live import _argument, _hold_all, is_live


def share(output: Tensor) -> Tensor:
    """Pass on half of the gradient: the output is a product of two functions of the input, which get half of it each.

    Example:
        >>> import torch
        >>> from bcos_peft.operations import share
        >>> x = torch.tensor([3.0], requires_grad=True)
        >>> share(x * (2 * x)).backward()
        >>> x.grad * x.detach()  # the product; its derivative alone would count it twice
        tensor([18.])
    """
    return output.detach().lerp(output, 0.5)


def _hold(mode, func: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    """A factor with another value than 0 at 0 (softmax, exp, 1/σ): its output is a constant."""
    return _hold_all(func, args, kwargs)


def _hold_slope(mode, func: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    """A sigmoid is held too; `x·σ(x)`, written out, is an activation, as SiLU is."""
    y = _hold_all(func, args, kwargs)
    y._bcos_slope = True
    return y


def _ratio(mode, func: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    """An elementwise function with value 0 at 0 (GELU, tanh, a square): `x·(f(x)/x)`, the ratio held."""
    x = args[0] if args else kwargs["input"]
    y = _hold_all(func, args, kwargs)
    if not is_live(x):  # a slope, or a bound, that depends on the input
        return y
    if mode.on_activation is not None:
        mode.on_activation(func.__name__)
    y = y + (x - x.detach()) if mode.structure else hold_ratio(x, y)
    y._bcos_gate = True
    return y


def _ratio_if_zero(mode, func: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    """The same for a function whose arguments decide about its value at 0 (clamp, threshold)."""
    x = args[0] if args else kwargs["input"]
    with torch.no_grad():
        zeros, more = torch.zeros_like(x), {name: value for name, value in kwargs.items() if name != "input"}
        at_zero = func(zeros, *args[1:], **more)
    rule = _ratio if bool((at_zero == 0).all()) else _hold
    return rule(mode, func, args, kwargs)


def _power(mode, func: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    """A power: of at least 1 it is 0 at 0."""
    exponent = _argument(args, kwargs, 1, "exponent")
    rule = _ratio if isinstance(exponent, (int, float)) and exponent >= 1 else _hold
    return rule(mode, func, args, kwargs)


def _multiply(mode, func: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    """A product of two live tensors is shared between them, or its gate held (AttnLRP, arXiv 2402.05602, uniform
    rule); one with a constant is linear."""
    a, b = args[0], _argument(args, kwargs, 1, "other")
    if not (is_live(a) and is_live(b)):
        y = func(*args, **kwargs)
        if getattr(b if is_live(a) else a, "_bcos_slope", False):
            y._bcos_gate = True
        return y
    of_a, of_b = _marked(a), _marked(b)
    if a is not b and (of_a is None) != (of_b is None):
        (live, constant), other = (of_a, b) if of_b is None else (of_b, a)
        return _product_with_constant(live, constant, other)
    if mode.hold_gates:
        gated = getattr(a, "_bcos_gate", False), getattr(b, "_bcos_gate", False)
        if gated == (True, False):
            return func(a.detach(), b)
        if gated == (False, True):
            return func(a, b.detach())
    if a.is_complex() != b.is_complex():
        return share(func(a, b))
    return _SharedProduct.apply(a, None, b)


def _divide(mode, func: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    """What is divided by is held."""
    a, b = args[0], _argument(args, kwargs, 1, "other")
    if not is_live(b):
        return func(*args, **kwargs)
    if not is_live(a):
        return _hold_all(func, args, kwargs)
    return func(a, b.detach(), *args[2:], **{name: value for name, value in kwargs.items() if name != "other"})


def _add(mode, func: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    """A sum is linear; what is added and does not depend on the input is a constant."""
    return _sum(mode, func, args, kwargs, lambda live: live, lambda constant: constant)


def _subtract(mode, func: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    """`a − b`, and `b − a` in the reflected form."""
    first = is_live(args[0]) != (func.__name__ in ("__rsub__", "rsub"))
    if first:
        return _sum(mode, func, args, kwargs, lambda live: live, lambda constant: -constant)
    return _sum(mode, func, args, kwargs, lambda live: -live, lambda constant: constant)


def _sum(mode, func, args, kwargs, of_live: Callable, of_constant: Callable) -> Any:
    a, b = args[0], _argument(args, kwargs, 1, "other")
    if is_live(a) and is_live(b):
        return func(*args, **kwargs)
    live, constant = (a, b) if is_live(a) else (b, a)
    if isinstance(constant, bool) or (not isinstance(constant, Tensor) and constant == 0):
        return func(*args, **kwargs)
    scaled = any(name in kwargs for name in ("alpha", "out")) or len(args) > 2
    if mode.constants is not None and not (isinstance(constant, Tensor) and constant.dtype == torch.bool):
        leaf = mode.constants.leaf(constant, live)
        more = {name: value for name, value in kwargs.items() if name != "other"}
        first, second = (live, leaf) if live is a else (leaf, live)
        y = func(first, second, *args[2:], **more)
        if mode.constants.last[1] == "position":  # an input, and no constant
            return y
    else:
        y = func(*args, **kwargs)
    if not scaled and isinstance(y, Tensor) and y.requires_grad:
        _mark(y, of_live(live), of_constant(constant))
    return y


def _concatenate(mode, func: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Tensors side by side: those among them that do not depend on the input are constants too."""
    tensors = _argument(args, kwargs, 0, "tensors")
    if mode.constants is None or not isinstance(tensors, (list, tuple)):
        return func(*args, **kwargs)
    found = []
    for one in tensors:
        counts = not is_live(one) and one.is_floating_point() and bool(one.any())
        found.append(mode.constants.leaf(one, one) if counts else one)
    return func(found, *args[1:], **{name: value for name, value in kwargs.items() if name != "tensors"})


def _lerp(mode, func: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    """`a + w·(b − a)`, each operation by its rule."""
    a, b, weight = args[0], _argument(args, kwargs, 1, "end"), _argument(args, kwargs, 2, "weight")
    if not is_live(weight):
        return func(*args, **kwargs)
    with mode:
        return a + weight * (b - a)


def _addcmul(mode, func: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    """`a + v·b·c`, each operation by its rule."""
    with mode:
        return args[0] + kwargs.get("value", 1) * (args[1] * args[2])


def _glu(mode, func: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    """`a·σ(b)`, each operation by its rule."""
    a, b = args[0].chunk(2, _argument(args, kwargs, 1, "dim", default=-1))
    return a * b.detach().sigmoid()
