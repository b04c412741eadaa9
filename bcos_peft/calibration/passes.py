"""Forward passes over calibration texts: batches, masks, and values flattened to tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bcos_peft.calibration.answers import _reads_answers
from bcos_peft.calibration.data import _collate, _into_batches
from bcos_peft.calibration.running import _is_language_model, _wait_for
from bcos_peft.families import Family


class _Passes:
    """How a model reads texts, `rows`, which are named by their numbers: a batch is a list of these."""

    def __init__(self, model: PreTrainedModel, family: Family, rows: list[dict[str, list]]):
        self.model, self.family, self.rows = model, family, rows
        # Classifiers on decoders read the last token only.
        self._last = family.causal and "ForSequenceClassification" in type(model).__name__
        self._padding = getattr(model.config, "pad_token_id", None)
        self._body = _body_of(model) if _is_language_model(model) else model
        self._uncached = {"use_cache": False} if family.causal or _reads_answers(model, family) else {}

    def batches(self, members: list[int], **size: int) -> list[list[int]]:
        """The texts in batches of like length, of so many `tokens`."""
        if self._padding is None and self._last:  # stock classifiers refuse to pad then
            return [[member] for member in members]
        return [[members[i] for i in batch] for batch in _into_batches([self.rows[i] for i in members], **size)]

    def collate(self, members: list[int]) -> dict[str, Tensor]:
        """The tensors that the model reads."""
        device = self.model.get_input_embeddings().weight.device
        return _collate([self.rows[i] for i in members], self._padding or 0, device)

    def forward(self, batch: dict[str, Tensor]):
        """A pass without cache; of a language model without its head: no layer waits for its large logits."""
        return self._body(**batch, **self._uncached)

    def input_of(self, module: nn.Module, members: list[int]) -> Tensor:
        """What a module reads first."""
        return _wait_for(self.forward, module, set(), (self.collate(members),), {})[0]

    def mask(self, members: list[int], pooled: bool = False, like: Tensor | None = None) -> Tensor:
        """`(texts, length)`, where there are tokens; `pooled`: those that the model's head reads. Of an
        encoder-decoder those of the answer, if what it is `like`, `(texts, length, ...)`, has as many places."""
        batch = self.collate(members)
        answers = batch.get("decoder_attention_mask")
        if like is not None and answers is not None and like.shape[:2] == answers.shape:
            return answers.bool()
        mask = batch["attention_mask"].bool()
        if pooled and self._last:
            final = mask.sum(1, keepdim=True) - 1
            return torch.arange(mask.shape[1], device=mask.device) == final
        return mask

    def flat(self, members: list[int], value: Tensor, pooled: bool = False) -> Tensor:
        """`(tokens, width)` without padding; of values that are one for each text, `(texts, width)`."""
        mask = self.mask(members, pooled, like=value)
        if value.dim() == 3 and value.shape[:2] == mask.shape:
            return value[mask.to(value.device)]
        if value.dim() == 2 and value.shape[0] == mask.numel() and mask.shape[1] > 1:
            return value[mask.flatten().to(value.device)]
        return value.reshape(-1, value.shape[-1])

    def tokens_of(self, members: set[int], batches: list[list[int]], counts: list[int]) -> Tensor:
        """Which of all tokens belong to some texts: bool, in the order of `flat` over all batches.

        Args:
            members (`set[int]`): the texts.
            batches (`list[list[int]]`): what was read.
            counts (`list[int]`): how many values `flat` gave for each; one for each text, perhaps, not for each token.
        """
        flags: list[Tensor] = []
        for batch, count in zip(batches, counts, strict=True):
            wanted = torch.tensor([i in members for i in batch])
            found = self.collate(batch)
            masks = (
                found[name].bool().cpu() for name in ("attention_mask", "decoder_attention_mask") if name in found
            )
            tokens = (wanted[:, None].expand_as(mask)[mask] for mask in masks)
            flags.append(next((flag for flag in tokens if len(flag) == count), wanted))
        return torch.cat(flags)


def _body_of(model: PreTrainedModel) -> PreTrainedModel:
    """A language model without its head; not every class knows its own by the name that it gives."""
    inside = [child for child in model.children() if isinstance(child, PreTrainedModel)]
    return inside[0] if model.base_model is model and len(inside) == 1 else model.base_model
