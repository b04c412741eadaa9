"""The conditions a `GenerationExplanation` must meet, checked before it exists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bcos_peft.text import hold_marks, place_segments


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

    fields["scores"] = _checked_scores(given["scores"], generated, prompt, len(tokens))
    for name in ("logits", "probabilities"):
        fields[name] = _checked_row(name, given[name], generated)
    if not ((fields["probabilities"] >= 0) & (fields["probabilities"] <= 1)).all():
        raise ValueError("probabilities must lie between 0 and 1.")
    totals = fields["scores"].sum(1)
    if given["baselines"] is not None:
        fields["baselines"] = _checked_row("baselines", given["baselines"], generated)
        totals = totals + fields["baselines"]
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


def _checked_scores(values: Sequence, generated: int, prompt: int, length: int) -> np.ndarray:
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
