"""What depends on the input: a tensor is *live* when, with the parameters frozen, it needs a gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def is_live(value: Any) -> bool:
    """Whether a value is a tensor that depends on the input.

    Example:
        >>> import torch
        >>> from bcos_peft.operations import is_live
        >>> is_live(torch.ones(2)), is_live(torch.ones(2, requires_grad=True)), is_live(2.0)
        (False, True, False)
    """
    return isinstance(value, Tensor) and value.requires_grad


def _any_live(values: Any) -> bool:
    """Whether there is a live tensor among arguments, which may be lists of tensors."""
    for value in values:
        if isinstance(value, Tensor):
            if value.requires_grad:
                return True
        elif isinstance(value, (list, tuple)) and _any_live(value):
            return True
    return False


def _held(value: Any) -> Any:
    """The same values as constants: a tensor, or a tuple, list or dict of such."""
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, dict):
        return {name: _held(one) for name, one in value.items()}
    if isinstance(value, tuple) and type(value) is not torch.Size:
        held = [_held(one) for one in value]
        # A result with names (torch.topk) is a class of torch's that takes a sequence.
        return tuple(held) if type(value) is tuple else type(value)(held)
    if isinstance(value, list):
        return [_held(one) for one in value]
    return value


def _hold_all(func, args: tuple, kwargs: dict[str, Any]) -> Any:
    """What a function gives, as constants: nothing of it is kept for a backward pass."""
    with torch.no_grad():
        return _held(func(*args, **kwargs))


def _argument(args: tuple, kwargs: dict[str, Any], index: int, *names: str, default: Any = None) -> Any:
    """An argument that may be given by its place or by one of its names."""
    if len(args) > index:
        return args[index]
    return next((kwargs[name] for name in names if name in kwargs), default)
