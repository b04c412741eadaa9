"""An operation without a rule: it is tried by numbers, and passes if it is linear in its input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bcos_peft.operations.lines import _calling_line
from bcos_peft.operations.live import is_live


_EXACT = {torch.float64: 1e-9, torch.complex128: 1e-9}
_INEXACT = 1e-3


class UnknownOperation(ValueError):
    """An operation of a model that has no rule, and is not linear in its input.

    Example:
        >>> from bcos_peft.operations import UnknownOperation
        >>> issubclass(UnknownOperation, ValueError)
        True
    """


def _try_unknown(mode, func: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Let an operation pass that is linear in all its live tensors together.

    Raises:
        UnknownOperation: it is not; the message has its name and the line of the model's code that called it.
    """
    name = func.__name__
    if name not in mode.linear_by_trial:
        if not is_linear(func, args, kwargs):
            raise UnknownOperation(
                f"Cannot explain: the operation {name!r}, called at {_calling_line()}, has no rule and is not linear "
                "in its input, so contributions would not sum to the logit. Nothing was changed. Add a rule for it: "
                f"bcos_peft.operations.add_rule({name!r}, 'hold') holds its output constant, 'ratio' explains an "
                "elementwise function that is 0 at 0 (see 'Troubleshooting' in the docs)."
            )
        mode.linear_by_trial.add(name)
    return func(*args, **kwargs)


def is_linear(func: Callable, args: tuple, kwargs: dict[str, Any]) -> bool:
    """Whether a function's gradients at its arguments give back its value: `⟨Jᵀv, x⟩ = ⟨v, y⟩` for a random `v`.

    Args:
        func: a function of tensors that gives a tensor, or several.
        args: its arguments; those that need a gradient are the ones it may be linear in.
        kwargs: the same, by name.

    Example:
        >>> import torch
        >>> from bcos_peft.operations import is_linear
        >>> x = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
        >>> is_linear(torch.cumsum, (x, 0), {}), is_linear(torch.exp, (x,), {})
        (True, False)
    """
    inputs: list[Tensor] = []
    with torch.enable_grad():
        args, kwargs = _cut(args, inputs), _cut(kwargs, inputs)
        outputs = [y for y in _tensors(func(*args, **kwargs)) if is_live(y)]
        if not outputs:
            return True
        generator = torch.Generator().manual_seed(0)
        directions = [torch.randn(y.shape, generator=generator).to(y) for y in outputs]
        gradients = torch.autograd.grad(outputs, inputs, directions, allow_unused=True)
    pairs = zip(gradients, inputs, strict=True)
    found = [(gradient.conj() * x.detach()).real for gradient, x in pairs if gradient is not None]
    wanted = [(v.conj() * y.detach()).real for v, y in zip(directions, outputs, strict=True)]
    scale = sum(float(one.abs().sum()) for one in found + wanted)
    difference = sum(float(one.sum()) for one in found) - sum(float(one.sum()) for one in wanted)
    return abs(difference) <= _EXACT.get(outputs[0].dtype, _INEXACT) * max(scale, 1e-30)


def _cut(value: Any, inputs: list[Tensor]) -> Any:
    """Arguments whose live tensors are leaves of their own."""
    if isinstance(value, Tensor):
        if not value.requires_grad:
            return value
        inputs.append(value.detach().clone().requires_grad_())
        return inputs[-1]
    if isinstance(value, dict):
        return {name: _cut(one, inputs) for name, one in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_cut(one, inputs) for one in value)
    return value


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [one for part in value for one in _tensors(part)] if isinstance(value, (list, tuple)) else []
