"""What must hold of a model and its token ids before anything is explained."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import TransformersKwargs

from bcos_peft.attribution.linear_map import forward_parameters
from bcos_peft.discovery import vocabulary_of
from bcos_peft.models import family_of


_PER_TOKEN = ("token_type_ids", "position_ids")


def _check_adapters(model: nn.Module) -> None:
    """peft's wrapper may put virtual tokens in front of the input."""
    configs = getattr(model, "peft_config", None)
    for config in configs.values() if isinstance(configs, dict) else ():
        if getattr(config, "is_prompt_learning", False):
            raise ValueError(
                f"{config.peft_type.value} puts virtual tokens in front of the input. They contribute to the logit "
                "and belong to no token, so contributions would not sum to it. Tune with peft.LoraConfig instead, or "
                "pass the model inside: attribute(model.get_base_model(), ...) explains it without its prompt."
            )


def check_baseline(baseline: str) -> None:
    """Raises `ValueError` for what is no baseline."""
    if baseline not in ("zero", "average"):
        raise ValueError(f"baseline must be 'zero' or 'average', got {baseline!r}.")


def _check_inputs(model, input_ids: Tensor, attention_mask: Tensor | None) -> None:
    """Raises `TypeError` or `ValueError` for token ids that the model cannot read."""
    if not isinstance(input_ids, Tensor) or input_ids.is_floating_point() or input_ids.dtype == torch.bool:
        raise TypeError(f"input_ids must be a tensor of integers, (batch, sequence), got {_describe(input_ids)}.")
    if input_ids.dim() != 2 or 0 in input_ids.shape:
        raise ValueError(
            "input_ids must have shape (batch, sequence) with at least one row and one token, got "
            f"{tuple(input_ids.shape)}."
        )
    if attention_mask is not None:
        if not isinstance(attention_mask, Tensor):
            raise TypeError(f"attention_mask must be a tensor, got {type(attention_mask).__name__}.")
        if attention_mask.shape != input_ids.shape:
            raise ValueError(
                f"attention_mask must have the shape of input_ids, {tuple(input_ids.shape)}, got "
                f"{tuple(attention_mask.shape)}."
            )
        empty = (attention_mask.sum(-1) == 0).nonzero().flatten().tolist()
        if empty:
            raise ValueError(f"attention_mask leaves no token in row {empty[0]}: there is nothing to explain.")
    vocabulary = vocabulary_of(model)
    least, most = map(int, input_ids.aminmax())
    if least < 0 or most >= vocabulary:
        wrong = least if least < 0 else most
        raise ValueError(f"input_ids has the id {wrong}, outside the vocabulary of {vocabulary} tokens.")
    limit = max_tokens(model)
    if limit is not None and input_ids.shape[1] > limit:
        raise ValueError(
            f"input_ids has {input_ids.shape[1]} tokens, but the model has position embeddings for {limit}. "
            "Truncate the text, or explain it in pieces."
        )


def _check_names(model, names: Iterable[str], own: Collection[str]) -> None:
    """Refuses an argument that is neither one of `own` nor read by the model: forwards take any and say nothing."""
    read = forward_parameters(type(model)) | forward_parameters(type(model.base_model))
    known = {*own, *read, *TransformersKwargs.__annotations__} - {"self", "args", "kwargs"}
    for name in names:
        if name not in known:
            (close, *_) = get_close_matches(name, known, n=1) or [None]
            hint = f" Did you mean {close!r}?" if close else ""
            raise TypeError(f"{name!r} is no argument, and no input of {type(model).__name__}.{hint}")


def _spread(inputs: dict[str, Any], shape: torch.Size) -> dict[str, Any]:
    """Inputs of which those that say something of every token are `(batch, sequence)`: a single row is that of all.

    Raises `ValueError` for those of another shape.
    """
    found = dict(inputs)
    for name in _PER_TOKEN:
        value = found.get(name)
        if value is None:
            continue
        if not isinstance(value, Tensor) or value.shape not in (shape, (1, shape[1])):
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"{name} must be a tensor of the shape of input_ids, {tuple(shape)}, got {got}.")
        found[name] = value.expand(shape)
    return found


def max_tokens(model) -> int | None:
    """How many tokens a model has position embeddings for; None when its positions are relative."""
    path = family_of(model).parts.get("position")
    if path is None:
        return None
    try:
        table = model.base_model.get_submodule(path)
    except AttributeError:  # a family's models do not all have one
        return None
    if not isinstance(table, nn.Embedding) or not hasattr(model.config, "max_position_embeddings"):
        return table.weight.shape[0]
    # RoBERTa counts positions from behind the padding index; OPT's table is two rows longer than its config says.
    rows = table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
    return min(rows, model.config.max_position_embeddings)


def refuses_padding(model) -> bool:
    """Whether stock code refuses a batch: without a padding token it cannot tell where a text ends."""
    return _reads_last_token(model) and _padding_token(model) is None


def _padding_token(model) -> int | None:
    """The config's padding token, if it is one: some have -1, or a token that is yet to be added."""
    token = getattr(model.config, "pad_token_id", None)
    return token if token in range(vocabulary_of(model)) else None


def _reads_last_token(model) -> bool:
    """Whether a head reads the last token of a text, which it takes to be the last that is not the padding token."""
    return family_of(model).causal and type(model).__name__.endswith("ForSequenceClassification")


def _describe(value) -> str:
    return f"a tensor of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
