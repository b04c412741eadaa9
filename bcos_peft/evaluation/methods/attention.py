"""Attention weights as explanations: of the last layer, and rolled out over all layers."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bcos_peft.evaluation.methods.base import Method, _Probe


_ORDERS = ("forward", "reversed")


@dataclass(frozen=True, kw_only=True)
class Attention(Method):
    """How much the token that is read attends to each token, in one layer, as the mean over its heads.

    The token that is read is the last one of a decoder, and the first one ([CLS]) of an encoder; of a ModernBERT that
    averages its tokens, all of them. Attention knows no target: the scores are the same for every class, and never
    negative. For the time of the call the model computes attention with its `"eager"` implementation; the hooks by
    which transformers itself collects attention weights stay, as after any call with `output_attentions=True`.

    Args:
        name (`str`): what tables call it.
        layer (`int`, defaults to -1): which layer; the last one by default.

    Raises:
        ValueError: the model gives no attention weights, or has no such layer.

    Example:
        >>> from bcos_peft.evaluation import get_method
        >>> get_method("attention", layer=0).layer
        0
    """

    name: str = "attention"
    layer: int = -1

    def _scores(self, probe: _Probe) -> Tensor:
        layers = _attention_weights(probe)
        if not -len(layers) <= self.layer < len(layers):
            raise ValueError(f"layer={self.layer} does not exist: the model has {len(layers)} layers.")
        return _read(probe, layers[self.layer], layers)


@dataclass(frozen=True, kw_only=True)
class AttentionRollout(Method):
    """Attention, multiplied through the layers: how much of each token reaches the one that is read.

    With `A` a layer's attention as the mean over heads, a layer passes on `½A + ½I`, the half being the residual
    connection's. The output is behind the last layer, so it stands on the left of the product: `A_L ⋯ A_1`.

    Args:
        name (`str`): what tables call it.
        order (`str`, defaults to `"forward"`): `"reversed"` multiplies `A_1 ⋯ A_L`, as published code of B-cos LMs
            does; it is there to compare with figures made that way, and is no rollout.

    Raises:
        ValueError: there is no such order, or the model gives no attention weights.

    Example:
        >>> from bcos_peft.evaluation import get_method
        >>> get_method("attention_rollout", order="reversed").order
        'reversed'

    Source: Abnar & Zuidema (arXiv 2005.00928), section 3.
    """

    name: str = "attention_rollout"
    order: str = "forward"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.order not in _ORDERS:
            raise ValueError(f"order={self.order!r} is unknown; there are: {', '.join(_ORDERS)}.")

    def _scores(self, probe: _Probe) -> Tensor:
        layers = _attention_weights(probe)
        passed = 0.5 * layers + 0.5 * torch.eye(layers.shape[1], dtype=layers.dtype, device=layers.device)
        rolled = passed[0]
        for layer in passed[1:]:
            rolled = layer @ rolled if self.order == "forward" else rolled @ layer
        return _read(probe, rolled, layers)


def _attention_weights(probe: _Probe) -> Tensor:
    """`(layers, length, length)`: each layer's attention weights, as the mean over heads; rows sum to 1."""
    model, question = probe.model, probe.question
    inputs = {"input_ids": question.input_ids, **question.extra}
    inputs = {name: value[None].to(probe.device) for name, value in inputs.items()}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    taken = inspect.signature(_inner(model).forward).parameters
    if "use_cache" in taken:
        inputs["use_cache"] = False
    if "logits_to_keep" in taken:
        inputs["logits_to_keep"] = 1
    with _eager_attention(model), torch.no_grad():
        output = model(**inputs, output_attentions=True, return_dict=True)
    found = (output.get("attentions") if isinstance(output, Mapping) else None) or ()
    if not found or any(layer is None for layer in found):
        raise ValueError(
            f"{type(model).__name__} gives no attention weights: it has no attention, or an implementation of its own "
            "that keeps none. Leave 'attention' and 'attention_rollout' out."
        )
    wide = torch.promote_types(found[0].dtype, torch.float32)
    return torch.stack([layer[0].to(wide).mean(0) for layer in found])


@contextmanager
def _eager_attention(model: nn.Module) -> Iterator[None]:
    """Attention in plain code, which keeps its weights; afterwards the implementation that was set before."""
    inner = _inner(model)
    before = getattr(getattr(inner, "config", None), "_attn_implementation", None)
    if before == "eager" or not hasattr(inner, "set_attn_implementation"):
        yield
        return
    inner.set_attn_implementation("eager")
    try:
        yield
    finally:
        inner.set_attn_implementation(before)
        inner.config._attn_implementation = before  # ModernBERT of transformers 5.0 lets itself be set by nobody else


def _read(probe: _Probe, weights: Tensor, layers: Tensor) -> Tensor:
    """The row of the token that the head reads."""
    if not layers.triu(1).any():  # nobody looks ahead: a decoder
        return weights[-1]
    if getattr(_inner(probe.model).config, "classifier_pooling", None) == "mean":
        return weights.mean(0)
    return weights[0]


def _inner(model: nn.Module) -> nn.Module:
    return model.get_base_model() if hasattr(model, "get_base_model") else model
