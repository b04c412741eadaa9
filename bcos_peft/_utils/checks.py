"""What fields of a `BcosConfig` may hold: each gives the value as it is kept, or names the field it refuses."""

from __future__ import annotations

import math
import re
from numbers import Real
from typing import Any


__all__ = ["valid_b", "valid_count", "valid_for_peft", "valid_modules", "valid_regex", "valid_simple"]

_TASKS = ("SEQ_CLS", "SEQ_2_SEQ_LM", "CAUSAL_LM", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION")
_CHOICES = {
    "pooler_activation": ("identity", "dynamic"),
    "gates": ("split", "hold"),
    "calibration": ("auto", "ridge", "rows", None),
    "calibration_pooling": ("mean", "cls", "last", "none", None),
}
_KINDS = {
    ("normalize_weights", "convert_head", "align", "remove_bias"): (bool, "True or False"),
    ("calibration_report", "family"): ((dict, type(None)), "a dict or None"),
    ("base_model_name_or_path", "bcos_version"): ((str, type(None)), "a string or None"),
    ("probe_residual",): ((Real, type(None)), "a number or None"),
}


def valid_simple(fields: dict[str, Any]) -> None:
    """Fields that hold one of a few values, or any of a kind; by name."""
    for name, known in _CHOICES.items():
        if fields[name] not in known:
            *others, last = map(repr, known)
            raise ValueError(f"{name} must be {', '.join(others)} or {last}, got {fields[name]!r}.")
    for names, (kind, called) in _KINDS.items():
        for name in names:
            if not isinstance(fields[name], kind) or (isinstance(fields[name], bool) and kind is not bool):
                raise TypeError(f"{name} must be {called}, got {fields[name]!r}.")


def valid_b(name: str, value: Any) -> float:
    """An exponent B: finite, and at least 1."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number of at least 1, got {value!r}.")
    if not (math.isfinite(value) and value >= 1):
        raise ValueError(
            f"{name} must be a finite number of at least 1, got {value!r}. B = 1 is the plain linear layer."
        )
    return float(value)


def valid_regex(name: str, pattern: Any, as_part: bool = False) -> str:
    """A regular expression; one that can be part of another has no flags for all of it."""
    if not isinstance(pattern, str):
        raise TypeError(f"{name} must have strings as keys, got {pattern!r}.")
    try:
        re.compile(rf"x(?:{pattern})" if as_part else pattern)
    except re.error as error:
        raise ValueError(f"{name}: {pattern!r} is not a regular expression ({error}).") from error
    return pattern


def valid_modules(name: str, value: Any) -> list[str] | str | None:
    """Module names, or one regular expression."""
    if value is None:
        return None
    if isinstance(value, str):
        return valid_regex(name, value)
    if not isinstance(value, (list, tuple, set)) or not all(isinstance(item, str) for item in value):
        raise TypeError(f"{name} must be a list of module names or one regular expression, got {value!r}.")
    return sorted(value) if isinstance(value, set) else list(value)


def valid_count(name: str, value: Any, least: int = 0) -> int:
    """A whole number, not below `least`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, got {value!r}.")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value!r}.")
    return value


def valid_for_peft(task_type: Any, modules_to_save: Any, inference_mode: Any) -> dict[str, Any]:
    """What peft reads in the config of a method."""
    if task_type is not None and task_type not in _TASKS:
        raise ValueError(f"task_type must be one of {', '.join(_TASKS)} or None, got {task_type!r}.")
    names = isinstance(modules_to_save, (list, tuple, set)) and all(isinstance(one, str) for one in modules_to_save)
    if modules_to_save is not None and not names:
        raise TypeError(f"modules_to_save must be a list of module names or None, got {modules_to_save!r}.")
    if not isinstance(inference_mode, bool):
        raise TypeError(f"inference_mode must be True or False, got {inference_mode!r}.")
    saved = sorted(modules_to_save) if isinstance(modules_to_save, set) else modules_to_save
    return {
        "task_type": task_type,
        "modules_to_save": None if saved is None else list(saved),
        "inference_mode": inference_mode,
    }
