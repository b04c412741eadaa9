"""Arguments of public calls are what their annotations say, or are refused by name, before anything is done."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, TypeVar

import numpy as np


__all__ = ["checked_arguments"]

_Function = TypeVar("_Function", bound=Callable)
# By annotation: what is accepted, and what an error calls it. Text such as "no" is true, and True is the number 1:
# both would pass for something else.
_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "bool": (lambda value: isinstance(value, (bool, np.bool_)), "True or False"),
    "int": (lambda value: isinstance(value, Integral) and not isinstance(value, bool), "a whole number"),
    "float": (lambda value: isinstance(value, Real) and not isinstance(value, bool), "a number"),
    "str": (lambda value: isinstance(value, str), "a text"),
    "None": (lambda value: value is None, "None"),
}


def checked_arguments(function: _Function) -> _Function:
    """A function that looks at its arguments first: those annotated as `bool`, `int`, `float`, `str`, or one of these
    or `None`. Others are the function's own business.

    Args:
        function (`Callable`): in a module with `from __future__ import annotations`.

    Returns:
        `Callable`: the same, with the same signature. It raises `TypeError` for an argument of another kind.

    Example:
        >>> from bcos_peft._utils.arguments import checked_arguments
        >>> def cut(text, truncation=False): ...
        >>> cut.__annotations__["truncation"] = "bool"
        >>> checked_arguments(cut)("A film.", truncation="only_second")
        Traceback (most recent call last):
        ...
        TypeError: truncation must be True or False, got 'only_second'.
    """
    signature = inspect.signature(function)
    kinds = {name: found for name, found in map(_kinds_of, signature.parameters.values()) if found}

    @functools.wraps(function)
    def checked(*args, **kwargs):
        try:
            given = signature.bind_partial(*args, **kwargs).arguments
        except TypeError:
            return function(*args, **kwargs)  # which says what is too much
        for name in kinds.keys() & given.keys():
            if not any(_KINDS[kind][0](given[name]) for kind in kinds[name]):
                wanted = " or ".join(_KINDS[kind][1] for kind in kinds[name] if kind != "None")
                raise TypeError(f"{name} must be {wanted}, got {given[name]!r:.80}.")
        return function(*args, **kwargs)

    return checked


def _kinds_of(parameter: inspect.Parameter) -> tuple[str, list[str]]:
    parts = [part.strip() for part in str(parameter.annotation).split("|")]
    single = parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    return parameter.name, parts if single and all(part in _KINDS for part in parts) else []
