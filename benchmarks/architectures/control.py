"""The negative control: the same inputs of the same models, with nothing held. Contributions must not sum then."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from torch import nn

from bcos_peft.attribution import mode
from bcos_peft.operations.mode import LinearMode
from bcos_peft.operations.table import _RULES, _in_place_of


# Those that find constants that are added, which are inputs where positions are such.
_SUMS = frozenset("add __add__ __radd__ sub subtract __sub__ __rsub__ rsub".split())


class _NothingHeld(LinearMode):
    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None):
        name, kwargs = func.__name__, kwargs or {}
        if name in _RULES and name not in _SUMS:
            return func(*args, **{**kwargs, **({"inplace": False} if kwargs.get("inplace") else {})})
        plain = _in_place_of(name)
        if plain is not None:  # writing over what is kept for the backward pass would be an error
            return super().__torch_function__(func, types, args, kwargs) if plain in _SUMS else func(*args, **kwargs)
        return super().__torch_function__(func, types, args, kwargs)


def _explain_nothing(modules: list[nn.Module], explaining: bool) -> None:
    pass


@contextmanager
def nothing_held() -> Iterator[None]:
    """Inside, `explanation_mode` leaves models as nonlinear as they are; gradients are those of training."""
    with mock.patch.object(mode, "LinearMode", _NothingHeld), mock.patch.object(mode, "_explain", _explain_nothing):
        yield
