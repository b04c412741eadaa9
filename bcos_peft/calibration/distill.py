"""What the fits of single layers cannot see: corrections of all layers, learnt together from what the original
predicted."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from bcos_peft.calibration.fit import _matrix
from bcos_peft.calibration.learn import _learn
from bcos_peft.calibration.passes import _Passes
from bcos_peft.calibration.texts import _Texts
from bcos_peft.nn import BcosConv1D


_RANK = 32
_RATE = 0.003  # of entries that are about 1
_BATCH = 256  # tokens
_CHUNK = 256  # tokens whose logits are in memory at a time


class _Correction(nn.Module):
    """A weight, `(out, in)` or transposed, plus a matrix of low rank, times a factor for each row: at first it is the
    weight.

    Of low rank, since some thousand tokens say little about all of a weight, and since gradients and the optimizer's
    averages then need little memory.

    Args:
        weight (`torch.Tensor`): the weight.
        transposed (`bool`): whether it is `(in, out)`.
        generator (`torch.Generator`): of the directions to begin with.

    Example:
        >>> import torch
        >>> weight = torch.ones(3, 4)
        >>> torch.equal(_Correction(weight, False, torch.Generator().manual_seed(0))(weight), weight)
        True

    Source: LoRA (Hu et al., arXiv 2106.09685), section 4.1; DoRA (Liu et al., arXiv 2402.09353), section 4.1, has the
    factors.
    """

    def __init__(self, weight: Tensor, transposed: bool, generator: torch.Generator):
        super().__init__()
        dtype = torch.promote_types(weight.dtype, torch.float32)
        self._transposed = transposed
        self._size = float(weight.detach().to(dtype).square().mean().sqrt())
        outputs, inputs = reversed(weight.shape) if transposed else weight.shape
        rank = min(_RANK, outputs, inputs)
        columns = torch.randn(rank, inputs, generator=generator, dtype=dtype) / math.sqrt(rank)
        self.columns = nn.Parameter(columns.to(weight.device))
        self.rows = nn.Parameter(torch.zeros(outputs, rank, dtype=dtype, device=weight.device))
        self.factors = nn.Parameter(torch.zeros(outputs, 1, dtype=dtype, device=weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        whole = weight.t() if self._transposed else weight
        whole = (whole + self._size * (self.rows @ self.columns)) * (1 + self.factors)
        return (whole.t() if self._transposed else whole).to(weight.dtype)


class _Change(nn.Module):
    """A weight plus another of the same shape, in units of the weight's size: at first it is the weight.

    Example:
        >>> import torch
        >>> weight = torch.ones(3, 4)
        >>> torch.equal(_Change(weight, False, torch.Generator())(weight), weight)
        True
    """

    def __init__(self, weight: Tensor, transposed: bool, generator: torch.Generator):
        super().__init__()
        dtype = torch.promote_types(weight.dtype, torch.float32)
        self._size = float(weight.detach().to(dtype).square().mean().sqrt())
        self.change = nn.Parameter(torch.zeros_like(weight, dtype=dtype))

    def forward(self, weight: Tensor) -> Tensor:
        return (weight + self._size * self.change).to(weight.dtype)


@contextmanager
def _corrections(
    model: nn.Module, layers: list[nn.Module], kind: type[nn.Module] = _Correction
) -> Iterator[list[nn.Module]]:
    """Corrections, of some `kind`, of layers of a model, which are all that needs a gradient while it is entered;
    afterwards they are part of the weights. After an exception the weights are what they were.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(4, 3, bias=False)
        >>> with _corrections(layer, [layer]) as made, torch.no_grad():
        ...     _ = made[0].factors.fill_(1)
        ...     doubled = layer(torch.ones(4))
        >>> torch.equal(layer(torch.ones(4)), doubled)
        True
    """
    generator = torch.Generator().manual_seed(0)
    needed = {parameter: parameter.requires_grad for parameter in model.parameters()}
    made: list[nn.Module] = []
    try:
        for parameter in needed:
            parameter.requires_grad_(False)
        for layer in layers:
            correction = kind(layer.weight, isinstance(layer, BcosConv1D), generator)
            parametrize.register_parametrization(layer, "weight", correction)
            made.append(correction)
        yield made
        for layer, correction in zip(layers, made, strict=True):
            with torch.no_grad():
                original = layer.parametrizations.weight.original
                original.copy_(correction(original))
    finally:
        for layer in layers:
            if parametrize.is_parametrized(layer, "weight"):
                parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
        for parameter, flag in needed.items():
            parameter.requires_grad_(flag)


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


class _Distillation:
    """What a causal language model learns from what it predicted before its conversion.

    Args:
        model ([`~transformers.PreTrainedModel`]): the model, before its conversion.
        passes (`_Passes`): how it reads the texts.
        texts (`_Texts`): the texts; those that choose are held out.
        epochs (`int`): how often it goes over them.

    Source: distillation (Hinton et al., arXiv 1503.02531), section 2, here of a model into itself, without labels.
    """

    def __init__(self, model: PreTrainedModel, passes: _Passes, texts: _Texts, epochs: int):
        self._model, self._passes, self._texts, self._epochs = model, passes, texts, epochs
        self._head = _Head(model)
        self._wanted: dict[int, Tensor] = {}

    def record(self, members: list[int], output) -> None:
        """Keep what a pass of the original over some texts, named by their numbers, brings to its head."""
        self._wanted |= dict(zip(members, self._states(members, output), strict=True))

    def learn(self, layers: list[nn.Module], progress: bool) -> float:
        """Learn corrections of layers that have weights of their own, and make them part of the weights.

        Args:
            layers (`list[torch.nn.Module]`): the layers.
            progress (`bool`): show a progress bar.

        Returns:
            `float`: the divergence from the original on texts held out, as a share of what it was; 1 where nothing was
            better.
        """
        from tqdm.auto import tqdm

        fitted = [i for i in self._texts.fitted if i not in self._texts.chooses]
        learnt, kept = (self._passes.batches(part, tokens=_BATCH) for part in (fitted, sorted(self._texts.chooses)))
        losses = [partial(self._divergence, members) for members in learnt]
        bar = tqdm(total=self._epochs * len(losses), desc="Refining", unit="batch", disable=not progress)
        with bar, _corrections(self._model, layers) as made:
            groups = [{"params": [parameter for each in made for parameter in each.parameters()], "lr": _RATE}]
            return _learn(groups, losses, lambda: sum(map(self._judged, kept)), self._epochs, after_step=bar.update)

    def _judged(self, members: list[int]) -> float:
        return float(self._divergence(members)) * sum(len(self._wanted[i]) for i in members)

    def _divergence(self, members: list[int]) -> Tensor:
        """In nats per token."""
        found = self._states(members, self._passes.forward(self._passes.collate(members)))
        wanted = torch.cat([self._wanted[i] for i in members])
        return self._head.divergence(wanted, torch.cat(found)) / len(wanted)

    def _states(self, members: list[int], output) -> list[Tensor]:
        """The hidden states at the head, `(tokens, width)` for each text."""
        return [row[kept] for row, kept in zip(output[0], self._passes.mask(members), strict=True)]
