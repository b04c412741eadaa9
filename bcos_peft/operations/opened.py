"""`torch.autograd.Function`s of transformers, opened: their forward runs in the open, where operations are seen.

A Function written in Python has a backward pass of its own, and what it computes no mode sees. A few architectures of
transformers have one for speed or memory; what it computes are ordinary operations.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from threading import Lock, get_ident
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.autograd import Function


_LOCK = Lock()
_OPEN: dict[int, int] = {}  # threads that explain, and how many blocks they are in


@contextmanager
def opened_functions(model: nn.Module) -> Iterator[None]:
    """Inside, and in this thread, Functions that the code of a model in transformers defines run in the open.

    Example:
        >>> import torch
        >>> from bcos_peft.operations import opened_functions
        >>> with opened_functions(torch.nn.Linear(2, 2)):
        ...     pass
    """
    functions = {one for module in model.modules() for one in _functions_of(type(module).__module__)}
    thread = get_ident()
    with _LOCK:
        _OPEN[thread] = _OPEN.get(thread, 0) + 1
        for function in functions:
            if "apply" not in vars(function):
                function.apply = classmethod(_apply)
    try:
        yield
    finally:
        with _LOCK:
            _OPEN[thread] -= 1
            if not _OPEN[thread]:
                del _OPEN[thread]
            if not _OPEN:
                for function in functions:
                    if "apply" in vars(function):
                        del function.apply


@lru_cache(maxsize=1024)
def _functions_of(module: str) -> tuple[type[Function], ...]:
    if not module.startswith("transformers.models."):
        return ()
    values = vars(sys.modules[module]).values()
    mine = (one for one in values if isinstance(one, type) and issubclass(one, Function))
    return tuple(one for one in mine if one.__module__ == module)


def _apply(cls: type[Function], *args: Any, **kwargs: Any) -> Any:
    if get_ident() not in _OPEN or not torch.is_grad_enabled():
        return super(cls, cls).apply(*args, **kwargs)
    if cls.setup_context is not Function.setup_context:
        return cls.forward(*args, **kwargs)
    context = SimpleNamespace(needs_input_grad=(True,) * len(args))
    for name in ("save_for_backward", "mark_non_differentiable", "mark_dirty", "set_materialize_grads"):
        setattr(context, name, lambda *values: None)
    with _gradients_inside(cls):
        return cls.forward(context, *args, **kwargs)


@contextmanager
def _gradients_inside(cls: type[Function]) -> Iterator[None]:
    """A forward that switches gradients off, as one that recomputes everything later does, keeps them on."""
    module = sys.modules[cls.__module__]
    if "torch" not in vars(module):
        yield
        return
    real = module.torch
    module.torch = _WithGradients(real)
    try:
        yield
    finally:
        module.torch = real


class _WithGradients:
    """`torch`, as one module's code sees it, without `no_grad`."""

    def __init__(self, real):
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return nullcontext if name == "no_grad" else getattr(self._real, name)
