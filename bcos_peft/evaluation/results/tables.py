"""An evaluation's result as tables: Markdown, a page of it, and in the terminal."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from bcos_peft.evaluation.results.statistics import Interval, format_number


if TYPE_CHECKING:
    from bcos_peft.evaluation.results.result import EvaluationResult

__all__ = ["csv_table", "markdown_page", "markdown_table", "print_table", "shown_values"]

_CHANCE = "random order, expected"
_ASCII = str.maketrans("↑↓–", "^v-")


class _Cell(NamedTuple):
    text: str
    ends: str = ""  # of an interval
    best: bool = False


def shown_values(result: EvaluationResult, values: Sequence[str] | None) -> list[str]:
    """The names of the numbers to show, checked.

    Raises:
        TypeError: `values` is a single name.
        ValueError: there is no such number, or none at all.
    """
    if values is None:
        return list(result.values)
    if isinstance(values, str):
        raise TypeError(f"values must be a list of names, not the name {values!r}: write [{values!r}].")
    if not values:
        raise ValueError(f"values is empty; leave it out to show all, or choose of: {', '.join(result.values)}.")
    unknown = [name for name in values if name not in result.values]
    if unknown:
        raise ValueError(f"There is no value {unknown[0]!r}; there are: {', '.join(result.values)}.")
    return list(values)


def markdown_table(result: EvaluationResult, values: Sequence[str] | None = None, intervals: bool = True) -> str:
    """Rows for methods on models, columns for numbers; the best mean of the same examples is bold."""
    header, rows = _cells(result, values)

    def shown(cell: _Cell) -> str:
        mean = f"**{cell.text}**" if cell.best else cell.text
        return f"{mean} {cell.ends}" if intervals and cell.ends else mean

    lines = [header, ["---", "---", *["---:"] * (len(header) - 2)], *[list(map(shown, row)) for row in rows]]
    return "\n".join(f"| {' | '.join(map(_escape, line))} |" for line in lines) + "\n"


def print_table(result: EvaluationResult, values: Sequence[str] | None = None) -> None:
    """The same in the terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from bcos_peft.explanation.views.terminal import ascii_text, encodable

    console = Console()
    header, rows = _cells(result, values)

    def shown(text: str, ends: str = "", best: bool = False) -> Text:  # no str, in which brackets would be markup
        found = Text.assemble((text, "bold" if best else ""), f" {ends}" if ends else "")
        if encodable(console.encoding, found.plain):
            return found
        return ascii_text(Text.assemble((text.translate(_ASCII), "bold" if best else ""), f" {ends}" if ends else ""))

    table = Table()
    for i, name in enumerate(header):
        table.add_column(shown(name), **({"overflow": "fold"} if i < 2 else {"justify": "right"}))
    for row in rows:
        table.add_row(*[shown(*cell) for cell in row])
    console.print(table)


def markdown_page(result: EvaluationResult) -> str:
    """All tables, and what they are of."""
    counts = _counts(result)
    parts = ["# Evaluation", "", markdown_table(result), ""]
    parts += [f"Means with {result.confidence:.0%} bootstrap intervals over the examples. " + counts, ""]
    if result.costs:
        parts += ["## Cost of an explanation", "", _cost_table(result.costs), ""]
    for i, settings in enumerate(result.settings, 1):
        title = "## Settings" if len(result.settings) == 1 else f"## Settings {i}"
        parts += [title, "", "```json", json.dumps(settings, ensure_ascii=False, indent=1), "```", ""]
    return "\n".join(parts)


def _cells(result: EvaluationResult, values: Sequence[str] | None) -> tuple[list[str], list[list[_Cell]]]:
    names, summary, chance = shown_values(result, values), result.summary(), result.chance()
    alike = _of_the_same_examples(result)
    best = {
        name: _best(result, name, [row.get(name) for row in summary.values()]) if name in alike else None
        for name in names
    }
    rows = []
    for (model, method), numbers in summary.items():
        cells = [_Cell(model), _Cell(method)]
        for name in names:
            mean, _, ends = str(numbers.get(name, "–")).partition(" ")  # of one example there is no interval
            cells.append(_Cell(mean, ends, name in numbers and numbers[name].mean == best[name]))
        rows.append(cells)
    if any(name in chance for name in names):
        expected = [_Cell(format_number(chance[name]) if name in chance else "–") for name in names]
        rows.append([_Cell(""), _Cell(_CHANCE), *expected])
    return ["Model", "Method", *[result.values[name].heading for name in names]], rows


def _best(result: EvaluationResult, name: str, intervals: Iterable[Interval | None]) -> float | None:
    means = [interval.mean for interval in intervals if interval is not None]
    better = result.values[name].higher_is_better
    return None if better is None or len(means) < 2 else max(means) if better else min(means)


def _of_the_same_examples(result: EvaluationResult) -> set[str]:
    """The numbers that all rows that have them have of the same examples: others cannot be ranked by their means."""
    seen: dict[str, dict[tuple[str, str], set[str]]] = {}
    for record in result.records:
        for name in record.values:
            seen.setdefault(name, {}).setdefault(record.row, set()).add(record.example)
    return {name for name, rows in seen.items() if all(keys == next(iter(rows.values())) for keys in rows.values())}


def _counts(result: EvaluationResult) -> str:
    """How many examples each metric has; of each row, where they are not the same."""
    seen: dict[str, dict[tuple[str, str], set[str]]] = {}
    for record in result.records:
        seen.setdefault(record.metric, {}).setdefault(record.row, set()).add(record.example)
    parts, unlike = [], False
    for metric, rows in seen.items():
        keys = list(rows.values())
        same = all(one == keys[0] for one in keys)
        unlike |= not same
        counts = str(len(keys[0])) if same else ", ".join(f"{len(rows[row])} of {' + '.join(row)}" for row in rows)
        parts.append(f"{metric} {counts}")
    note = " Where rows are of different examples, none is marked as the best." if unlike else ""
    return f"Examples: {'; '.join(parts) if unlike else ', '.join(parts)}.{note}"


def _cost_table(costs: dict[str, dict[str, Any]]) -> str:
    columns = {
        "seconds_per_example": "Seconds",
        "forward_rows_per_example": "Forwards",
        "backward_rows_per_example": "Backwards",
        "peak_memory": "Peak memory (MiB)",
    }
    lines = [["Row", *columns.values()], ["---", *["---:"] * len(columns)]]
    for row, cost in costs.items():
        cells = [row]
        for name in columns:
            value = cost.get(name)
            scaled = value / 2**20 if value is not None and name == "peak_memory" else value
            cells.append("–" if scaled is None else f"{scaled:.4g}")
        lines.append(cells)
    return "\n".join(f"| {' | '.join(map(_escape, line))} |" for line in lines)


def _escape(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")


def csv_table(result: EvaluationResult) -> str:
    """A line for each number of each example."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["model", "method", "metric", "example", "value", "number", "chance", "text"])
    for record in result.records:
        for name, number in record.values.items():
            text = result.texts.get(record.example, "")
            chance = record.chance.get(name, "")
            writer.writerow([*record.row, record.metric, record.example, name, repr(number), chance, text])
    return file.getvalue()
