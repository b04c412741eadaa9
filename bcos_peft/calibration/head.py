"""What the head of a causal language model makes of hidden states, and how far that is from what the original did."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from bcos_peft.calibration.fit import _matrix


_CHUNK = 256  # tokens whose logits are in memory at a time


class _Head:
    """The head of a causal language model, which no calibration changes.

    Args:
        model ([`~transformers.PreTrainedModel`]): the model, before its conversion.

    Example:
        >>> import torch
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> small = LlamaConfig(num_hidden_layers=1, hidden_size=16, num_attention_heads=2, intermediate_size=32)
        >>> head, hidden = _Head(LlamaForCausalLM(small)), torch.ones(3, 16)
        >>> float(head.divergence(hidden, hidden)) < 1e-4 < float(head.divergence(hidden, -hidden))
        True
    """

    def __init__(self, model: PreTrainedModel):
        self._model = model
        self._bias = model.get_output_embeddings().bias
        self._cap = getattr(model.config, "final_logit_softcapping", None)

    def divergence(self, wanted: Tensor, found: Tensor) -> Tensor:
        """`KL(original ‖ converted)` of the next token, in nats, summed over tokens; differentiable in `found`.

        Args:
            wanted (`torch.Tensor`): `(tokens, width)`, the hidden states at the original's head.
            found (`torch.Tensor`): `(tokens, width)`, those at the converted model's.

        Returns:
            `torch.Tensor`: a number.
        """
        parts = zip(wanted.split(_CHUNK), found.split(_CHUNK), strict=True)
        # Of logits, which are large, a part at a time is in memory, in the backward pass too.
        return sum(checkpoint(self._part, theirs, mine, use_reentrant=False) for theirs, mine in parts)

    def _part(self, theirs: Tensor, mine: Tensor) -> Tensor:
        head = self._model.get_output_embeddings()
        with torch.no_grad():
            target = self._log_probabilities(nn.functional.linear(theirs, _matrix(head).to(theirs), self._bias))
        guess = self._log_probabilities(head(mine))
        return nn.functional.kl_div(guess, target, log_target=True, reduction="sum")

    def _log_probabilities(self, logits: Tensor) -> Tensor:
        logits = logits.float()
        return (logits if self._cap is None else self._cap * torch.tanh(logits / self._cap)).log_softmax(-1)
