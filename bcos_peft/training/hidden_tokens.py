"""Training texts with some tokens hidden, so that a text with tokens missing is nothing new to a model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers.trainer_callback import TrainerCallback

from bcos_peft._utils.arguments import checked_arguments


@checked_arguments
def hide_tokens(input_ids: Tensor, tokenizer, share: float = 0.1, token_id: int | None = None) -> Tensor:
    """Replaces some tokens of each text by the mask token: of one text more, of another less, `share` in the mean.

    The share of a text is drawn evenly from 0 to `2 * share`, and each of its tokens is hidden with that probability.
    Special tokens are never hidden. Draws come from torch's generator of the ids' device, like those of dropout.

    Args:
        input_ids (`torch.Tensor`): token ids of shape `(batch, sequence)`.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): says which ids are special, and the mask token.
        share (`float`, defaults to 0.1): mean share of hidden tokens, above 0 and at most 0.5.
        token_id (`int`, *optional*): what hides them. Default: the tokenizer's mask token.

    Returns:
        `torch.Tensor`: new ids of the same shape.

    Raises:
        ValueError: `share` is out of range, `input_ids` has another shape, or the tokenizer has no mask token and
            `token_id` is not given.

    Example:
        >>> from transformers import AutoTokenizer
        >>> from bcos_peft.training import hide_tokens
        >>> tokenizer = AutoTokenizer.from_pretrained("google-bert/bert-base-uncased")
        >>> inputs = tokenizer(["A gripping film.", "Dull."], padding=True, return_tensors="pt")
        >>> hide_tokens(inputs["input_ids"], tokenizer, share=0.25).shape == inputs["input_ids"].shape
        True

    Source: texts with tokens missing are what comprehensiveness and sufficiency (ERASER, Section 4) ask a model about;
    training on them follows ROAR's concern (Hooker et al., 2019) that such texts are unlike those of the training.
    """
    if not 0 < share <= 0.5:
        raise ValueError(f"share must be above 0 and at most 0.5, got {share!r}. To hide nothing, leave it out.")
    if input_ids.dim() != 2:
        raise ValueError(f"input_ids must have the shape (batch, sequence), got {tuple(input_ids.shape)}.")
    token_id = tokenizer.mask_token_id if token_id is None else token_id
    if token_id is None:
        raise ValueError(
            f"token_id is not given, and {type(tokenizer).__name__} has no mask token to hide others behind. Name "
            "one: token_id=tokenizer.unk_token_id, say, or tokenizer.pad_token_id."
        )
    special = torch.tensor(tokenizer.all_special_ids, device=input_ids.device)
    rates = 2 * share * torch.rand(len(input_ids), 1, device=input_ids.device)
    hidden = torch.rand(input_ids.shape, device=input_ids.device) < rates
    return input_ids.masked_fill(hidden & ~torch.isin(input_ids, special), token_id)


class HideTokensCallback(TrainerCallback):
    """Hides some tokens of the training texts: `Trainer(callbacks=[HideTokensCallback(tokenizer)])`.

    Explanations are often judged by hiding tokens and looking at what the prediction does. A model that has never seen
    such texts answers them by chance. Evaluation during the training sees whole texts: tokens are hidden only in the
    batches of the training's own loader, and the model is left as it is.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): as for [`hide_tokens`].
        share (`float`, defaults to 0.1): mean share of hidden tokens.
        token_id (`int`, *optional*): what hides them. Default: the mask token.
        start (`float`, defaults to 0.0):
            The share of the training's steps that goes by before it begins to hide, from 0 to below 1. Batches that
            the loader has prepared by then are whole, a few at most. A training that is resumed knows where it is.

    Raises:
        ValueError: as [`hide_tokens`], or `start` is out of range; while training, a batch without `input_ids`, or
            batches not of a `DataLoader`.

    Example:
        >>> from transformers import AutoTokenizer
        >>> from bcos_peft import HideTokensCallback
        >>> tokenizer = AutoTokenizer.from_pretrained("google-bert/bert-base-uncased")
        >>> HideTokensCallback(tokenizer, share=0.1, start=2 / 3).share  # in the last third
        0.1
    """

    @checked_arguments
    def __init__(self, tokenizer, share: float = 0.1, token_id: int | None = None, start: float = 0.0):
        hide_tokens(torch.zeros(1, 0, dtype=torch.long), tokenizer, share, token_id)  # refuses what it would refuse
        if not 0 <= start < 1:
            raise ValueError(f"start must be at least 0 and below 1, a share of the training's steps, got {start!r}.")
        self.tokenizer, self.share, self.token_id, self.start = tokenizer, share, token_id, start
        # In shared memory: processes that collate for a DataLoader see it change.
        self._begun = torch.tensor(False).share_memory_()

    def on_train_begin(self, args, state, control, train_dataloader=None, **kwargs):
        """Begin to hide. The loader of this training does it, so that nothing stays behind if it is interrupted."""
        loader = _collating(train_dataloader)
        if not isinstance(loader, DataLoader):
            raise ValueError(
                f"HideTokensCallback hides tokens where a DataLoader collates them, and train_dataloader is a "
                f"{type(loader).__name__}. Call hide_tokens on its batches instead, and leave the callback out."
            )
        self._look(state)
        loader.collate_fn = _Hiding(_whole(loader.collate_fn), self)

    def on_step_end(self, args, state, control, **kwargs):
        """Begin to hide where the time has come."""
        self._look(state)

    def on_train_end(self, args, state, control, train_dataloader=None, **kwargs):
        """Hide no longer, should the loader be used again."""
        loader = _collating(train_dataloader)
        loader.collate_fn = _whole(loader.collate_fn)

    def _look(self, state) -> None:
        self._begun.fill_(self.start == 0 or state.global_step >= self.start * state.max_steps)


class _Hiding:
    """A collator, then [`hide_tokens`]. A class, since workers of a `DataLoader` may get it pickled."""

    def __init__(self, collate, callback: HideTokensCallback):
        self.collate, self.begun = collate, callback._begun
        self.options = {"tokenizer": callback.tokenizer, "share": callback.share, "token_id": callback.token_id}

    def __call__(self, rows):
        batch = self.collate(rows)
        if not isinstance(batch, Mapping) or batch.get("input_ids") is None:
            raise ValueError("HideTokensCallback hides token ids, and this batch has no input_ids; leave it out.")
        if self.begun:
            batch["input_ids"] = hide_tokens(batch["input_ids"], **self.options)
        return batch


def _whole(collate):
    """A collator without the hiding of a training that was interrupted."""
    return collate.collate if isinstance(collate, _Hiding) else collate


def _collating(loader):
    """The loader that collates: accelerate's wraps another."""
    from accelerate.data_loader import DataLoaderAdapter  # needed for training alone, as the Trainer needs it

    return loader.base_dataloader if isinstance(loader, DataLoaderAdapter) else loader
