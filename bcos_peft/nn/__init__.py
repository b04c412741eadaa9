"""Layers and functions: the B-cos transform and what makes a network dynamic-linear. Only torch is needed."""

from typing import TYPE_CHECKING

from bcos_peft._utils.lazy import lazy_names
from bcos_peft.nn.conv1d import BcosConv1D
from bcos_peft.nn.dynamic_linear import few_rows, hold_ratio, layer_norm, rms_norm
from bcos_peft.nn.experts import BcosExperts, StockExperts
from bcos_peft.nn.functional import bcos_linear, bcos_scale
from bcos_peft.nn.layers import (
    BcosLayer,
    BcosLayerNorm,
    BcosLinear,
    BcosNorm,
    BcosRMSNorm,
    BcosShiftedRMSNorm,
    DynamicLinear,
    Gain,
)
from bcos_peft.nn.low_rank import LowRank, bcos_lora_linear
from bcos_peft.nn.norm_cache import SteadyGeneration, steady_weights
from bcos_peft.nn.numerics import widest
from bcos_peft.nn.pooling import pool
from bcos_peft.nn.quantization import count_of, is_quantized, precision_of, quantized_class


if TYPE_CHECKING:
    from bcos_peft.nn.quantized_layers import BcosLinear4bit, BcosLinear8bit, QuantizedBcosLayer

__all__ = [
    "BcosConv1D",
    "BcosExperts",
    "BcosLayer",
    "BcosLayerNorm",
    "BcosLinear",
    "BcosLinear4bit",
    "BcosLinear8bit",
    "BcosNorm",
    "BcosRMSNorm",
    "BcosShiftedRMSNorm",
    "DynamicLinear",
    "Gain",
    "LowRank",
    "QuantizedBcosLayer",
    "SteadyGeneration",
    "StockExperts",
    "bcos_linear",
    "bcos_lora_linear",
    "bcos_scale",
    "count_of",
    "few_rows",
    "hold_ratio",
    "is_quantized",
    "layer_norm",
    "pool",
    "precision_of",
    "quantized_class",
    "rms_norm",
    "steady_weights",
    "widest",
]

# Needs bitsandbytes.
__getattr__ = lazy_names(
    __name__,
    {
        "BcosLinear4bit": "quantized_layers",
        "BcosLinear8bit": "quantized_layers",
        "QuantizedBcosLayer": "quantized_layers",
    },
)
