"""From prompts to generated token ids, with `model.generate`."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from numbers import Integral
from typing import Any

import torch

from bcos_peft.attribution import max_tokens, writes_answers
from bcos_peft.explanation.prompts import _Prompt
from bcos_peft.text import plain


def _continuations(model, tokenizer, prompts: list[_Prompt], options: dict[str, Any]) -> list[list[list[int]]]:
    """For each prompt the generated ids, of each returned sequence, without padding.

    Args:
        model: a converted model.
        tokenizer: its tokenizer.
        prompts: they share one call of `model.generate`, padded on the left.
        options: its arguments.

    Raises:
        ValueError: the model generated no token, or more than it has positions for.
    """
    if writes_answers(model):
        return _answers(model, tokenizer, prompts, options)
    device, options = model.device, _with_padding(options, model, tokenizer)
    length = max(len(one.encoding.input_ids) for one in prompts)
    pad = _setting(options, model, "pad_token_id")
    missing = [length - len(one.encoding.input_ids) for one in prompts]
    rows = [[pad] * n + one.encoding.input_ids for n, one in zip(missing, prompts, strict=True)]
    mask = [[0] * n + [1] * (length - n) for n in missing]
    with _evaluating(model), _within_positions(model, length):
        output = model.generate(
            input_ids=torch.tensor(rows, device=device),
            attention_mask=torch.tensor(mask, device=device),
            **options,
        )
    sequences = getattr(output, "sequences", output)[:, length:].tolist()
    each = len(sequences) // len(prompts)
    found = [_without_padding(row, options, model) for row in sequences]
    if not all(found):
        raise ValueError("The model generated no token; give a larger max_new_tokens.")
    return [found[start : start + each] for start in range(0, len(found), each)]


def _start_of_answers(model) -> int:
    """The token that an encoder-decoder's answers start with."""
    own = (getattr(source, "decoder_start_token_id", None) for source in (model.generation_config, model.config))
    start = next((token for token in own if token is not None), None)
    if start is None:
        raise ValueError(
            f"{type(model).__name__} does not say which token starts an answer: set "
            "model.generation_config.decoder_start_token_id."
        )
    return start[0] if isinstance(start, list) else start


def _answers(model, tokenizer, prompts: list[_Prompt], options: dict[str, Any]) -> list[list[list[int]]]:
    """What an encoder-decoder writes of each source, padded on the right; without the token that starts an answer."""
    options = _with_padding(options, model, tokenizer)
    sources = [one.encoding.input_ids[: one.source] for one in prompts]
    length, pad = max(map(len, sources)), _setting(options, model, "pad_token_id")
    rows = [ids + [pad] * (length - len(ids)) for ids in sources]
    mask = [[1] * len(ids) + [0] * (length - len(ids)) for ids in sources]
    with _evaluating(model), _within_positions(model, length):
        output = model.generate(
            input_ids=torch.tensor(rows, device=model.device),
            attention_mask=torch.tensor(mask, device=model.device),
            **options,
        )
    sequences = getattr(output, "sequences", output)[:, 1:].tolist()
    each = len(sequences) // len(prompts)
    found = [_without_padding(row, options, model) for row in sequences]
    if not all(found):
        raise ValueError("The model generated no token; give a larger max_new_tokens.")
    return [found[start : start + each] for start in range(0, len(found), each)]


def _with_padding(options: dict[str, Any], model, tokenizer) -> dict[str, Any]:
    """Options with a token for padding. Where something else than a token can end a text too, padding is none of the
    tokens that can: else a text that was stopped would seem to end with one."""
    pad = _setting(options, model, "pad_token_id")
    ends = _ends(options, model) if _stops(options, model) else set()
    if pad is not None and pad not in ends:
        return options
    known = (tokenizer.pad_token_id, *((tokenizer.unk_token_id,) if ends else (tokenizer.eos_token_id,)))
    pad = next(token for token in (*known, *range(len(ends) + 1)) if token is not None and token not in ends)
    options = {name: value for name, value in options.items() if name != "pad_token_id"}
    if options.get("generation_config") is None:
        return {**options, "pad_token_id": pad}
    config = copy.deepcopy(options["generation_config"])  # transformers wants one of the two, not both
    config.pad_token_id = pad
    return {**options, "generation_config": config}


def _without_padding(ids: list[int], options: dict[str, Any], model) -> list[int]:
    """What follows the end of a text is padding, be it the same token."""
    ends = _ends(options, model)
    found = [i for i, token in enumerate(ids) if token in ends]
    if found:
        return ids[: found[0] + 1]
    pad = _setting(options, model, "pad_token_id")
    if _stops(options, model):
        while ids and ids[-1] == pad:
            ids = ids[:-1]
    return ids


def _ends(options: Mapping[str, Any], model) -> set[int]:
    """The tokens that end a text."""
    ends = _setting(options, model, "eos_token_id")
    return set() if ends is None else {*_as_list(ends, "eos_token_id")}


def _stops(options: Mapping[str, Any], model) -> bool:
    """Whether something else than a token can end a text."""
    return any(_setting(options, model, name) for name in ("stop_strings", "stopping_criteria", "max_time"))


def _as_list(value: Any, name: str) -> list:
    """One value or several, as a list; `ValueError` for an empty one."""
    value = plain(value)
    if isinstance(value, (str, Integral)) or not isinstance(value, Sequence):
        return [value]
    if not value:
        raise ValueError(f"{name} is an empty list; give at least one token, or leave it out.")
    return list(value)


def _setting(options: Mapping[str, Any], model, name: str) -> Any:
    """A setting of `generate`: as given, of the generation config that was given, or of the model's."""
    if name in options:
        return options[name]
    own = getattr(options.get("generation_config"), name, None)
    return getattr(model.generation_config, name, None) if own is None else own


@contextmanager
def _within_positions(model, length: int):
    """A text that outgrows the model's table of positions ends in an error that says so."""
    try:
        yield
    except IndexError as error:
        limit = max_tokens(model)
        if limit is None:
            raise
        raise ValueError(
            f"The text grew beyond the {limit} positions that the model has: the prompt has {length} tokens. Pass "
            f"max_new_tokens={max(limit - length, 0)} or less, or shorten the prompt."
        ) from error


@contextmanager
def _evaluating(model):
    """Generation without dropout, whatever the mode; the model comes back as it was."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
