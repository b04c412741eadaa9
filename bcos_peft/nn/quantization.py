"""Which B-cos layer stands for a quantised one of bitsandbytes, which is imported only for models that have some."""

from __future__ import annotations

import sys

import torch
from torch import nn


def quantized_class(module: nn.Module) -> type | None:
    """The B-cos class for a quantised linear layer of bitsandbytes, or None for any other module.

    Example:
        >>> from torch import nn
        >>> from bcos_peft.nn import quantized_class
        >>> quantized_class(nn.Linear(2, 2)) is None
        True
    """
    if "bitsandbytes" not in sys.modules or not type(module).__module__.startswith("bitsandbytes."):
        return None
    from bcos_peft.nn import quantized_layers

    return quantized_layers._CLASSES.get(type(module))


def is_quantized(module: nn.Module) -> bool:
    """Whether a module is a B-cos layer, or a converted plain one, over a quantised weight.

    Example:
        >>> from torch import nn
        >>> from bcos_peft.nn import is_quantized
        >>> is_quantized(nn.Linear(2, 2))
        False
    """
    layers = sys.modules.get("bcos_peft.nn.quantized_layers")  # where it was not imported, there are none
    return layers is not None and isinstance(module, layers.QuantizedBcosLayer)


def count_of(parameter: nn.Parameter) -> int:
    """How many numbers a parameter stands for: of 4 bits, two are in a byte.

    Example:
        >>> import torch
        >>> from bcos_peft.nn import count_of
        >>> count_of(torch.nn.Parameter(torch.ones(2, 3)))
        6
    """
    if type(parameter).__name__ == "Params4bit":
        return parameter.numel() * 2 * parameter.element_size()
    return parameter.numel() or getattr(parameter, "ds_numel", 0)  # ZeRO-3 keeps them elsewhere


def precision_of(model: nn.Module) -> torch.dtype:
    """The coarsest type that a model computes in: of its weights, and of products with quantised ones.

    A model whose weights are float32 may multiply 4-bit weights in bfloat16; its dtype does not say so.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from bcos_peft.nn import precision_of
        >>> precision_of(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, dtype=torch.bfloat16)))
        torch.bfloat16
    """
    weights = (p for p in model.parameters() if type(p).__name__ != "Params4bit" and p.is_floating_point())
    found = {parameter.dtype for parameter in weights}
    found |= {module.precision for module in model.modules() if is_quantized(module) and module.precision is not None}
    return max(found, key=lambda dtype: torch.finfo(dtype).eps, default=torch.get_default_dtype())
