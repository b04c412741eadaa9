"""How the numbers of an evaluation are read: by row, in the mean, and one row against another."""

from __future__ import annotations

from bcos_peft.evaluation.metrics import Value
from bcos_peft.evaluation.results.record import Record, find_row
from bcos_peft.evaluation.results.statistics import Interval, PairedTest, bootstrap_interval, paired_test


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
