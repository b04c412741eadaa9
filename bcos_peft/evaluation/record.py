"""The numbers of one example, of which results are made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


__all__ = ["Record"]


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
