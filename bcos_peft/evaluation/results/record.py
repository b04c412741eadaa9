"""The numbers of one example, of which results are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Record:
    """The numbers of one example by one metric for one method on one model.

    Args:
        model (`str`): the model's label.
        method (`str`): the method's name.
        metric (`str`): the metric's name.
        example (`str`): key of the example; the same for all models and methods.
        values (`dict[str, float]`): the metric's numbers by name.
        chance (`dict[str, float]`): what random order would give, where it is known.
        details (`dict[str, Any]`): whatever else the metric keeps, such as a curve.

    Example:
        >>> from bcos_peft.evaluation import Record
        >>> Record("bcos", "bcos", "seqpg", "3f2a", {"seqpg": 0.75}).values["seqpg"]
        0.75
    """

    model: str
    method: str
    metric: str
    example: str
    values: dict[str, float]
    chance: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def row(self) -> tuple[str, str]:
        """Model and method: the row of a table that it belongs to."""
        return self.model, self.method


def find_row(rows: Sequence[tuple[str, str]], name: str | tuple[str, str]) -> tuple[str, str]:
    """The row that a name stands for.

    Args:
        rows (`Sequence[tuple[str, str]]`): model and method of each.
        name (`str` or `tuple[str, str]`): `"model + method"`, or either where it is the only such row.

    Raises:
        ValueError: there is no such row, or more than one.

    Example:
        >>> from bcos_peft.evaluation.results import find_row
        >>> find_row([("a", "random"), ("a", "saliency")], "saliency")
        ('a', 'saliency')
    """
    if isinstance(name, str):
        labelled = {f"{model} + {method}": (model, method) for model, method in rows}
        found = [labelled[name]] if name in labelled else [row for row in rows if name in row]
    else:
        found = [row for row in rows if row == tuple(name)]
    if len(found) != 1:
        names = ", ".join(repr(f"{model} + {method}") for model, method in rows)
        raise ValueError(f"{name!r} is {'no' if not found else 'more than one'} row; there are: {names}.")
    return found[0]
