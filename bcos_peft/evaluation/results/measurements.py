"""How the numbers of an evaluation are read: by row, in the mean, and one row against another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from huggingface_hub import EvalResult

from bcos_peft.evaluation.metrics import Value
from bcos_peft.evaluation.results.layout import _shown_values
from bcos_peft.evaluation.results.record import Record, find_row
from bcos_peft.evaluation.results.statistics import (
    Interval,
    PairedTest,
    adjusted_p_values,
    bootstrap_interval,
    paired_test,
)


class _Measurements:
    """What can be read off an [`EvaluationResult`], which says what the fields are."""

    records: list[Record]
    values: dict[str, Value]
    confidence: float

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

    def compare_all(
        self, reference: str | tuple[str, str], value: str | None = None, method: str = "bh"
    ) -> dict[tuple[str, str], PairedTest]:
        """Whether the other rows differ from one, with p-values that allow for how many they are.

        Args:
            reference (`str` or `tuple[str, str]`): `"model + method"`, or either where it is the only such row.
            value (`str`, *optional*): the number to compare. Default: the first one.
            method (`str`, defaults to `"bh"`): of the adjustment, see [`adjusted_p_values`].

        Returns:
            `dict[tuple[str, str], PairedTest]`: by row, as `compare` gives it (row less reference), with `adjusted`
            set. Rows without an example in common with the reference are left out.

        Raises:
            ValueError: there is no such row, value or method, or nothing to compare.

        Example:
            >>> from bcos_peft.evaluation import EvaluationResult, Record, Value
            >>> numbers = {"bcos": [0.9, 0.8, 0.9, 0.7, 0.9], "ig": [0.7, 0.6, 0.8, 0.5, 0.7], "random": [0.1] * 5}
            >>> records = [
            ...     Record("a", method, "seqpg", str(i), {"seqpg": value})
            ...     for method, values in numbers.items()
            ...     for i, value in enumerate(values)
            ... ]
            >>> tests = EvaluationResult(records, {"seqpg": Value("SeqPG", True)}).compare_all("random")
            >>> {row: (test.p_value, test.adjusted) for row, test in tests.items()}
            {('a', 'bcos'): (0.0625, 0.0625), ('a', 'ig'): (0.0625, 0.0625)}
        """
        value = next(iter(self.values)) if value is None else value
        known, row = self.examples(value, reference), find_row(self.rows, reference)
        others = [other for other in self.rows if other != row and known.keys() & self.examples(value, other).keys()]
        if not others:
            raise ValueError(f"No other row has an example of {value!r} in common with {reference!r}.")
        tests = [self.compare(other, row, value) for other in others]
        adjusted = adjusted_p_values([test.p_value for test in tests], method)
        return {
            other: replace(test, adjusted=p_value)
            for other, test, p_value in zip(others, tests, adjusted, strict=True)
        }

    def eval_results(
        self,
        row: str | tuple[str, str] | None = None,
        *,
        task_type: str,
        dataset_type: str,
        dataset_name: str | None = None,
        values: Sequence[str] | None = None,
        **data: Any,
    ) -> list[EvalResult]:
        """The means of a row in the form that the hub has for them, to be put on the card of the model.

        Args:
            row (`str` or `tuple[str, str]`, *optional*): `"model + method"`, or either where it is the only such row.
                Default: the only row.
            task_type (`str`): the task as the hub calls it, such as `"text-classification"`.
            dataset_type (`str`): the data's id on the hub, or a name of your own.
            dataset_name (`str`, *optional*): what to call the data in a table. Default: `dataset_type`.
            values (`Sequence[str]`, *optional*): the numbers to give. Default: all that the row has.
            **data: further fields of [`~huggingface_hub.EvalResult`] that say what the data are, such as
                `dataset_config`, `dataset_split` and `dataset_revision`.

        Returns:
            `list[EvalResult]`: one for each number, with method, count of examples and interval as `metric_args`.

        Raises:
            TypeError: `data` has something that is no field of it.
            ValueError: there is no such row or number, or `row` is left out and there are several.

        Example:
            >>> from bcos_peft.evaluation import EvaluationResult, Record, Value
            >>> records = [Record("a", "bcos", "seqpg", key, {"seqpg": number}) for key, number in zip("xy", (0.5, 1))]
            >>> result = EvaluationResult(records, {"seqpg": Value("SeqPG", True)})
            >>> found = result.eval_results(task_type="text-classification", dataset_type="imdb")
            >>> found[0].metric_type, found[0].metric_name, found[0].metric_value
            ('seqpg', 'SeqPG, bcos', 0.75)
        """
        if row is None and len(self.rows) != 1:
            names = ", ".join(repr(f"{model} + {method}") for model, method in self.rows)
            raise ValueError(f"The result has {len(self.rows)} rows; say of which: row=... There are: {names}.")
        wanted = self.rows[0] if row is None else find_row(self.rows, row)
        means = self.summary()[wanted]
        names = list(means) if values is None else _shown_values(means, values)
        return [
            EvalResult(
                task_type=task_type,
                dataset_type=dataset_type,
                dataset_name=dataset_name or dataset_type,
                metric_type=name,
                # On the hub's page only the name is seen, so it says the method too.
                metric_name=f"{self.values[name].label}, {wanted[1]}",
                metric_value=means[name].mean,
                metric_args={"method": wanted[1], **_args(means[name], self.confidence)},
                **data,
            )
            for name in names
        ]


def _args(interval: Interval, confidence: float) -> dict[str, Any]:
    args: dict[str, Any] = {"examples": interval.count}
    if interval.low == interval.low:  # of one example there is none
        args |= {"interval": [interval.low, interval.high], "confidence": confidence}
    return args
