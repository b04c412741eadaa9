"""Names of a folder that are imported when they are first used."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


__all__ = ["lazy_names"]


def lazy_names(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a folder whose `__init__` must not import all that it offers.

    Args:
        package (`str`): The folder's `__name__`.
        modules (`Mapping[str, str]`): The module of each name.

    Example:
        >>> from bcos_peft._utils.lazy import lazy_names
        >>> lazy_names("json", {"JSONDecoder": "decoder"})("JSONDecoder").__name__
        'JSONDecoder'
    """

    def __getattr__(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{modules[name]}"), name)

    return __getattr__
