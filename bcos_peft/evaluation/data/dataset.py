"""The rows of a dataset that are evaluated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sized
from numbers import Integral
from typing import Any

import torch

from bcos_peft._utils.arguments import checked_arguments
from bcos_peft.text import is_frame, plain, split_inputs


@checked_arguments
def read_dataset(
    dataset: Iterable,
    text_column: str | tuple[str, str] | None = None,
    label_column: str | None = None,
    count: int | None = None,
    seed: int = 0,
) -> tuple[list, list | None]:
    """The texts (or other rows) of a dataset and their labels, all or some drawn by chance, in the dataset's order.

    Args:
        dataset (`Iterable`): as for [`evaluate`]. Fields of rows that are not asked for may be there or not.
        text_column (`str` or a pair, *optional*): the column with the texts.
        label_column (`str`, *optional*): the column with the labels. A row without it has the label `None`.
        count (`int`, *optional*): how many.
        seed (`int`, defaults to 0): of the draw.

    Raises:
        ValueError: there is no such column, a row has no text, there is no row, or `count` is below 1.
        TypeError: it is a single text, or `count` is no whole number.

    Example:
        >>> from bcos_peft.evaluation import read_dataset
        >>> rows = [{"review": "Good.", "stars": 5}, {"review": "Bad.", "stars": 1}]
        >>> read_dataset(rows, text_column="review", label_column="stars")
        (['Good.', 'Bad.'], [5, 1])
    """
    if isinstance(dataset, str):
        raise TypeError("dataset must be a list of texts, or a dataset, and not a single text.")
    if count is not None and not isinstance(count, Integral):
        raise TypeError(f"count must be a whole number, got {count!r}.")
    if count is not None and count < 1:
        raise ValueError(f"count must be at least 1, got {count}.")
    dataset = _rows_or_columns(dataset, text_column)
    labels = None if label_column is None else _labels(dataset, label_column)
    if isinstance(dataset, list) and text_column is not None and _are_mappings(dataset):
        names = (text_column,) if isinstance(text_column, str) else tuple(text_column)
        dataset = {name: _text_values(dataset, name) for name in names}
    if isinstance(dataset, list) and dataset and not isinstance(dataset[0], (str, tuple, list, Mapping)):
        items = dataset  # rows of a kind of their own
    elif isinstance(dataset, list) and not dataset:
        raise ValueError("The dataset is empty: there is nothing to evaluate.")
    else:
        items, _ = split_inputs(dataset, text_column)
    if count is not None and count < len(items):
        chosen = torch.randperm(len(items), generator=torch.Generator().manual_seed(seed))[:count].sort().values
        items = [items[i] for i in chosen.tolist()]
        labels = None if labels is None else [labels[i] for i in chosen.tolist()]
    return items, labels


def _rows_or_columns(dataset: Iterable, text_column: str | tuple[str, str] | None) -> Any:
    """A list of rows, or what has columns: a mapping, or a `datasets.Dataset`."""
    if is_frame(dataset):
        return dataset.to_dict("list")
    if isinstance(dataset, Mapping):
        return dataset
    # A stream may not know its columns, and can be read only once; without text_column it is refused later.
    if hasattr(dataset, "column_names") and (isinstance(dataset, Sized) or text_column is None):
        return dataset
    return list(dataset)


def _are_mappings(rows: list) -> bool:
    return bool(rows) and all(isinstance(row, Mapping) for row in rows)


def _labels(dataset: Any, column: str) -> list:
    rows = dataset if isinstance(dataset, list) and _are_mappings(dataset) else []
    known = list(dict.fromkeys(name for row in rows for name in row))
    if not isinstance(dataset, list):
        known = list(dataset if isinstance(dataset, Mapping) else dataset.column_names or [])
    if column not in known:
        raise ValueError(f"label_column={column!r} is no column of the dataset; it has {known}.")
    values = [row.get(column) for row in rows] if rows else dataset[column]
    return [plain(value) for value in values]


def _text_values(rows: list, column: str) -> list:
    """A column of rows; every row must have it."""
    without = next((i for i, row in enumerate(rows) if column not in row), None)
    if without is not None:
        raise ValueError(
            f"dataset[{without}] has no text_column={column!r}; it has {list(rows[without])}. Name the column that "
            "all rows have, or leave the row out."
        )
    return [row[column] for row in rows]
