"""One forward of a model over several texts, whatever its family asks for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from bcos_peft.attribution import forward_parameters


def _forward(model: nn.Module, rows: list[Tensor], extras: list[dict[str, Tensor]]) -> Tensor:
    """Logits of one batch, `(rows, classes)`: padded, and of a language model those that follow the last token.

    Args:
        model (`torch.nn.Module`): classifier or causal language model.
        rows (`list[torch.Tensor]`): token ids of each text, `(length,)`.
        extras (`list[dict[str, torch.Tensor]]`): further inputs of each, `(length,)`.

    Raises:
        ValueError: the model has outputs per token and does not predict the next one.
    """
    config = getattr(model, "config", None)
    device = next(model.parameters()).device
    lengths = [len(row) for row in rows]
    next_token = predicts_next_token(model)
    # The model's own padding token: by it classifiers on decoders find the last token of a text.
    pad = getattr(config, "pad_token_id", None)
    borrowed = pad is None and config is not None and not next_token and len(rows) > 1
    if borrowed:  # they refuse a batch without one, so one is lent to them that no text has
        pad = _unused(rows)
    inputs = {"input_ids": _padded(rows, 0 if pad is None or pad < 0 else pad)}
    inputs["attention_mask"] = _padded([torch.ones_like(row) for row in rows], 0)
    for name in extras[0]:
        inputs[name] = _padded([extra[name] for extra in extras], 0)
    positions = _positions(model, rows)
    if positions is not None:
        inputs["position_ids"] = positions
    inputs = {name: value.to(device) for name, value in inputs.items()}
    place = torch.tensor(lengths, device=device) - 1
    if next_token:
        inputs["use_cache"] = False
        if "logits_to_keep" in _parameters_of(model):
            # A whole vocabulary for every token would take more memory than all the rest.
            inputs["logits_to_keep"], place = place.unique(return_inverse=True)
    with _padding_token(config, pad) if borrowed else nullcontext():
        output = model(**inputs)
    values = output if isinstance(output, Tensor) else output["logits"] if "logits" in output else None
    if values is None or (values.dim() == 3 and not next_token):
        raise ValueError(
            f"{type(model).__name__} has no single row of logits for a text. Evaluation takes sequence classifiers "
            "and causal language models (AutoModelForSequenceClassification, AutoModelForCausalLM)."
        )
    if values.dim() == 3:
        values = values[torch.arange(len(rows), device=device), place]
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def _positions(model: nn.Module, rows: list[Tensor]) -> Tensor | None:
    """Position ids for texts with padding tokens in them, from a model that counts positions without these.

    RoBERTa and its kin do: where a word is replaced by the padding token, all that follow it would move up.
    """
    tables = [module for name, module in model.named_modules() if name.endswith("position_embeddings")]
    padding = next((table.padding_idx for table in tables if isinstance(table, nn.Embedding)), None)
    if padding is None or not any(bool((row == padding).any()) for row in rows):
        return None
    if "position_ids" not in _parameters_of(model):
        return None
    return _padded([torch.arange(padding + 1, padding + 1 + len(row)) for row in rows], padding)


def _unused(rows: list[Tensor]) -> int:
    """The smallest token id that is in none of the texts: never beyond a vocabulary that they do not exhaust."""
    used = {token for row in rows for token in row.tolist()}
    return next(token for token in range(len(used) + 1) if token not in used)


@contextmanager
def _padding_token(config, token: int) -> Iterator[None]:
    config.pad_token_id = token
    try:
        yield
    finally:
        config.pad_token_id = None


def _padded(rows: list[Tensor], value: int) -> Tensor:
    return nn.utils.rnn.pad_sequence([row.cpu() for row in rows], batch_first=True, padding_value=value)


def _parameters_of(model: nn.Module) -> frozenset[str]:
    """Names that the model's forward takes; those of the model inside, where a wrapper passes everything on."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return forward_parameters(type(inner))


def predicts_next_token(model: nn.Module) -> bool:
    """Whether it is a causal language model."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = getattr(inner, "config", None)
    return bool(hasattr(inner, "can_generate") and inner.can_generate() and not config.is_encoder_decoder)
