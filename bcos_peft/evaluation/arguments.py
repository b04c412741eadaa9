"""What `evaluate` is given: several methods and metrics, each with a name of its own."""

from __future__ import annotations

from collections.abc import Iterable

from bcos_peft.evaluation.metrics import Metric


def _several(given: Iterable | None, what: str) -> list | None:
    """Methods or metrics as a list, or None for the defaults.

    Raises:
        TypeError: it is a single one, or has a class in the place of an instance.
        ValueError: it is empty.
    """
    if given is None:
        return None
    if isinstance(given, (str, Metric)) or callable(given):
        raise TypeError(f"{what} must be a list, got {given!r:.80}; write {what}=[...].")
    found = list(given)
    if not found:
        raise ValueError(f"{what} is empty: there is nothing to evaluate. Leave it out for the defaults.")
    for one in found:
        if isinstance(one, type):
            raise TypeError(f"{what} has the class {one.__name__}; make one of it: {one.__name__}(...).")
    return found


def _refuse_twice(names: list[str], what: str, way_out: str) -> None:
    """Raises `ValueError` where two have one name: a table would mix them up."""
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    if twice:
        raise ValueError(f"Two of {what} are called {twice[0]!r}; give one another name: {way_out}.")
