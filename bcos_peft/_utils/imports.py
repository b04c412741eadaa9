"""Packages that are slow to load or not installed: import one of an extra, or do something once another is there."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


__all__ = ["after_import", "import_extra"]


def import_extra(module: str, user: str, extra: str = "evaluation") -> ModuleType:
    """A module of a package that an extra installs.

    Args:
        module: its dotted name.
        user: what needs it, with the verb: the beginning of the error.
        extra: of this package.

    Raises:
        ImportError: it is not installed; says how to install it.

    Example:
        >>> from bcos_peft._utils.imports import import_extra
        >>> import_extra("json", "This needs").loads("[1]")
        [1]
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(f'{user} {package}: pip install "bcos-peft[{extra}]"') from error


def after_import(name: str, call: Callable[[], None]) -> None:
    """Call something once a package is there: now if it has been imported already, else right after it is.

    So it is told about B-cos layers before it is used.

    Args:
        name: of a top-level package; it need not be installed.
        call: without arguments. What it raises comes out of the import.

    Example:
        >>> from bcos_peft._utils.imports import after_import
        >>> after_import("json", lambda: print("there"))
        there
    """
    if sys.modules.get(name) is not None:
        call()
    else:
        sys.meta_path.insert(0, _Finder(name, call))


class _Finder(MetaPathFinder):
    def __init__(self, name: str, call: Callable[[], None]):
        self.name, self.call, self.searching = name, call, False

    def find_spec(self, name: str, path=None, target=None) -> ModuleSpec | None:
        if name != self.name or self.searching:
            return None
        self.searching = True  # let the ordinary finders find it
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self.searching = False
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_call(module) -> None:
                load(module)
                if self in sys.meta_path:  # not after a reload
                    sys.meta_path.remove(self)
                    self.call()

            spec.loader.exec_module = load_and_call
        return spec
