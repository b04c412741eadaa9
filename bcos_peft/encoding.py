"""From what a user has (text, pair, ids, a `BatchEncoding`) to token ids with their places in the text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch


__all__ = ["Encoding", "encode", "split_inputs"]


@dataclass(frozen=True)
class Encoding:
    """One text, tokenized: everything as plain lists of one length, without padding."""

    input_ids: list[int]
    text: str | tuple[str, str]
    offsets: list[tuple[int, int] | None]
    sequence_ids: list[int | None]
    special: list[bool]
    extra: dict[str, list[int]] = field(default_factory=dict)


def split_inputs(inputs: Any, text_column: str | None = None) -> tuple[list, bool]:
    """The single inputs in what a user passed, and whether it was only one.

    Raises:
        TypeError: for something that is neither text nor ids.
        ValueError: for an empty list, or a dataset without its column named.
    """
    if text_column is not None:
        return list(_column(inputs, text_column)), False
    if isinstance(inputs, (str, bytes)) or _is_pair(inputs):
        return [inputs], True
    if isinstance(inputs, torch.Tensor):
        return ([inputs.tolist()], True) if inputs.dim() == 1 else (inputs.tolist(), False)
    if isinstance(inputs, Mapping):
        return _split_mapping(inputs)
    if hasattr(inputs, "column_names"):
        raise ValueError(
            f"A dataset needs text_column=..., one of {list(inputs.column_names)}; or pass the column: "
            "dataset['text']."
        )
    if isinstance(inputs, Sequence) and len(inputs) and all(_is_int(item) for item in inputs):
        return [list(inputs)], True
    if isinstance(inputs, Iterable):
        items = list(inputs)
        if not items:
            raise ValueError("inputs is an empty list: there is nothing to explain.")
        return items, False
    raise TypeError(
        f"inputs must be text, a pair, token ids, a BatchEncoding or a list of these, got {type(inputs).__name__}."
    )


def _column(dataset, text_column: str):
    names = list(getattr(dataset, "column_names", None) or (dataset if isinstance(dataset, Mapping) else []))
    if text_column not in names:
        raise ValueError(f"text_column={text_column!r} is not a column of the dataset; it has {names}.")
    return dataset[text_column]


def _split_mapping(inputs: Mapping) -> tuple[list, bool]:
    if "text" in inputs:
        return [(inputs["text"], inputs["text_pair"]) if inputs.get("text_pair") else inputs["text"]], True
    if "input_ids" not in inputs:
        raise ValueError(f"A dict of inputs needs 'input_ids' (or 'text'), got {sorted(inputs)}.")
    values = {key: value.tolist() if isinstance(value, torch.Tensor) else list(value) for key, value in inputs.items()}
    if not len(values["input_ids"]) or _is_int(values["input_ids"][0]):
        return [values], True
    return [{key: value[row] for key, value in values.items()} for row in range(len(values["input_ids"]))], False


def encode(item: Any, tokenizer, max_length: int | None, truncation: bool) -> Encoding:
    """Tokenize one input.

    Raises:
        TypeError, ValueError: for an input that is no text, an empty one, or one that is longer than the model reads.
    """
    if isinstance(item, str):
        encoding = _encode_text(item, None, tokenizer)
    elif _is_pair(item):
        encoding = _encode_text(item[0], item[1], tokenizer)
    elif isinstance(item, Mapping):
        encoding = _encode_ids(item, tokenizer)
    elif isinstance(item, Sequence) and item and all(_is_int(value) for value in item):
        encoding = _encode_ids({"input_ids": list(item)}, tokenizer)
    else:
        raise TypeError(f"Cannot explain {item!r}: not a text, a pair (tuple) of texts, or a list of token ids.")
    if all(encoding.special):
        raise ValueError(
            f"The text {encoding.text!r} is empty: it has no token of its own, so there is nothing to explain."
        )
    if max_length is not None and len(encoding.input_ids) > max_length:
        if not truncation:
            raise ValueError(
                f"The text has {len(encoding.input_ids)} tokens, but the model reads {max_length}. Pass "
                "truncation=True to explain its "
                f"beginning, or shorten it: {_shorten(encoding.text)!r}."
            )
        if isinstance(item, str) or _is_pair(item):
            pair = item if _is_pair(item) else (item, None)
            return _encode_text(*pair, tokenizer, truncation=True, max_length=max_length)
        raise ValueError(
            "truncation=True works on text; cut a list of token ids yourself, so that its special tokens stay right."
        )
    return encoding


def _encode_text(text: str, pair: str | None, tokenizer, **truncation) -> Encoding:
    arguments = {"text_pair": pair} if pair is not None else {}
    if not tokenizer.is_fast:
        return _encode_ids(dict(tokenizer(text, **arguments, **truncation)), tokenizer)
    encoded = tokenizer(
        text, **arguments, **truncation, return_offsets_mapping=True, return_special_tokens_mask=True, verbose=False
    )
    sequence_ids = encoded.sequence_ids(0)
    special = [
        bool(flag) or sequence is None
        for flag, sequence in zip(encoded["special_tokens_mask"], sequence_ids, strict=True)
    ]
    offsets = [None if flag else tuple(span) for flag, span in zip(special, encoded["offset_mapping"], strict=True)]
    kept = {"input_ids", "offset_mapping", "special_tokens_mask", "attention_mask", "overflow_to_sample_mapping"}
    return Encoding(
        input_ids=list(encoded["input_ids"]),
        text=text if pair is None else (text, pair),
        offsets=offsets,
        sequence_ids=[None if flag else sequence for flag, sequence in zip(special, sequence_ids, strict=True)],
        special=special,
        extra={key: list(value) for key, value in encoded.items() if key not in kept},
    )


def _encode_ids(values: Mapping, tokenizer) -> Encoding:
    """Ids without their text: it is decoded token by token, so that every token has its place in it."""
    mask = values.get("attention_mask")
    keep = [i for i in range(len(values["input_ids"])) if mask is None or mask[i]]
    ids = [int(values["input_ids"][i]) for i in keep]
    unknown = [token for token in ids if not 0 <= token < len(tokenizer)]
    if unknown:
        raise ValueError(f"Token id {unknown[0]} is outside the tokenizer's vocabulary of {len(tokenizer)} tokens.")
    special_ids = set(tokenizer.all_special_ids)
    special = [token in special_ids for token in ids]
    offsets: list[tuple[int, int] | None] = []
    read: list[int] = []
    text = ""
    for token, is_special in zip(ids, special, strict=True):
        if is_special:
            offsets.append(None)
            continue
        read.append(token)
        longer = tokenizer.decode(read, clean_up_tokenization_spaces=False)
        offsets.append((min(len(text), len(longer)), len(longer)))
        text = longer
    per_token = ("token_type_ids", "position_ids")
    return Encoding(
        input_ids=ids,
        text=text,
        offsets=offsets,
        sequence_ids=[None if flag else 0 for flag in special],
        special=special,
        extra={key: [int(values[key][i]) for i in keep] for key in per_token if key in values},
    )


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(isinstance(text, str) for text in value)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _shorten(text: str | tuple[str, str]) -> str:
    whole = text if isinstance(text, str) else " / ".join(text)
    return whole if len(whole) <= 60 else whole[:57] + "..."
