"""What keeps an adapter from being loaded alone: weights, or a model around it, that cannot be had from the hub."""

from __future__ import annotations

from typing import Any

from peft import PeftModel
from torch import nn

from bcos_peft.lora.method import BcosPeftConfig
from bcos_peft.models import BcosModel


def _quantization(model: BcosModel) -> dict[str, Any] | None:
    config = getattr(model.config, "quantization_config", None)
    return config.to_dict() if hasattr(config, "to_dict") else config


def _missing(model: nn.Module, bcos: BcosModel) -> str | None:
    """Why what an adapter of `model` was put on cannot be made again, if so."""
    config = bcos.bcos_config
    converted_here = bcos.config._name_or_path in ("", config.base_model_name_or_path)
    fitted_weights = config.calibration_report is not None and not _quantization(bcos)  # else gains, which are saved
    if not (fitted_weights and converted_here):
        return _around(model, bcos)
    if any(isinstance(one, BcosPeftConfig) for one in model.peft_config.values()):
        way = (
            "Save the calibrated model before it gets the adapter, model.save_pretrained(folder), and load with "
            "bcos_peft.load(path, base=folder)"
        )
    else:
        way = "Save them once, model.unload().save_pretrained(folder), and load with bcos_peft.load(path, base=folder)"
    return (
        f"Calibration changed the weights of the base, which are not part of the adapter. {way}; or save the whole "
        "model, model.merge_and_unload().save_pretrained(folder)."
    )


def _around(model: nn.Module, bcos: BcosModel) -> str | None:
    """What the adapter needs around the model, if it was put on more than that."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    base = getattr(base, "_orig_mod", base)  # compiled
    if base is bcos or not isinstance(model, PeftModel):
        return None
    return (
        f"It was put on a {type(base).__name__}, with the B-cos model in it. Make that first, and load it with "
        "peft.PeftModel.from_pretrained(that, path)."
    )
