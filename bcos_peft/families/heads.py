"""Heads whose stock forward calls a saturating activation as a function, where no module can be taken out."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode


class _WithoutSaturation(TorchFunctionMode):
    """Inside, tanh and ReLU give back what they are given."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (torch.tanh, torch.Tensor.tanh, torch.relu, torch.Tensor.relu, nn.functional.relu):
            return args[0]
        return func(*args, **(kwargs or {}))


class HeadWithoutActivation(nn.Module):
    """A classification head, or pooler, whose forward is the stock one without its tanh or ReLU.

    It takes the place of a stock head with `BcosConfig(pooler_activation="identity")`.

    Example:
        >>> from bcos_peft.families import HeadWithoutActivation
        >>> issubclass(HeadWithoutActivation, torch.nn.Module)
        True
    """

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with _WithoutSaturation():
            return self._bcos_stock_class.forward(self, *args, **kwargs)
