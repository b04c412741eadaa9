"""From the records of an evaluation to tables and panels of plain values, which others draw."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bcos_peft.evaluation.metrics import Value
from bcos_peft.evaluation.results.plots import _BarPanel, _Curve, _CurvePanel
from bcos_peft.evaluation.results.record import Record
from bcos_peft.evaluation.results.statistics import Interval, format_number
from bcos_peft.evaluation.results.tables import _Cell, _Table


_CHANCE = "random order, expected"
_COSTS = {
    "seconds_per_example": "Seconds",
    "forward_rows_per_example": "Forwards",
    "backward_rows_per_example": "Backwards",
    "peak_memory": "Peak memory (MiB)",
}
_Summary = Mapping[tuple[str, str], Mapping[str, Interval]]


def _shown_values(known: Mapping[str, Any], values: Sequence[str] | None) -> list[str]:
    """The names of the numbers to show, checked.

    Raises:
        TypeError: `values` is a single name.
        ValueError: there is no such number, or none at all.
    """
    if values is None:
        return list(known)
    if isinstance(values, str):
        raise TypeError(f"values must be a list of names, not the name {values!r}: write [{values!r}].")
    if not values:
        raise ValueError(f"values is empty; leave it out to show all, or choose of: {', '.join(known)}.")
    unknown = [name for name in values if name not in known]
    if unknown:
        raise ValueError(f"There is no value {unknown[0]!r}; there are: {', '.join(known)}.")
    return list(values)


def _means_table(
    records: Iterable[Record], values: Mapping[str, Value], summary: _Summary, chance: Mapping[str, float]
) -> _Table:
    """Rows for methods on models, columns for numbers; the best mean of the same examples is marked."""
    alike = _of_the_same_examples(records)
    best = {
        name: _best(value, [row.get(name) for row in summary.values()]) if name in alike else None
        for name, value in values.items()
    }
    rows = []
    for (model, method), numbers in summary.items():
        cells = [_Cell(model), _Cell(method)]
        for name in values:
            mean, _, ends = str(numbers.get(name, "–")).partition(" ")  # of one example there is no interval
            cells.append(_Cell(mean, ends, name in numbers and numbers[name].mean == best[name]))
        rows.append(cells)
    if any(name in chance for name in values):
        expected = [_Cell(format_number(chance[name]) if name in chance else "–") for name in values]
        rows.append([_Cell(""), _Cell(_CHANCE), *expected])
    return _Table(["Model", "Method", *[value.heading for value in values.values()]], rows, names=2)


def _best(value: Value, intervals: Iterable[Interval | None]) -> float | None:
    means = [interval.mean for interval in intervals if interval is not None]
    better = value.higher_is_better
    return None if better is None or len(means) < 2 else max(means) if better else min(means)


def _of_the_same_examples(records: Iterable[Record]) -> set[str]:
    """The numbers that all rows that have them have of the same examples: others cannot be ranked by their means."""
    seen: dict[str, dict[tuple[str, str], set[str]]] = {}
    for record in records:
        for name in record.values:
            seen.setdefault(name, {}).setdefault(record.row, set()).add(record.example)
    return {name for name, rows in seen.items() if all(keys == next(iter(rows.values())) for keys in rows.values())}


def _counts(records: Iterable[Record]) -> str:
    """How many examples each metric has; of each row, where they are not the same."""
    seen: dict[str, dict[tuple[str, str], set[str]]] = {}
    for record in records:
        seen.setdefault(record.metric, {}).setdefault(record.row, set()).add(record.example)
    parts, unlike = [], False
    for metric, rows in seen.items():
        keys = list(rows.values())
        same = all(one == keys[0] for one in keys)
        unlike |= not same
        found = str(len(keys[0])) if same else ", ".join(f"{len(rows[row])} of {' + '.join(row)}" for row in rows)
        parts.append(f"{metric} {found}")
    note = " Where rows are of different examples, none is marked as the best." if unlike else ""
    return f"Examples: {'; '.join(parts) if unlike else ', '.join(parts)}.{note}"


def _cost_table(costs: Mapping[str, Mapping[str, Any]]) -> _Table:
    """What an explanation costs, a row for each method on a model."""
    rows = []
    for row, cost in costs.items():
        cells = [_Cell(row)]
        for name in _COSTS:
            value = cost.get(name)
            scaled = value / 2**20 if value is not None and name == "peak_memory" else value
            cells.append(_Cell("–" if scaled is None else f"{scaled:.4g}"))
        rows.append(cells)
    return _Table(["Row", *_COSTS.values()], rows)


def _lines(records: Iterable[Record], texts: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """A line for each number of each example."""
    for record in records:
        for name, number in record.values.items():
            model, method = record.row
            yield {
                "model": model, "method": method, "metric": record.metric, "example": record.example, "value": name,
                "number": number, "chance": record.chance.get(name), "text": texts.get(record.example, ""),
            }  # fmt: skip


def _bar_panels(values: Mapping[str, Value], summary: _Summary, chance: Mapping[str, float]) -> list[_BarPanel]:
    """Means with their intervals, a panel for each number."""
    labels = [f"{model} + {method}" for model, method in summary]
    panels = []
    for name, value in values.items():
        found = [(i, row[name]) for i, row in enumerate(summary.values()) if name in row]
        means, ends = [one.mean for _, one in found], [(one.low, one.high) for _, one in found]
        panels.append(_BarPanel(value.heading, labels, [i for i, _ in found], means, ends, chance.get(name)))
    return panels


def _curve_panels(
    records: Sequence[Record],
    values: Mapping[str, Value],
    rows: Sequence[tuple[str, str]],
    settings: Sequence[Mapping[str, Any]],
) -> list[_CurvePanel]:
    """Mean curves of comprehensiveness and sufficiency, a line for each row.

    Raises:
        ValueError: there are none.
    """
    # By their numbers, not by their names: a metric may have a label, and others have curves of another kind.
    found = (r.metric for r in records if "curve" in r.details and f"{r.metric}_aopc" in r.values)
    metrics = list(dict.fromkeys(found))
    if not metrics:
        raise ValueError("The result has neither comprehensiveness nor sufficiency, and so no curves.")
    panels = []
    for metric in metrics:
        curves = []
        for i, row in enumerate(rows):
            drawn = [r.details["curve"] for r in records if r.metric == metric and r.row == row]
            if drawn:
                fractions = _fractions(settings, row, metric, len(drawn[0]))
                curves.append(_Curve(" + ".join(row), i, fractions, np.mean(drawn, axis=0).tolist()))
        what = "perturbed" if values[metric].higher_is_better else "kept"
        title = metric.capitalize().replace("_", " ")
        panels.append(_CurvePanel(title, f"part of the tokens that is {what}", curves))
    return panels


def _fractions(
    settings: Sequence[Mapping[str, Any]], row: tuple[str, str], metric: str, count: int
) -> Sequence[float]:
    for run in settings:
        known = run.get("metrics", {}).get(metric, {}).get("fractions")
        if run.get("model") == row[0] and known is not None and len(known) == count:
            return known
    return np.linspace(0.1, 0.9, count).tolist()
