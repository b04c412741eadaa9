"""From what a user passes to a list of single inputs of three kinds: a text, a pair of texts, or token ids."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import Any


_WANTED = (
    "text, a pair (tuple) of texts, token ids, a BatchEncoding, a dict with 'text' or 'input_ids', or a list of these"
)


def split_inputs(
    inputs: Any, text_column: str | tuple[str, str] | None = None, name: str = "inputs", columns: bool = True
) -> tuple[list, bool]:
    """The single inputs in what a user passed, and whether it was only one.

    Args:
        inputs: what a user passed.
        text_column: the column of a dataset, or two with the texts of pairs.
        name: the argument that it was passed as, for errors.
        columns: whether the caller has an argument `text_column`, so that errors may recommend it.

    Returns:
        A list of `str`, `(str, str)` or a dict with the lists `input_ids` and whatever came with them; and a flag.

    Raises:
        TypeError: for something that is neither text nor ids.
        ValueError: for an empty list, or a dataset without its column named.
    """
    if text_column is not None:
        inputs = _column(inputs, text_column)
    elif isinstance(inputs, Mapping) and not _is_message(inputs):
        items, single = _split_mapping(inputs, name, columns)
        return [_item(item, f"{name}[{i}]") for i, item in enumerate(items)], single
    elif hasattr(inputs, "column_names") or is_frame(inputs):
        names = list(inputs.columns) if is_frame(inputs) else inputs.column_names
        if not columns:
            raise TypeError(f"{name} is a dataset; {_has(names)}. Pass the column with the texts: dataset[...].")
        raise ValueError(f"A dataset needs text_column=...; {_has(names)}. Or pass the column itself.")
    else:
        inputs = plain(inputs)
        if (
            isinstance(inputs, (str, bytes))
            or _is_message(inputs)
            or _is_ids(inputs)
            or (isinstance(inputs, tuple) and _is_pair(inputs))
        ):
            return [_item(inputs, name)], True
    if not isinstance(inputs, Iterable):
        raise TypeError(f"{name} must be {_WANTED}, got {type(inputs).__name__}.")
    items = [_item(item, f"{name}[{i}]") for i, item in enumerate(inputs)]
    if not items:
        raise ValueError(f"{name} is empty: there is nothing to explain.")
    return items, False


def is_frame(value: Any) -> bool:
    """Whether it is a DataFrame of pandas."""
    pandas = sys.modules.get("pandas")  # whoever has a DataFrame has imported it
    return pandas is not None and isinstance(value, pandas.DataFrame)


def plain(value: Any) -> Any:
    """Tensors, arrays and series as Python lists or numbers; anything else as it is."""
    return value.tolist() if hasattr(value, "tolist") else value


def _item(item: Any, where: str) -> str | tuple[str, str] | dict:
    """One input as a text, a pair, or a dict of lists."""
    if _is_message(item):
        raise TypeError(
            f"{where} is a message of a chat, {_shorten(repr(item))}. BcosExplainer.explain(messages=[...]) explains "
            "what a language model says next; elsewhere write the chat as text with tokenizer.apply_chat_template."
        )
    if isinstance(item, Mapping):
        if "text" in item:
            pair = item.get("text_pair")
            return _item(item["text"] if pair is None else (item["text"], pair), where)
        if "input_ids" not in item:
            raise ValueError(f"{where} is a dict without 'input_ids' or 'text'; it has {sorted(map(str, item))}.")
        values = _row({key: plain(value) for key, value in item.items()}, where)
        return _with_sequence_ids(values, getattr(item, "encodings", None) or [], 0)
    item = plain(item)
    if isinstance(item, str):
        return _checked(item, where)
    if _is_pair(item):
        return _checked(item[0], where), _checked(item[1], where)
    if isinstance(item, (list, tuple)) and not item:
        raise ValueError(f"{where} has no token: there is nothing to explain.")
    if _is_ids(item):
        return {"input_ids": [int(token) for token in item]}
    raise TypeError(f"{where} is {_shorten(repr(item))}; it must be {_WANTED}.")


def _row(values: dict, where: str) -> dict:
    """A dict of lists; of a batch of one, its only row."""
    ids = values["input_ids"]
    if not isinstance(ids, (list, tuple)) or len(ids) == 0:
        raise ValueError(f"{where}: 'input_ids' is {_shorten(repr(ids))}; it must be a list of at least one token id.")
    if not _is_int(ids[0]):
        if len(ids) != 1:
            raise ValueError(f"{where} is a batch of {len(ids)} rows inside a list; pass it alone, or row by row.")
        return _row({key: _at(value, 0) for key, value in values.items()}, where)
    if not _is_ids(ids):
        raise TypeError(f"{where}: 'input_ids' must be integers, got {_shorten(repr(ids))}.")
    return values


def _split_mapping(inputs: Mapping, name: str, columns: bool) -> tuple[list, bool]:
    values = {key: plain(value) for key, value in inputs.items()}
    if "text" in values:
        if isinstance(values["text"], str):
            return [values], True
        pairs = values.get("text_pair")
        texts = list(values["text"])
        if pairs is None:
            return texts, False
        if isinstance(pairs, str):
            raise TypeError(f"'text' is a list and 'text_pair' one text, {_shorten(repr(pairs))}; give one for each.")
        if len(list(pairs)) != len(texts):
            raise ValueError(f"'text' has {len(texts)} entries and 'text_pair' {len(pairs)}; they must be as many.")
        return list(zip(texts, pairs, strict=True)), False
    if "input_ids" not in values:
        column = "For a column of another name pass text_column=..." if columns else "Pass the texts themselves"
        raise ValueError(
            f"A dict of {name} needs 'input_ids' or 'text'; it has {sorted(map(str, values))}. {column}; of a "
            "DatasetDict, one split."
        )
    ids = values["input_ids"]
    # What a fast tokenizer knows beyond the ids: which text of a pair each token is from.
    encodings = getattr(inputs, "encodings", None) or []
    if len(ids) == 0 or _is_int(ids[0]):
        return [_with_sequence_ids(values, encodings, 0)], True
    rows = [{key: _at(value, row) for key, value in values.items()} for row in range(len(ids))]
    return [_with_sequence_ids(row, encodings, i) for i, row in enumerate(rows)], False


def _at(value: Any, row: int) -> Any:
    return value[row] if isinstance(value, (list, tuple)) and row < len(value) else None


def _with_sequence_ids(values: dict, encodings, row: int) -> dict:
    if row < len(encodings) and list(encodings[row].ids) == list(values["input_ids"]):
        return {**values, "sequence_ids": list(encodings[row].sequence_ids)}
    return values


def _column(dataset: Any, names: str | tuple[str, str]) -> Iterable:
    """One column of a dataset, or two as pairs."""
    if not isinstance(names, str):
        if len(names) != 2:
            raise ValueError(f"text_column={names!r} must be a column, or two columns of the texts of a pair.")
        first, second = (_column(dataset, name) for name in names)
        return zip(first, second, strict=True)
    known = getattr(dataset, "column_names", None)
    if isinstance(known, dict):
        raise ValueError(f"This is a dict of datasets; pass one of its splits: {', '.join(map(repr, known))}.")
    if known is None and hasattr(dataset, "keys"):
        known = list(dataset.keys())
    if known is None and isinstance(dataset, Iterable) and hasattr(dataset, "features"):
        return (row[names] for row in dataset)  # a stream that does not know its columns beforehand
    if known is None or names not in known:
        raise ValueError(f"text_column={names!r} is no column of the dataset; {_has(known)}.")
    column = dataset[names]
    return [column] if isinstance(column, str) else column  # of a single row


def _has(names) -> str:
    return f"it has {', '.join(map(repr, names or []))}" if names else "its columns are not known"


def _is_message(value: Any) -> bool:
    """Whether it is a message of a chat, or a list of them."""
    while isinstance(value, (list, tuple)) and value:
        value = value[0]
    return isinstance(value, Mapping) and "role" in value and not {"text", "input_ids"} & value.keys()


def _is_pair(value: Any) -> bool:
    """Two texts. A list of two is a pair only where it stands for one input: inside another list."""
    return isinstance(value, (tuple, list)) and len(value) == 2 and all(isinstance(text, str) for text in value)


def _is_ids(value: Any) -> bool:
    return isinstance(value, (list, tuple, range)) and len(value) > 0 and all(_is_int(item) for item in value)


def _is_int(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _checked(text: str, where: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"{where} is no valid text: half a character (surrogate) at {error.start}.") from None
    return text


def _shorten(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
