"""What closed forms cannot see: the layers of a block are trained together, towards what the stock block gave."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from bcos_peft.calibration.learn import _learn
from bcos_peft.calibration.running import _Call, _run_block


# How far an entry of a weight goes in one step, about, as a share of the root mean square of all.
_RATE = 0.01
_LOOK = 2  # passes between two looks at what was held out


@dataclass(frozen=True)
class _Batch:
    """What a block is called with, the hidden states that are wanted `(texts, length, width)`, and two masks
    `(texts, length)`, bool: the tokens to fit on, and those that are held out.

    Example:
        >>> import torch
        >>> _Batch(((torch.zeros(1, 2, 4),), {}), torch.zeros(1, 2, 4), torch.ones(1, 2), torch.zeros(1, 2)).call[1]
        {}
    """

    call: _Call
    wanted: Tensor
    fitted: Tensor
    held_out: Tensor


def _refine(block: nn.Module, names: list[str], batches: list[_Batch], epochs: int, dtype: torch.dtype) -> float:
    """Train weights of a block, in place, towards the hidden states that are wanted. The error is the mean of the
    tokens' squared errors, each as a share of the token's squared length. What is kept are the weights with which it
    was smallest on the tokens held out, and these may be the ones it began with.

    Args:
        block (`torch.nn.Module`): in evaluation mode. Adam goes over the batches in an order that is the same each
            time; the random state of the process is left alone.
        names (`list[str]`): which of its parameters.
        batches (`list[Batch]`): the data.
        epochs (`int`): how often.
        dtype (`torch.dtype`): of the weights while they are trained; the block computes in its own.

    Returns:
        `float`: the error on tokens held out as a share of what it was; 1 where nothing was better.

    Example:
        >>> import torch
        >>> generator = torch.Generator().manual_seed(0)
        >>> x, halves = torch.randn(8, 6, 4, generator=generator), torch.arange(48).reshape(8, 6) % 2 == 0
        >>> block = torch.nn.Linear(4, 4, bias=False)
        >>> _ = torch.nn.init.normal_(block.weight, mean=0.2, std=0.1, generator=generator)
        >>> _refine(block, ["weight"], [_Batch(((x,), {}), x, halves, ~halves)], 80, torch.float32) < 0.9
        True

    Source: block reconstruction (BRECQ, arXiv 2102.05426, section 3.2), here of all weights and without their Hessian.
    """
    parameters = {name: parameter.detach() for name, parameter in block.named_parameters()}
    mine = {name: parameters[name].to(dtype, copy=True).requires_grad_() for name in names}

    def error(batch: _Batch, mask: Tensor) -> Tensor:
        weights = parameters | {name: weight.to(parameters[name].dtype) for name, weight in mine.items()}
        found, wanted = _run_block(block, *batch.call, weights=weights).to(dtype), batch.wanted.to(dtype)
        lengths = wanted.square().sum(-1).clamp_min(torch.finfo(dtype).tiny)
        return ((found - wanted).square().sum(-1) / lengths)[mask].sum()

    def held_out() -> float:
        return float(sum(error(batch, batch.held_out).double() for batch in batches))

    def loss(batch: _Batch) -> Tensor:
        return error(batch, batch.fitted) / batch.fitted.sum()

    groups = [{"params": [w], "lr": _RATE * float(w.detach().square().mean().sqrt())} for w in mine.values()]
    losses = [partial(loss, batch) for batch in batches if batch.fitted.any()]
    ratio = _learn(groups, losses, held_out, epochs, look=_LOOK)
    with torch.no_grad():
        for name, weight in mine.items():
            parameters[name].copy_(weight)
    return ratio
