"""An evaluation's result as plain values, and back."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from bcos_peft.evaluation.metrics import Value
from bcos_peft.evaluation.results.record import Record
from bcos_peft.evaluation.results.statistics import Interval


_FORMAT, _VERSION = "bcos_peft.evaluation", 1


def _plain(
    settings: list[dict[str, Any]],
    confidence: float,
    values: dict[str, Value],
    summary: dict[tuple[str, str], dict[str, Interval]],
    chance: dict[str, float],
    costs: dict[str, dict[str, Any]],
    texts: dict[str, str],
    records: list[Record],
) -> dict[str, Any]:
    """Everything as plain values, with the means for readers that do not compute them."""
    means = [
        {"model": model, "method": method, "value": name, **asdict(interval)}
        for (model, method), numbers in summary.items()
        for name, interval in numbers.items()
    ]
    return {
        "format": _FORMAT,
        "version": _VERSION,
        "settings": settings,
        "confidence": confidence,
        "values": {name: asdict(value) for name, value in values.items()},
        "means": [{key: None if entry != entry else entry for key, entry in row.items()} for row in means],
        "chance": chance,
        "costs": costs,
        "texts": texts,
        "records": [asdict(record) for record in records],
    }


def _stored(data: dict[str, Any]) -> dict[str, Any]:
    """The fields of the result that `_plain` was given.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(data, dict) or data.get("format") != _FORMAT or data.get("version") != _VERSION:
        raise ValueError("it is no file that EvaluationResult.save of this version wrote")
    try:
        return {
            "records": [Record(**record) for record in data["records"]],
            "values": {name: Value(**value) for name, value in data["values"].items()},
            "texts": data["texts"],
            "costs": data["costs"],
            "settings": data["settings"],
            "confidence": data["confidence"],
        }
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"it is damaged: a part is missing or is something else ({error})") from None
