"""Which B-cos layer stands for a quantised one of bitsandbytes, which is imported only for models that have some."""

from __future__ import annotations

import sys

from torch import nn


__all__ = ["quantized_class"]


def quantized_class(module: nn.Module) -> type | None:
    """The B-cos class for a quantised linear layer of bitsandbytes, or None for any other module.

    Example:
        >>> from torch import nn
        >>> from bcos_peft.quantization import quantized_class
        >>> quantized_class(nn.Linear(2, 2)) is None
        True
    """
    if "bitsandbytes" not in sys.modules or not type(module).__module__.startswith("bitsandbytes."):
        return None
    from bcos_peft import quantized_layers

    return quantized_layers.CLASSES.get(type(module))
