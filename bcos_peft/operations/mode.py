"""The mode that makes any computation linear in its input, operation by operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from bcos_peft.operations.affine import Constants, _reshaped
from bcos_peft.operations.elementwise import _hold, _ratio
from bcos_peft.operations.live import _any_live, is_live
from bcos_peft.operations.table import (
    _CASTS,
    _FILLED,
    _LINEAR,
    _RULES,
    _SHAPES,
    _cast,
    _filled,
    _in_place_of,
    _Rule,
)
from bcos_peft.operations.unknown import _try_unknown


class LinearMode(TorchFunctionMode):
    """Inside, what torch computes is linear in the tensors that need a gradient.

    Each function has one of six rules: linear ones pass; elementwise ones that are 0 at 0 hold their ratio; other
    factors (softmax, sigmoid, statistics) are held; a product of two tensors that depend on the input is shared
    between them, or its left matrix held; fused attention is linear in its values only; constants that are added are
    found. Values stay what they are; gradients are those of the linear map. What has no rule is tried by numbers.

    Parameters must be frozen: a tensor that needs a gradient is one that depends on the input.

    Args:
        hold_gates (`bool`, defaults to `False`): in products of an activation and another tensor hold the activation.
        constants ([`Constants`], *optional*): collects the constants that are added.
        structure (`bool`, defaults to `False`): let every ratio be 1, so that a gradient is zero only where nothing
            is read at all; such gradients show what depends on what, and are no contributions.
        on_activation (*optional*): called with the name of each elementwise function that has a ratio.

    Example:
        >>> import torch
        >>> from bcos_peft.operations import LinearMode
        >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> with LinearMode():
        ...     y = (torch.nn.functional.gelu(x) * x.softmax(-1)).sum()
        >>> y.backward()
        >>> bool(torch.isclose(x.grad @ x.detach(), y))
        True

    Source: dynamic linearity, B-cos LM (arXiv 2502.12992), section 3; products, AttnLRP (arXiv 2402.05602), section 3.
    """

    def __init__(
        self,
        hold_gates: bool = False,
        constants: Constants | None = None,
        structure: bool = False,
        on_activation: Callable[[str], None] | None = None,
    ):
        super().__init__()
        self.structure = structure
        self.on_activation = on_activation
        self.hold_gates = hold_gates
        self.constants = constants
        self.linear_by_trial: set[str] = set()

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None):
        # Most calls by far: looks at a tensor, and what the functions of `nn` compute, whose gradients are their own.
        if not torch.is_grad_enabled() or func.__name__ in _LINEAR:
            return func(*args, **(kwargs or {}))
        kwargs = dict(kwargs or {})
        if not args and "input" in kwargs:  # the rules go by places
            args = (kwargs.pop("input"),)
        name = func.__name__
        if name in _SHAPES:
            return _reshaped(func, func(*args, **kwargs), args, kwargs)
        if name in _CASTS:
            return _cast(self, func, args, kwargs)
        if name in _FILLED:
            return _filled(self, func, args, kwargs)
        if not (_any_live(args) or _any_live(kwargs.values())):
            return func(*args, **kwargs)
        rule = _RULES.get(name)
        if rule is not None:
            if kwargs.get("inplace"):
                kwargs = {**kwargs, "inplace": False}
            return rule(self, func, args, kwargs)
        plain = _in_place_of(name)
        if plain is None:
            return _try_unknown(self, func, args, kwargs)
        return self._in_place(getattr(Tensor, plain, None) or getattr(torch, plain), plain, func, args, kwargs)

    def _in_place(self, plain: Callable, name: str, func: Callable, args: tuple, kwargs: dict[str, Any]) -> Tensor:
        """`x.mul_(y)` by the rule of `x.mul(y)`: what that keeps for the backward pass is not what is written over."""
        x, *others = args
        if not is_live(x) and name in ("add", "sub", "mul", "div"):
            return func(*args, **kwargs)
        y = _RULES[name](self, plain, (x.clone(), *others), kwargs)
        return x.copy_(y)


def _pass(mode: LinearMode, func: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    return func(*args, **kwargs)


def add_rule(name: str, rule: str) -> None:
    """Give an operation that has none a rule.

    Args:
        name (`str`): the function's `__name__`, as the refusal gives it.
        rule (`"hold"`, `"ratio"` or `"linear"`): hold its output constant; explain it as `x·(f(x)/x)`, for an
            elementwise function that is 0 at 0; or let it pass.

    Raises:
        ValueError: the operation has a rule already, or there is no such rule.

    Example:
        >>> from bcos_peft.operations import add_rule
        >>> add_rule("gelu", "hold")
        Traceback (most recent call last):
        ValueError: name='gelu' has a rule already.
    """
    rules: dict[str, _Rule] = {"hold": _hold, "ratio": _ratio, "linear": _pass}
    if rule not in rules:
        raise ValueError(f"rule must be 'hold', 'ratio' or 'linear', got {rule!r}.")
    if name in _RULES or name in _LINEAR or name in _SHAPES or name in _CASTS or name in _FILLED:
        raise ValueError(f"name={name!r} has a rule already.")
    _RULES[name] = rules[rule]
