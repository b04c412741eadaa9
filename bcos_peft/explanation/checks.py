"""The conditions that explanations, of texts and of generations, must meet before they exist."""

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
    if given["constants"] is not None:
        fields["constants"] = _checked_number("constants", given["constants"])
        total += fields["constants"]
    residual = fields["logit"] - total if given["residual"] is None else given["residual"]
    fields["residual"] = _checked_number("residual", residual)
    if given["stayed"] is not None:
        fields["stayed"] = _checked_number("stayed", given["stayed"])
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


def _checked_generation(given: Mapping[str, Any]) -> dict[str, Any]:
    """Converts the fields of an explained generation to their plain types and fills in the residuals.

    Args:
        given (`Mapping[str, Any]`): Every field of `GenerationExplanation` by name.

    Returns:
        `dict[str, Any]`: The same names with checked values.

    Raises:
        ValueError: If lengths do not match, a number is not finite, or a place lies outside the text.
    """
    fields = dict(given)
    if not isinstance(given["text"], str):
        raise ValueError(f"text must be a string, not {given['text']!r}.")
    tokens = fields["tokens"] = [str(token) for token in given["tokens"]]
    prompt = fields["prompt_length"] = int(given["prompt_length"])
    if not 0 < prompt < len(tokens):
        raise ValueError(f"prompt_length={prompt} of {len(tokens)} tokens; there must be a prompt and an answer.")
    generated = len(tokens) - prompt

    _check_length("token_ids", given["token_ids"], len(tokens), "tokens")
    fields["token_ids"] = [int(token) for token in given["token_ids"]]
    _check_length("special", given["special"], len(tokens), "tokens")
    fields["special"] = [bool(flag) for flag in given["special"]]
    _check_length("offsets", given["offsets"], len(tokens), "tokens")
    fields["offsets"] = [None if place is None else (int(place[0]), int(place[1])) for place in given["offsets"]]
    for i, place in enumerate(fields["offsets"]):
        if place is not None and not 0 <= place[0] <= place[1] <= len(given["text"]):
            raise ValueError(f"offsets[{i}]={place} lies outside the text of {len(given['text'])} characters.")
    fields["offsets"] = hold_marks([given["text"]], fields["offsets"], [0] * len(tokens))

    fields["scores"] = _checked_triangle(given["scores"], generated, prompt, len(tokens))
    for name in ("logits", "probabilities"):
        fields[name] = _checked_row(name, given[name], generated)
    if not ((fields["probabilities"] >= 0) & (fields["probabilities"] <= 1)).all():
        raise ValueError("probabilities must lie between 0 and 1.")
    totals = fields["scores"].sum(1)
    if given["baselines"] is not None:
        fields["baselines"] = _checked_row("baselines", given["baselines"], generated)
        totals = totals + fields["baselines"]
    if given["constants"] is not None:
        fields["constants"] = _checked_row("constants", given["constants"], generated)
        totals = totals + fields["constants"]
    residuals = fields["logits"] - totals if given["residuals"] is None else given["residuals"]
    fields["residuals"] = _checked_row("residuals", residuals, generated)

    for name in ("predicted", "foils"):
        if given[name] is not None:
            _check_length(name, given[name], generated, "generated tokens")
            fields[name] = [int(token) for token in given[name]]
    fields["labels"] = {int(number): str(label) for number, label in given["labels"].items()}
    needed = {*fields["token_ids"][prompt:], *fields["predicted"], *(fields["foils"] or [])}
    if missing := sorted(needed - fields["labels"].keys()):
        raise ValueError(f"labels lacks the text of token {missing[0]}.")
    if given["segments"] is not None:
        fields["segments"] = place_segments(given["text"], given["segments"]) if given["segments"] else None
    return fields


def _checked_triangle(values: Sequence, generated: int, prompt: int, length: int) -> np.ndarray:
    """The square of scores, from rows that may end where the zeros begin."""
    _check_length("scores", values, generated, "generated tokens")
    scores = np.zeros((generated, length))
    for i, row in enumerate(values):
        row = np.asarray(row, dtype=np.float64)
        if row.shape not in ((prompt + i,), (length,)):
            raise ValueError(f"scores[{i}] has shape {row.shape}; there are {prompt + i} tokens before that token.")
        if np.any(row[prompt + i :]):
            raise ValueError(f"scores[{i}] has contributions of tokens that come after; they must be 0.")
        scores[i, : len(row)] = row
    if not np.isfinite(scores).all():
        row, column = (int(index[0]) for index in np.nonzero(~np.isfinite(scores)))
        raise ValueError(f"scores[{row}][{column}] is {scores[row, column]}; every contribution must be finite.")
    scores.setflags(write=False)
    return scores


def _checked_row(name: str, values: Sequence, generated: int) -> np.ndarray:
    row = np.array(values, dtype=np.float64)
    if row.shape != (generated,):
        raise ValueError(f"{name} has shape {row.shape} for {generated} generated tokens; it must be ({generated},).")
    if not np.isfinite(row).all():
        raise ValueError(f"{name} has a value that is not finite.")
    row.setflags(write=False)
    return row


def _check_length(name: str, values: Sequence, wanted: int, of: str) -> None:
    if len(values) != wanted:
        raise ValueError(f"{name} has {len(values)} values for {wanted} {of}; give one for each.")
