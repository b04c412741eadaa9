"""What an evaluation gives: a number for each example, method and metric; to be merged, compared, saved and shown."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, field, fields
from pathlib import Path
from typing import Any

from bcos_peft._utils.arguments import checked_arguments
from bcos_peft._utils.files import write_text
from bcos_peft._utils.staging import settle, staged
from bcos_peft.evaluation.methods import add_costs
from bcos_peft.evaluation.metrics import Value
from bcos_peft.evaluation.results.io import _plain, _stored
from bcos_peft.evaluation.results.layout import (
    _bar_panels,
    _cost_table,
    _counts,
    _curve_panels,
    _lines,
    _means_table,
    _shown_values,
)
from bcos_peft.evaluation.results.measurements import _Measurements
from bcos_peft.evaluation.results.plots import _draw_bars, _draw_curves
from bcos_peft.evaluation.results.record import Record
from bcos_peft.evaluation.results.statistics import Interval
from bcos_peft.evaluation.results.tables import _markdown_table, _print_table, _Table


_COLUMNS = ["model", "method", "metric", "example", "value", "number", "chance", "text"]


@dataclass(eq=False, repr=False)
class EvaluationResult(_Measurements):
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

    @checked_arguments
    def save(self, folder: str | os.PathLike, plot: bool = False) -> None:
        """Writes `results.json` (all of it), `results.md` (the tables) and `examples.csv` (each example's numbers).

        They take the places of earlier ones together, and an earlier picture goes. If saving fails or is killed,
        `load` finds what was there.

        Args:
            folder (`str` or `os.PathLike`): made if it does not exist.
            plot (`bool`, defaults to `False`): also `results.png`, which needs matplotlib.
        """
        with staged(Path(folder), gates={"results.json": None}, stale=_old_picture) as new:
            write_text(new / "results.json", json.dumps(self.to_dict(), ensure_ascii=False, indent=1) + "\n")
            write_text(new / "results.md", self.markdown())
            write_text(new / "examples.csv", self.csv())
            if plot:
                self.plot(new / "results.png")

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
        settle(path.parent)
        try:
            return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise ValueError(f"cannot load a result from {os.fspath(path)!r}: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, with the means for readers that do not compute them."""
        summary, chance = self.summary(), self.chance()
        return _plain(
            self.settings, self.confidence, self.values, summary, chance, self.costs, self.texts, self.records
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> EvaluationResult:
        """The inverse of `to_dict`.

        Args:
            data (`dict[str, Any]`): from `to_dict`.

        Raises:
            ValueError: it is something else.
        """
        return cls(**_stored(data))

    def csv(self) -> str:
        """The per-example table: a line for each number, with model, method, metric, example and text."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for line in _lines(self.records, self.texts):
            chance = "" if line["chance"] is None else line["chance"]
            writer.writerow((line | {"number": repr(line["number"]), "chance": chance}).values())
        return file.getvalue()

    @checked_arguments
    def to_pandas(self, means: bool = False):
        """The numbers as a DataFrame: those of each example, with the columns of `csv`, or the means of each row.

        Args:
            means (`bool`, defaults to `False`): a line for each row and each number, with the ends of its interval and
                the count of examples.

        Returns:
            `pandas.DataFrame`

        Raises:
            ImportError: pandas is not installed.

        Example:
            >>> from bcos_peft.evaluation import EvaluationResult, Record, Value
            >>> records = [Record("a", "ig", "seqpg", key, {"seqpg": number}) for key, number in zip("xy", (0.0, 1.0))]
            >>> result = EvaluationResult(records, {"seqpg": Value("SeqPG", True)})
            >>> result.to_pandas()["number"].tolist(), result.to_pandas(means=True)["mean"].tolist()
            ([0.0, 1.0], [0.5])
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError("to_pandas needs pandas: pip install pandas") from error

        if not means:
            return pandas.DataFrame(_lines(self.records, self.texts), columns=_COLUMNS)
        columns = ["model", "method", "value", *(field.name for field in fields(Interval))]
        rows = [
            (*row, name, *astuple(interval))
            for row, numbers in self.summary().items()
            for name, interval in numbers.items()
        ]
        return pandas.DataFrame(rows, columns=columns)

    # ---- showing ----------------------------------------------------------------------------------------------------

    @checked_arguments
    def table(self, values: Sequence[str] | None = None, intervals: bool = True) -> str:
        """The means as a Markdown table: a row for each method on a model, a column for each number.

        The best mean of a column is bold; none is where rows are of different examples.

        Args:
            values (`Sequence[str]`, *optional*): the numbers to show. Default: all.
            intervals (`bool`, defaults to `True`): with their bootstrap intervals.
        """
        return _markdown_table(self._table(values), intervals)

    def _table(self, values: Sequence[str] | None = None) -> _Table:
        return _means_table(self.records, self._values(values), self.summary(), self.chance())

    def _values(self, values: Sequence[str] | None) -> dict[str, Value]:
        return {name: self.values[name] for name in _shown_values(self.values, values)}

    def markdown(self) -> str:
        """The tables and what they are of, as the page that `save` writes."""
        parts = ["# Evaluation", "", self.table(), ""]
        parts += [
            f"Means with {self.confidence:.0%} bootstrap intervals over the examples. " + _counts(self.records),
            "",
        ]
        if self.costs:
            parts += ["## Cost of an explanation", "", _markdown_table(_cost_table(self.costs)).rstrip(), ""]
        for i, settings in enumerate(self.settings, 1):
            title = "## Settings" if len(self.settings) == 1 else f"## Settings {i}"
            parts += [title, "", "```json", json.dumps(settings, ensure_ascii=False, indent=1), "```", ""]
        return "\n".join(parts)

    def show(self, values: Sequence[str] | None = None) -> None:
        """Prints the table in the terminal.

        Args:
            values (`Sequence[str]`, *optional*): the numbers to show. Default: all.
        """
        _print_table(self._table(values))

    def plot(self, path: str | os.PathLike | None = None, values: Sequence[str] | None = None):
        """A bar chart of the means with their intervals, a panel for each number. Needs matplotlib.

        Args:
            path (`str` or `os.PathLike`, *optional*): where to write it, by the ending a picture or a PDF.
            values (`Sequence[str]`, *optional*): the numbers to show. Default: all.

        Returns:
            `matplotlib.figure.Figure`
        """
        return _draw_bars(_bar_panels(self._values(values), self.summary(), self.chance()), path)

    def plot_curves(self, path: str | os.PathLike | None = None):
        """The mean perturbation curves of comprehensiveness and sufficiency, labelled ones too. Needs matplotlib.

        Args:
            path (`str` or `os.PathLike`, *optional*): where to write it.

        Returns:
            `matplotlib.figure.Figure`

        Raises:
            ValueError: neither metric is in the result.
        """
        return _draw_curves(_curve_panels(self.records, self.values, self.rows, self.settings), path)

    def __repr__(self) -> str:
        return (
            f"EvaluationResult({len(self.rows)} rows, {len(self.values)} values, "
            f"{len({record.example for record in self.records})} examples)\n{self.table(intervals=False)}"
        )


def _old_picture(written: list[str], present: list[str]) -> list[str]:
    return sorted({"results.png"}.intersection(present) - set(written))
