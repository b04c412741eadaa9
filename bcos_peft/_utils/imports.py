"""Do something when another package has been imported, without importing it now.

Some packages are slow to load or not installed, and still have to be told about B-cos layers before they are used.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec


__all__ = ["after_import"]


def after_import(name: str, call: Callable[[], None]) -> None:
    """Call something once a package is there: now if it has been imported already, else right after it is.

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
