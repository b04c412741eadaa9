"""What an evaluation gives: a number for each example, method and metric; to be merged, compared, saved and shown."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bcos_peft._utils.files import write_text
from bcos_peft.evaluation.methods.cost import add_costs
from bcos_peft.evaluation.metrics.base import Value
from bcos_peft.evaluation.results.io import fields, plain
from bcos_peft.evaluation.results.record import Record, find_row
from bcos_peft.evaluation.results.statistics import Interval, PairedTest, bootstrap_interval, paired_test


__all__ = ["EvaluationResult"]


@dataclass(eq=False, repr=False)
class EvaluationResult:
    """The result of [`evaluate`], or of several put together.

    A row of its tables is a method on a model, written `"model + method"`.

    Args:
        records (`list[Record]`): one for each example, metric, method and model.
        values (`dict[str, Value]`): what the numbers are called, and where they are better.
        texts (`dict[str, str]`): the examples' texts by key.
        costs (`dict[str, dict]`): what each row's explanations cost; see [`Cost`].
        settings (`list[dict]`): of each run: data, metrics, methods, versions, machine.
        confidence (`float`, defaults to 0.95): of the intervals.

    Example:
        >>> from bcos_peft.evaluation import EvaluationResult, Record, Value
        >>> numbers = {"a": 0.5, "b": 0.75}
        >>> records = [Record(model, "ig", "seqpg", "3f2a", {"seqpg": value}) for model, value in numbers.items()]
        >>> result = EvaluationResult(records, {"seqpg": Value("SeqPG", True)})
        >>> result.rows
        [('a', 'ig'), ('b', 'ig')]
        >>> result.compare("a + ig", "b + ig").difference.mean
        -0.25
    """

    records: list[Record]
    values: dict[str, Value]
    texts: dict[str, str] = field(default_factory=dict)
    costs: dict[str, dict[str, Any]] = field(default_factory=dict)
    settings: list[dict[str, Any]] = field(default_factory=list)
    confidence: float = 0.95

    # ---- reading ----------------------------------------------------------------------------------------------------

    @property
    def rows(self) -> list[tuple[str, str]]:
        """Model and method of each row, in the order of the records."""
        return list(dict.fromkeys(record.row for record in self.records))

    def examples(self, value: str, row: str | tuple[str, str]) -> dict[str, float]:
        """One number for each example: of a row, by the example's key.

        Args:
            value (`str`): name of a number, such as `"comprehensiveness"`.
            row (`str` or `tuple[str, str]`): `"model + method"`, or either where it is the only such row.

        Raises:
            ValueError: there is no such value or row.
        """
        wanted = find_row(self.rows, row)
        if value not in self.values:
            raise ValueError(f"There is no value {value!r}; there are: {', '.join(self.values)}.")
        return {
            record.example: record.values[value]
            for record in self.records
            if record.row == wanted and value in record.values
        }

    def summary(self) -> dict[tuple[str, str], dict[str, Interval]]:
        """Mean and bootstrap interval of every number, by row and name; those without any example are left out."""
        found: dict[tuple[str, str], dict[str, list[float]]] = {}
        for record in self.records:
            for name, value in record.values.items():
                found.setdefault(record.row, {}).setdefault(name, []).append(value)
        return {
            row: {name: bootstrap_interval(numbers[name], self.confidence) for name in self.values if name in numbers}
            for row, numbers in found.items()
        }

    def chance(self) -> dict[str, float]:
        """Mean of what random order gives, of the numbers for which it is known."""
        found: dict[str, dict[str, float]] = {}
        for record in self.records:
            for name, value in record.chance.items():
                found.setdefault(name, {})[record.example] = value
        return {name: sum(found[name].values()) / len(found[name]) for name in self.values if name in found}

    def compare(
        self, first: str | tuple[str, str], second: str | tuple[str, str], value: str | None = None
    ) -> PairedTest:
        """Whether two rows differ, by the examples that both have.

        Args:
            first (`str` or `tuple[str, str]`): `"model + method"`, or either where it is the only such row.
            second (`str` or `tuple[str, str]`): likewise.
            value (`str`, *optional*): the number to compare. Default: the first one.

        Returns:
            [`PairedTest`]: the mean difference (first less second) with its interval, and a p-value.

        Raises:
            ValueError: there is no such row or value, or the rows have no example in common.
        """
        value = next(iter(self.values)) if value is None else value
        one, two = self.examples(value, first), self.examples(value, second)
        shared = [key for key in one if key in two]
        if not shared:
            raise ValueError(f"{first!r} and {second!r} have no example of {value!r} in common.")
        return paired_test([one[key] for key in shared], [two[key] for key in shared], self.confidence)

    # ---- putting together -------------------------------------------------------------------------------------------

    def __add__(self, other: EvaluationResult) -> EvaluationResult:
        return self.merge([self, other])

    @classmethod
    def merge(cls, results: Iterable[EvaluationResult]) -> EvaluationResult:
        """Results of several models, metrics or parts of a dataset as one. The costs of a row are added.

        Args:
            results (`Iterable[EvaluationResult]`): in the order in which their rows should appear.

        Raises:
            ValueError: there is none; two have a record of the same example, metric, method and model (give the models
                labels); or two metrics have a number of the same name.
        """
        results = list(results)
        if not results:
            raise ValueError("results is empty: there is nothing to merge.")
        records: dict[tuple, Record] = {}
        owners: dict[str, str] = {}
        merged = cls([], {}, confidence=results[0].confidence)
        for result in results:
            for record in result.records:
                key = (record.model, record.method, record.metric, record.example)
                if key in records:
                    raise ValueError(
                        f"Two results have {record.metric!r} of '{record.model} + {record.method}'; give the models "
                        "other labels: evaluate(..., label=...)."
                    )
                records[key] = record
                for name in record.values:
                    if owners.setdefault(name, record.metric) != record.metric:
                        raise ValueError(
                            f"{owners[name]!r} and {record.metric!r} both have a number {name!r}; give one of these "
                            "metrics another label=... and evaluate it anew."
                        )
            merged.values |= result.values
            merged.texts |= result.texts
            for row, cost in result.costs.items():
                merged.costs[row] = add_costs(merged.costs[row], cost) if row in merged.costs else cost
            merged.settings += result.settings
        merged.records = list(records.values())
        return merged

    # ---- saving -----------------------------------------------------------------------------------------------------

    def save(self, folder: str | os.PathLike, plot: bool = False) -> None:
        """Writes `results.json` (all of it), `results.md` (the tables) and `examples.csv` (each example's numbers).

        Args:
            folder (`str` or `os.PathLike`): made if it does not exist.
            plot (`bool`, defaults to `False`): also `results.png`, which needs matplotlib.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "results.json", json.dumps(self.to_dict(), ensure_ascii=False, indent=1) + "\n")
        write_text(folder / "results.md", self.markdown())
        write_text(folder / "examples.csv", self.csv())
        if plot:
            self.plot(folder / "results.png")

    @classmethod
    def load(cls, folder: str | os.PathLike) -> EvaluationResult:
        """Reads what `save` wrote.

        Args:
            folder (`str` or `os.PathLike`): of `save`, or its `results.json`.

        Raises:
            ValueError: it holds no result.
        """
        path = Path(folder)
        path = path / "results.json" if path.is_dir() else path
        try:
            return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise ValueError(f"cannot load a result from {os.fspath(path)!r}: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, with the means for readers that do not compute them."""
        return plain(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> EvaluationResult:
        """The inverse of `to_dict`.

        Args:
            data (`dict[str, Any]`): from `to_dict`.

        Raises:
            ValueError: it is something else.
        """
        return cls(**fields(data))

    def csv(self) -> str:
        """The per-example table: a line for each number, with model, method, metric, example and text."""
        from bcos_peft.evaluation.results.tables import csv_table

        return csv_table(self)

    # ---- showing ----------------------------------------------------------------------------------------------------

    def table(self, values: Sequence[str] | None = None, intervals: bool = True) -> str:
        """The means as a Markdown table: a row for each method on a model, a column for each number.

        The best mean of a column is bold; none is where rows are of different examples.

        Args:
            values (`Sequence[str]`, *optional*): the numbers to show. Default: all.
            intervals (`bool`, defaults to `True`): with their bootstrap intervals.
        """
        from bcos_peft.evaluation.results.tables import markdown_table

        return markdown_table(self, values, intervals)

    def markdown(self) -> str:
        """The tables and what they are of, as the page that `save` writes."""
        from bcos_peft.evaluation.results.tables import markdown_page

        return markdown_page(self)

    def show(self, values: Sequence[str] | None = None) -> None:
        """Prints the table in the terminal.

        Args:
            values (`Sequence[str]`, *optional*): the numbers to show. Default: all.
        """
        from bcos_peft.evaluation.results.tables import print_table

        print_table(self, values)

    def plot(self, path: str | os.PathLike | None = None, values: Sequence[str] | None = None):
        """A bar chart of the means with their intervals, a panel for each number. Needs matplotlib.

        Args:
            path (`str` or `os.PathLike`, *optional*): where to write it, by the ending a picture or a PDF.
            values (`Sequence[str]`, *optional*): the numbers to show. Default: all.

        Returns:
            `matplotlib.figure.Figure`
        """
        from bcos_peft.evaluation.results.plots import plot_means

        return plot_means(self, path, values)

    def plot_curves(self, path: str | os.PathLike | None = None):
        """The mean perturbation curves of comprehensiveness and sufficiency, labelled ones too. Needs matplotlib.

        Args:
            path (`str` or `os.PathLike`, *optional*): where to write it.

        Returns:
            `matplotlib.figure.Figure`

        Raises:
            ValueError: neither metric is in the result.
        """
        from bcos_peft.evaluation.results.plots import plot_curves

        return plot_curves(self, path)

    def __repr__(self) -> str:
        return (
            f"EvaluationResult({len(self.rows)} rows, {len(self.values)} values, "
            f"{len({record.example for record in self.records})} examples)\n{self.table(intervals=False)}"
        )
