"""Which modules a pattern of a config or of a family's table means."""

from __future__ import annotations

import re
from functools import lru_cache


__all__ = ["matches_any", "matches_modules", "matches_pattern"]


@lru_cache(maxsize=16384)  # every explanation asks again
def matches_pattern(pattern: str, name: str) -> bool:
    """Whether a regular expression matches the end of a module name, from a dot on (as peft's `rank_pattern`)."""
    return re.match(rf"(?:.*\.)?(?:{pattern})$", name) is not None


def matches_modules(modules: list[str] | str | None, name: str) -> bool:
    """Whether `name` is named by `target_modules` or `exclude_modules`, by the rules of peft."""
    if modules is None:
        return False
    if isinstance(modules, str):
        return re.fullmatch(modules, name) is not None
    return any(name == module or name.endswith("." + module) for module in modules)


def matches_any(patterns, name: str) -> bool:
    """Whether one of the patterns matches the end of a module name."""
    return any(matches_pattern(pattern, name) for pattern in patterns)
