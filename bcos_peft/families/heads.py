"""Heads whose stock forward calls an activation as a function, where no hook can reach it.

Each class here owns the forward of such a head. `pooler_activation` is set from `BcosConfig` at conversion.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bcos_peft.nn import DynamicLinear, hold_ratio


class FunctionalActivation(DynamicLinear):
    """A module that calls activations as functions: the base of classes in `Family.replacements`.

    Example:
        >>> import torch
        >>> from bcos_peft.families import FunctionalActivation
        >>> class Squash(FunctionalActivation, torch.nn.Module):
        ...     def forward(self, x):
        ...         return self.activate(torch.tanh, x)
        >>> squash, x = Squash(), torch.tensor([0.5], requires_grad=True)
        >>> squash.explaining = True
        >>> y = squash(x)
        >>> y.backward()
        >>> bool(torch.allclose(x.grad * x, y))
        True
    """

    pooler_activation: str = "identity"

    def activate(self, function, x: Tensor) -> Tensor:
        """`function(x)`, explained as `x · (function(x)/x)`; `function(0)` must be 0."""
        y = function(x)
        return hold_ratio(x, y) if self.explaining else y

    def activate_pooled(self, function, x: Tensor) -> Tensor:
        """The same for a pooler's or head's saturating activation, which `BcosConfig.pooler_activation` may drop."""
        return x if self.pooler_activation == "identity" else self.activate(function, x)


class _BcosClassificationHead(FunctionalActivation):
    """The head of RoBERTa and XLM-R: dense, tanh, projection of the first token."""

    def forward(self, features: Tensor, **kwargs) -> Tensor:
        x = self.dropout(features[:, 0, :])
        x = self.activate_pooled(torch.tanh, self.dense(x))
        return self.out_proj(self.dropout(x))


class _BcosLMHead(FunctionalActivation):
    """The masked-LM head of RoBERTa and XLM-R: dense, GELU, norm, decoder."""

    def forward(self, features: Tensor, **kwargs) -> Tensor:
        x = self.activate(torch.nn.functional.gelu, self.dense(features))
        return self.decoder(self.layer_norm(x))


def _arguments(stock: Callable, self, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """What a forward was called with, by the names that the stock one gives its arguments."""
    signature = inspect.signature(stock)
    found = dict(signature.bind(self, *args, **kwargs).arguments)
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            found |= found.pop(parameter.name, {})
    found.pop("self")
    return found
