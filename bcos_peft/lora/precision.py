"""The precision that an adapter was trained in: of the checkpoint below, of the weights since, of the arithmetic."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from bcos_peft.models import BcosModel
from bcos_peft.nn import is_quantized


# How far logits may differ, relative to the largest, from those before saving: on another device, in another order.
_TOLERANCES = {"float64": 1e-6, "float32": 1e-2}


def _describe_precision(model: BcosModel) -> dict[str, str]:
    """`dtype` of the weights; where they are not that of the arithmetic, or of loading, `precision`, `loaded_dtype`.

    `prepare_model_for_kbit_training` makes float32 of weights that were loaded, and quantised, in another type: only
    loading them in that type gives them again.
    """
    dtype, loaded = model.dtype, _loaded_dtype(model)
    products = {module.precision for module in model.modules() if is_quantized(module)}  # not those of adapters
    precision = max({dtype} | products - {None}, key=lambda found: torch.finfo(found).eps)
    facts = {"dtype": _name(dtype)}
    if precision != dtype:
        facts["precision"] = _name(precision)
    if loaded is not None and loaded != dtype:
        facts["loaded_dtype"] = _name(loaded)
    return facts


def _loaded_dtype(model: BcosModel) -> torch.dtype | None:
    """What the checkpoint was loaded in, before it was quantised: 4-bit weights know it, else the config may."""
    for module in model.modules():
        state = getattr(module.weight, "quant_state", None) if is_quantized(module) else None
        if state is not None:
            return state.dtype
    dtype = getattr(model.config, "dtype", None)
    return getattr(torch, dtype, None) if isinstance(dtype, str) else dtype


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _cast(model: nn.Module, dtype: torch.dtype) -> None:
    """Give the weights that are not quantised another type, as `prepare_model_for_kbit_training` does."""
    for parameter in model.parameters():
        if parameter.is_floating_point() and type(parameter).__name__ != "Params4bit":
            parameter.data = parameter.data.to(dtype)


def _tolerance(facts: dict[str, Any]) -> float:
    """What rounding may leave between logits before saving and after loading."""
    return _TOLERANCES.get(facts.get("precision") or facts.get("dtype"), 0.1)


def _told(facts: dict[str, Any]) -> str:
    quantised = ", quantised" if facts.get("quantization") else ""
    precision = f", computed in {facts['precision']}" if facts.get("precision") else ""
    return f"{facts.get('dtype')}{quantised}{precision}"
