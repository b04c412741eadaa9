"""The parts of a converted model that are trained: gains and norms, each in a copy for every adapter."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from peft.utils import ModulesToSaveWrapper
from torch import nn

from bcos_peft.nn import BcosLayer, BcosNorm, Gain


class _Copies(ModulesToSaveWrapper):
    """Around a gain or a norm: peft's wrapper, by which it is known that the adapter is of this method."""


def _wrappers(model: nn.Module, adapter: str | None = None) -> list[ModulesToSaveWrapper]:
    found = [module for module in model.modules() if isinstance(module, ModulesToSaveWrapper)]
    return [wrapper for wrapper in found if adapter is None or adapter in wrapper.modules_to_save]


def _outside_heads(model: nn.Module) -> Iterator[nn.Module]:
    """The modules of a model, without those inside of what an adapter trains whole."""
    waiting, seen = [model], set()
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            yield module
            children = (child for child in module._modules.values() if child is not None)
            waiting += [child for child in children if not isinstance(child, ModulesToSaveWrapper)]


def _gainable(model: nn.Module) -> list[BcosLayer]:
    layers = [module for module in _outside_heads(model) if isinstance(module, BcosLayer)]
    return [layer for layer in layers if layer.b is not None and layer.outputs is not None]


def _small_parts(model: nn.Module) -> list[tuple[nn.Module, str]]:
    """Where gains and norms are: the module that has them, and the name there. Or what is around them already."""
    return [
        (module, key)
        for module in _outside_heads(model)
        for key, child in module._modules.items()
        if _is_small(child.original_module if isinstance(child, ModulesToSaveWrapper) else child)
    ]


def _is_small(part: nn.Module | None) -> bool:
    return isinstance(part, (Gain, BcosNorm)) and any(True for _ in part.parameters())


def _add_gain(layer: BcosLayer) -> None:
    weight = layer.weight
    if weight.is_meta:
        raise ValueError(
            f"The weights of this {type(layer).__name__} are not here (offloaded, or still to come), and its gain "
            "would not be. The model was put back as it was. Load the model without offloading."
        )
    layer.add_gain(weight.device)
    gain = layer.gain.weight
    if gain.is_meta:  # peft's low_cpu_mem_usage makes parameters without values; these few have some
        ones = torch.ones(gain.shape, dtype=gain.dtype, device=weight.device)
        layer.gain._parameters["weight"] = nn.Parameter(ones)
    layer.gain.train(layer.training)
