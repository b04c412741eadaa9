"""The rows of a dataset that are evaluated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from bcos_peft.inputs import plain, split_inputs


__all__ = ["read_dataset"]


def read_dataset(
    dataset: Iterable,
    text_column: str | tuple[str, str] | None = None,
    label_column: str | None = None,
    count: int | None = None,
    seed: int = 0,
) -> tuple[list, list | None]:
    """The texts (or other rows) of a dataset and their labels, all or some drawn by chance, in the dataset's order.

    Args:
        dataset (`Iterable`): as for [`evaluate`].
        text_column (`str` or a pair, *optional*): the column with the texts.
        label_column (`str`, *optional*): the column with the labels.
        count (`int`, *optional*): how many.
        seed (`int`, defaults to 0): of the draw.

    Raises:
        ValueError: there is no such column, or no row.
        TypeError: it is a single text.

    Example:
        >>> from bcos_peft.evaluation import read_dataset
        >>> rows = [{"review": "Good.", "stars": 5}, {"review": "Bad.", "stars": 1}]
        >>> read_dataset(rows, text_column="review", label_column="stars")
        (['Good.', 'Bad.'], [5, 1])
    """
    if isinstance(dataset, str):
        raise TypeError("dataset must be a list of texts, or a dataset, and not a single text.")
    if not hasattr(dataset, "column_names") and not isinstance(dataset, Mapping):
        dataset = list(dataset)
        if dataset and isinstance(dataset[0], Mapping) and text_column is not None:
            dataset = {name: [row[name] for row in dataset] for name in dataset[0]}
    labels = None
    if label_column is not None:
        known = getattr(dataset, "column_names", None) or (list(dataset) if isinstance(dataset, Mapping) else [])
        if label_column not in known:
            raise ValueError(f"label_column={label_column!r} is no column of the dataset; it has {known}.")
        labels = [plain(value) for value in dataset[label_column]]
    if isinstance(dataset, list) and dataset and not isinstance(dataset[0], (str, tuple, list, Mapping)):
        items = dataset  # rows of a kind of their own
    elif isinstance(dataset, list) and not dataset:
        raise ValueError("The dataset is empty: there is nothing to evaluate.")
    else:
        items, _ = split_inputs(dataset, text_column)
    if count is not None and count < len(items):
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}.")
        chosen = torch.randperm(len(items), generator=torch.Generator().manual_seed(seed))[:count].sort().values
        items = [items[i] for i in chosen.tolist()]
        labels = None if labels is None else [labels[i] for i in chosen.tolist()]
    return items, labels
