"""Left padding is moved to the right before a model sees it, and what comes out is moved back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from bcos_peft.attribution.linear_map import forward_parameters
from bcos_peft.text import Encoding


def collate(encodings: Sequence[Encoding], model: PreTrainedModel, tokenizer) -> dict[str, Tensor]:
    """Texts as one batch, padded on the right, on the model's device.

    Args:
        encodings (`Sequence[Encoding]`): of the texts.
        model ([`~transformers.PreTrainedModel`]): what reads them.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): of the model.

    Returns:
        `dict[str, torch.Tensor]`: `input_ids`, `attention_mask` and what else the model takes, each `(texts, length)`.

    Example:
        >>> from transformers import AutoTokenizer, BertConfig, BertModel
        >>> from bcos_peft.attribution import collate
        >>> from bcos_peft.text import encode
        >>> tokenizer = AutoTokenizer.from_pretrained("google-bert/bert-base-uncased")
        >>> small = BertConfig(num_hidden_layers=1, hidden_size=16, num_attention_heads=2, intermediate_size=32)
        >>> texts = [encode(text, tokenizer, None, False) for text in ("A film.", "A film and a film.")]
        >>> batch = collate(texts, BertModel(small), tokenizer)
        >>> batch["input_ids"].shape == batch["attention_mask"].shape
        True
    """
    # The model's own padding token: by it classifiers on decoders find the last token of a text.
    known = getattr(model.config, "pad_token_id", None), tokenizer.pad_token_id, 0
    pad = next(token for token in known if token is not None and token >= 0)
    # A tokenizer may give more than its model takes (token types, to a model without).
    taken = forward_parameters(type(model))
    length = max(len(encoding.input_ids) for encoding in encodings)
    rows: dict[str, list] = {"input_ids": [], "attention_mask": []}
    for encoding in encodings:
        missing = length - len(encoding.input_ids)
        rows["input_ids"].append(encoding.input_ids + [pad] * missing)
        rows["attention_mask"].append([1] * (length - missing) + [0] * missing)
        for name, values in encoding.extra.items():
            if name in taken:
                rows.setdefault(name, []).append(values + [0] * missing)
    return {name: torch.tensor(values, device=model.device) for name, values in rows.items()}


def _arrange(inputs: dict[str, Any], causal: bool, padding: int | None = None) -> tuple[dict[str, Any], Tensor | None]:
    """Inputs such that a text's output does not depend on its padding: left padding is rolled to the right.

    Encoders are read from their first token on, and positions are counted from there. A decoder never sees what comes
    after a token, so padding on the right need not be masked; then no row of the attention is empty, which stock
    models answer with NaN in float64.

    Args:
        inputs: of the model.
        causal: no token sees those after it.
        padding: the token that tells a head where a text ends; other padding is replaced by it.

    Returns:
        The inputs that are not None, and by how many places each row was rolled to the left (None: not at all).
    """
    inputs = {name: value for name, value in inputs.items() if value is not None}
    shift = _left_padding(inputs.get("attention_mask"))
    if shift is not None:
        shape = inputs["input_ids"].shape
        inputs = {
            name: _roll(value, -shift) if _is_per_token(name, value, shape) else value
            for name, value in inputs.items()
        }
    if padding is not None and "attention_mask" in inputs:
        inputs["input_ids"] = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, padding)
    if causal and "attention_mask" in inputs and _only_trailing_padding(inputs["attention_mask"]):
        inputs["attention_mask"] = torch.ones_like(inputs["attention_mask"])
    return inputs, shift


def _is_per_token(name: str, value: Any, shape: torch.Size) -> bool:
    return isinstance(value, Tensor) and value.shape == shape and not name.startswith("decoder_")


def _looks_ahead(config: PretrainedConfig) -> bool:
    """Whether a decoder's config lets tokens see those after them, as embedding models made of decoders do."""
    return not getattr(config, "is_causal", True) or bool(getattr(config, "use_bidirectional_attention", False))


def _only_trailing_padding(attention_mask: Tensor) -> bool:
    seen = (attention_mask != 0).int()
    return bool((seen.diff(dim=1) <= 0).all())


def _left_padding(attention_mask: Tensor | None) -> Tensor | None:
    """Number of padding tokens on the left of each row, `(batch,)`; None if no row has any."""
    if attention_mask is None:
        return None
    count = (attention_mask != 0).int().argmax(dim=1)
    return count if bool(count.any()) else None


def _roll(values: Tensor, shift: Tensor) -> Tensor:
    """Roll the sequence dimension by a number of places for each row.

    Args:
        values: `(batch, sequence)`, `(batch, sequence, classes)`, or `(batch, targets, sequence)` with `shift` of
            shape `(batch, 1)`.
        shift: places to the right, `(batch,)`.
    """
    dim = shift.dim()
    length = values.shape[dim]
    index = (torch.arange(length, device=values.device) - shift.to(values.device).unsqueeze(-1)) % length
    index = index.view(*index.shape, *[1] * (values.dim() - dim - 1))
    return values.gather(dim, index.expand(values.shape))
