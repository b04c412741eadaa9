"""Learning by gradient within a calibration: deterministic, and only what is better on texts held out is kept."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


_WARM_UP = 0.1


def _learn(
    groups: list[dict[str, Any]],
    losses: list[Callable[[], Tensor]],
    held_out: Callable[[], float],
    epochs: int,
    look: int = 1,
    after_step: Callable[[], object] = lambda: None,
) -> float:
    """Adam on some parameters, in place. They end with the values that were best on what is held out, which may be
    those they began with.

    Args:
        groups (`list[dict]`): as for an optimizer of torch, each with `params` and `lr`.
        losses (`list[Callable]`): one for each batch, in an order that is the same each time; the random state of the
            process is left alone.
        held_out (`Callable`): the error on what is held out.
        epochs (`int`): how often to go over the batches.
        look (`int`): epochs between two looks at what is held out.
        after_step (`Callable`): called after each batch.

    Returns:
        `float`: the error on what is held out, as a share of what it was; 1 where nothing was better.

    Example:
        >>> import torch
        >>> x = torch.ones(1, requires_grad=True)
        >>> groups, batches = [{"params": [x], "lr": 0.1}], [lambda: x.square().sum()] * 5
        >>> _learn(groups, batches, lambda: float(x.abs()), epochs=4) < 0.1
        True
    """
    parameters = [parameter for group in groups for parameter in group["params"]]
    with torch.no_grad():
        first = least = held_out()
    if not losses or not parameters or not 0 < first < math.inf:
        return 1.0
    steps = epochs * len(losses)
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    generator = torch.Generator().manual_seed(0)
    best = [parameter.detach().clone() for parameter in parameters]
    for epoch in range(1, epochs + 1):
        for i in torch.randperm(len(losses), generator=generator).tolist():
            with torch.enable_grad():
                losses[i]().backward()
            optimizer.step(), schedule.step(), optimizer.zero_grad()
            after_step()
        if epoch % look == 0 or epoch == epochs:
            with torch.no_grad():
                now = held_out()
            if now < least:
                least, best = now, [parameter.detach().clone() for parameter in parameters]
    with torch.no_grad():
        for parameter, value in zip(parameters, best, strict=True):
            parameter.copy_(value)
    return least / first


def _rate(step: int, steps: int) -> float:
    """A warm-up, then half a cosine."""
    return min(1.0, (step + 1) / (_WARM_UP * steps)) * 0.5 * (1 + math.cos(math.pi * step / steps))
