"""Tokens that were added before an adapter was trained: their rows are in the adapter's file, and not in its base."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel

from bcos_peft.attribution import probe_inputs
from bcos_peft.models import find_bcos_model


def _resize(base: PreTrainedModel, count: int | None) -> range:
    """Give a base that was just loaded as many tokens as the adapter was trained with.

    Args:
        base: plain, or a B-cos model.
        count: how many; None for an adapter that does not say.

    Returns:
        `range`: the new tokens.
    """
    before = base.config.get_text_config().vocab_size
    if count is None or count == before:
        return range(0)
    base.resize_token_embeddings(count, mean_resizing=False)
    return range(before, count)


def _mark_rows(base: PreTrainedModel, added: range) -> None:
    """Make the rows of new tokens, which are random, no numbers: should the adapter not bring them, it shows."""
    for layer in (base.get_input_embeddings(), base.get_output_embeddings()):
        if added and layer is not None:
            with torch.no_grad():
                layer.weight[added.start :] = torch.nan


def _check_rows(model: nn.Module, added: range) -> None:
    """Refuse an adapter that has not brought the rows of new tokens.

    Raises:
        ValueError: some are missing.
    """
    if not added:
        return
    embeddings = model.get_input_embeddings()
    ids = torch.tensor([added], device=embeddings.weight.device)
    with torch.no_grad():
        known = bool(embeddings(ids).isfinite().all())
        inputs = dict.fromkeys(probe_inputs(find_bcos_model(model)).keys() - {"attention_mask"}, ids[:, :1])
        known = known and bool(model(**inputs).to_tuple()[0].isfinite().all())
    if not known:
        raise ValueError(
            f"The adapter was trained with {len(added)} tokens that its base does not have, and was saved without "
            "their rows. Save it again with peft's save_pretrained(..., save_embedding_layers=True); or save the base "
            "that has them, and pass it: bcos_peft.load(path, base=folder)."
        )
