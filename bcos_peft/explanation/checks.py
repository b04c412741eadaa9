"""The conditions an `Explanation` must meet, checked before it exists."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bcos_peft.text import group_tokens, hold_marks, place_segments


def _checked_fields(given: Mapping[str, Any]) -> dict[str, Any]:
    """Converts the fields of an explanation to their plain types and fills in what can be derived.

    Args:
        given (`Mapping[str, Any]`): Every field of `Explanation` by name.

    Returns:
        `dict[str, Any]`: The same names with checked values; `residual` and `word_ids` are never `None`.

    Raises:
        ValueError: If lengths do not match, a number is not finite, or a place lies outside the text.
    """
    tokens = [str(token) for token in given["tokens"]]
    text = _checked_text(given["text"])
    texts = (text,) if isinstance(text, str) else text
    fields = dict(given, tokens=tokens, text=text, scores=_checked_scores("scores", given["scores"], len(tokens)))
    if given["parts"] is not None:
        fields["parts"] = {
            str(name): _checked_scores(f"parts[{name!r}]", part, len(tokens)) for name, part in given["parts"].items()
        }

    columns: dict[str, Callable] = {
        "offsets": lambda span: (int(span[0]), int(span[1])),
        "sequence_ids": int,
        "special": bool,
        "token_ids": int,
        "word_ids": int,
    }
    for name, convert in columns.items():
        if name == "word_ids" and given[name] is None:
            continue
        if len(given[name]) != len(tokens):
            raise ValueError(f"{name} has {len(given[name])} values for {len(tokens)} tokens; give one per token.")
        fields[name] = [None if value is None else convert(value) for value in given[name]]
    _check_places(texts, fields["offsets"], fields["sequence_ids"])
    fields["offsets"] = hold_marks(texts, fields["offsets"], fields["sequence_ids"])
    if given["word_ids"] is None:
        fields["word_ids"] = group_tokens(texts, fields["offsets"], fields["sequence_ids"], fields["special"])

    for name in ("target", "predicted", "foil", "position"):
        fields[name] = None if given[name] is None else int(given[name])
    for name in ("target_ids", "foil_ids", "positions"):
        fields[name] = None if given[name] is None else [int(value) for value in given[name]]
    places = {"position": [fields["position"]], "positions": fields["positions"] or []}
    for name, found in places.items():
        if wrong := [place for place in found if place is not None and not 0 <= place < len(tokens)]:
            raise ValueError(f"{name}={wrong[0]} is none of the {len(tokens)} tokens; count from 0, or give None.")
    if given["segments"] is not None:
        fields["segments"] = place_segments(texts[0], given["segments"])

    fields["logit"] = _checked_number("logit", given["logit"])
    total = fields["scores"].sum()
    if given["baseline"] is not None:
        fields["baseline"] = _checked_number("baseline", given["baseline"])
        total += fields["baseline"]
    residual = fields["logit"] - total if given["residual"] is None else given["residual"]
    fields["residual"] = _checked_number("residual", residual)
    if given["probability"] is not None:
        probability = fields["probability"] = _checked_number("probability", given["probability"])
        if not 0.0 <= probability <= 1.0:
            raise ValueError(f"probability={probability} must lie between 0 and 1, or be None if there is none.")
    return fields


def _checked_span(text: str, span: tuple[int, int] | str) -> tuple[int, int]:
    """Character span of `span` in `text`: the span itself if it fits, or where that substring occurs once."""
    if isinstance(span, str):
        count = text.count(span) if span else 0
        if count != 1:
            raise ValueError(f"{span!r} occurs {count} times in the text, not once; give its span (start, end).")
        return text.index(span), text.index(span) + len(span)
    start, end = int(span[0]), int(span[1])
    if not 0 <= start < end <= len(text):
        raise ValueError(f"span ({start}, {end}) is empty or lies outside the text of {len(text)} characters.")
    return start, end


def _checked_text(text: object) -> str | tuple[str, str]:
    if isinstance(text, str):
        return text
    if isinstance(text, (tuple, list)) and len(text) == 2 and all(isinstance(part, str) for part in text):
        return tuple(text)
    raise ValueError(f"text must be a string or a pair of strings, not {text!r}.")


def _checked_scores(name: str, values: object, n: int) -> np.ndarray:
    scores = np.array(values, dtype=np.float64)
    if scores.shape != (n,):
        raise ValueError(f"{name} has shape {scores.shape} for {n} tokens; it must be ({n},).")
    if not np.isfinite(scores).all():
        bad = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise ValueError(f"{name}[{bad}] is {scores[bad]}; every contribution must be finite.")
    scores.setflags(write=False)
    return scores


def _checked_number(name: str, value: float) -> float:
    value = float(value)
    if not np.isfinite(value):
        raise ValueError(f"{name} is {value}; it must be finite.")
    return value


def _check_places(texts: Sequence[str], offsets: Sequence, sequence_ids: Sequence[int | None]) -> None:
    for i, (span, sequence) in enumerate(zip(offsets, sequence_ids, strict=True)):
        if sequence is not None and not 0 <= sequence < len(texts):
            raise ValueError(f"sequence_ids[{i}]={sequence}, but there are only {len(texts)} texts; give None or 0.")
        if span is not None and sequence is not None and not 0 <= span[0] <= span[1] <= len(texts[sequence]):
            raise ValueError(
                f"offsets[{i}]={span} lies outside its text of {len(texts[sequence])} characters; "
                "give spans (start, end) with 0 <= start <= end <= length, or None."
            )
