"""Fused attention, linear in its values: query, key and mask are held."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from bcos_peft.operations.live import _held


_NAMES = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
# Attention weights for each thread that stay in its cache, and the fewest queries that make a product of matrices.
_CACHED, _FEWEST = 262144, 128


def _attention(mode, func: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Fused attention is linear in its values; query, key and mask are held."""
    given = dict(zip(_NAMES, args, strict=False)) | kwargs
    query, key, value = given.pop("query").detach(), given.pop("key").detach(), given.pop("value")
    options = _held(given)
    alike = query.dim() == 4 and query.shape[0] == key.shape[0] == value.shape[0] and key.shape[1] == value.shape[1]
    if value.requires_grad and value.device.type == "cpu" and alike and not options.get("dropout_p"):
        return _HeldAttention.apply(func, query, key, value, options)
    return func(query, key, value, **options)


class _HeldAttention(torch.autograd.Function):
    # The kernel's own backward pass, which gives the gradients of query and key too, takes up to twice as long.

    @staticmethod
    def forward(ctx, func, query, key, value, options):
        ctx.save_for_backward(query, key, options.get("attn_mask"))
        ctx.causal, ctx.scale = options.get("is_causal", False), options.get("scale")
        return func(query, key, value, **options)

    @staticmethod
    def backward(ctx, grad):
        query, key, mask = ctx.saved_tensors
        (texts, heads, length, _), keys = query.shape, key.shape[2]
        groups = heads // key.shape[1]
        key = key.repeat_interleave(groups, 1) if groups > 1 else key
        mask = None if mask is None else mask.expand(texts, heads, length, keys)
        at_once = _CACHED * torch.get_num_threads() // (heads * keys)
        rows, few = max(_FEWEST, at_once), max(1, at_once // length)
        found = []
        for first, of_texts in zip(range(0, texts, few), grad.split(few), strict=True):
            some, parts = slice(first, first + few), []
            for start, of_rows in zip(range(0, length, rows), of_texts.split(rows, 2), strict=True):
                place = some, slice(None), slice(start, start + rows)
                seen = min(keys, start + rows) if ctx.causal else keys
                held = None if mask is None else mask[place]
                weights = _weights(query[place], key[some, :, :seen], held, start if ctx.causal else None, ctx.scale)
                part = weights.transpose(-1, -2) @ of_rows.to(weights.dtype)
                parts.append(part if seen == keys else pad(part, (0, 0, 0, keys - seen)))
            found.append(sum(parts[1:], parts[0]))
        of_values = (torch.cat(found) if few < texts else found[0]).to(grad.dtype)
        return None, None, None, of_values.unflatten(1, (-1, groups)).sum(2) if groups > 1 else of_values, None


def _weights(query: Tensor, key: Tensor, mask: Tensor | None, start: int | None, scale: float | None) -> Tensor:
    """Attention weights of some queries, of which, where none sees a key after it, the first is number `start`."""
    wide = torch.promote_types(query.dtype, torch.float32)
    scores = (query.to(wide) * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.to(wide).transpose(-1, -2)
    if start is not None:
        after = scores[..., start:]
        after.add_(torch.full(after.shape[-2:], float("-inf")).triu_(1))
    elif mask is None:
        pass
    elif mask.dtype == torch.bool:
        scores.masked_fill_(~mask, float("-inf"))
    else:
        scores.add_(mask)
    return scores.softmax(-1) if mask is None else scores.softmax(-1).nan_to_num_(0.0)  # some may see nothing
