"""What a B-cos adapter is put on, and what is put beside it: what would be another model is refused."""

from __future__ import annotations

from typing import Any

from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel

from bcos_peft.config import BcosConfig
from bcos_peft.lora.method.config import _TYPE, BcosPeftConfig
from bcos_peft.lora.method.copies import _Copies
from bcos_peft.models import BcosModel, check_modules, current_config


# Fields of BcosConfig that tell where a model comes from, not what it computes.
_ORIGIN = {"base_model_name_or_path", "bcos_version", "probe_residual"}
_ORIGIN |= {"calibration", "calibration_tokens", "calibration_replay", "calibration_epochs", "calibration_pooling"}
_ORIGIN |= {"calibration_report"}


def different_fields(then: BcosConfig, now: BcosConfig) -> dict[str, tuple[Any, Any]]:
    """The fields of two configs by which models compute something else, with both values.

    Example:
        >>> from bcos_peft import BcosConfig
        >>> from bcos_peft.lora.method import different_fields
        >>> different_fields(BcosConfig(b=1.25), BcosConfig(b=1.5, bcos_version="1"))
        {'b': (1.25, 1.5)}
    """
    first, second = then.to_dict(), now.to_dict()
    return {key: (first[key], second[key]) for key in first.keys() - _ORIGIN if first[key] != second[key]}


def check_adapter(config: BcosPeftConfig, model: nn.Module, *, but_b: bool = False) -> None:
    """Refuse to put a B-cos adapter onto a model that would be another one with it.

    Args:
        config: the adapter's.
        model: what it goes on: a stock model, a converted one, or a `PeftModel` with B-cos adapters.
        but_b: the model may have another B.

    Raises:
        ValueError: the model is of another class, is converted in another way, has other adapters, or the adapter
            needs weights that are not in it; nothing was changed.
        TypeError: the model is not a transformers model.
    """
    others = _adapters(model)
    strange = next((one for one in others.values() if not isinstance(one, BcosPeftConfig)), None)
    inside = next((module for module in model.modules() if isinstance(module, BcosModel)), None)
    if strange is not None or (inside is None and any(isinstance(m, BaseTunerLayer) for m in model.modules())):
        kind = getattr(getattr(strange, "peft_type", None), "value", "other")
        raise ValueError(
            f"The model has {kind} adapters, and a {_TYPE} adapter converts the model below them. The model was not "
            "changed. Convert first, with get_bcos_model(model, BcosConfig(...)), and then put the others on: LoRA "
            "goes inside the B-cos layers, and train_only(model, 'lora', 'gain_and_norms') trains both."
        )
    if inside is None:
        _check_stock(config, model)
        return
    check_modules(inside)
    different = different_fields(config.conversion, current_config(inside))
    if but_b:
        different.pop("b", None)
    if different:
        listed = ", ".join(f"{key}={new!r} (the model has {old!r})" for key, (new, old) in sorted(different.items()))
        raise ValueError(
            f"The config says {listed}, but this {type(inside).__name__} is converted already. The model was not "
            "changed. Pass the model's own config, model.bcos_config, or load the stock model again. (The model's B "
            "alone can be set: model.set_b(...).)"
        )


def _adapters(model: nn.Module) -> dict[str, PeftConfig]:
    found = getattr(model, "peft_config", None)
    return found if isinstance(found, dict) else {}


def _check_stock(config: BcosPeftConfig, model: nn.Module) -> None:
    if not isinstance(model, PreTrainedModel):
        return  # which the conversion refuses
    architecture = config.bcos.get("architecture")
    if architecture is not None and type(model).__name__ != architecture:
        raise ValueError(
            f"The adapter is of a {architecture}, and this is a {type(model).__name__}. The model was not changed. "
            f"Load the base as the adapter's class: transformers.{architecture}.from_pretrained("
            f"{config.base_model_name_or_path or '...'!r})."
        )
    if config.bcos.get("missing"):
        raise ValueError(
            f"This adapter cannot be put on a stock {type(model).__name__}. {config.bcos['missing']} The model was "
            "not changed."
        )


def _has_method(model: nn.Module) -> bool:
    """Whether a model has a B-cos adapter, which transformers may have forgotten about."""
    return any(isinstance(module, _Copies) for module in model.modules())


def check_saving(model: nn.Module) -> None:
    """Refuse to save a model that a B-cos adapter lies in as a whole one: its weights have other names meanwhile.

    Args:
        model: what is inside of a `PeftModel`.

    Raises:
        ValueError: it has a B-cos adapter; nothing was written.
    """
    if _has_method(model):
        raise ValueError(
            f"This {type(model).__name__} has a {_TYPE} adapter in it, and would not load as a whole. Nothing was "
            "written. Save the PeftModel around it, which writes the adapter; or the whole model, without adapter: "
            "peft_model.merge_and_unload().save_pretrained(folder)."
        )


def check_other_adapter(config: PeftConfig, model: nn.Module) -> None:
    """Refuse an adapter of another method on a model that has a B-cos adapter.

    Args:
        config: the other adapter's.
        model: what it would go on.

    Raises:
        ValueError: the model has a B-cos adapter; nothing was changed.
    """
    if _has_method(model):
        kind = getattr(config.peft_type, "value", config.peft_type)
        raise ValueError(
            f"The model has a {_TYPE} adapter, and no {kind} adapter can be put beside it. The model was not changed. "
            "Take model.merge_and_unload() and put the other one on that; or convert with get_bcos_model, put LoRA on "
            "it, and train_only(model, 'lora', 'gain_and_norms')."
        )
