"""The config of an adapter on a B-cos model: `adapter_config.json` says what the adapter needs to be loaded onto.

On disk its `peft_type` is `BCOS_LORA`, `BCOS_IA3` and so on. Without `bcos_peft`, peft knows no such type and refuses
the adapter: on the plain base it would be a silently different model. In memory it is what it is for peft.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, make_dataclass
from typing import Any

from peft import LoraConfig, PeftConfig, PeftType
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from torch import nn

from bcos_peft.config import BcosConfig
from bcos_peft.lora.method import BcosPeftConfig, check_adapter, different_fields
from bcos_peft.models import BcosModel, check_modules, current_config


_PREFIX = "BCOS_"


class _OnBcos:
    """Before a config of peft: that of an adapter on a B-cos model, described in the field `bcos`."""

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {"peft_type": _PREFIX + self.peft_type.value}


# Configs that have a field `bcos`: of adapters on B-cos models, and of those that make a B-cos model of a stock one.
_DESCRIBED = (_OnBcos, BcosPeftConfig)


@dataclass
class BcosLoraConfig(_OnBcos, LoraConfig):
    """peft's `LoraConfig` and what its adapter was trained on. Adapters on B-cos models get it by themselves.

    Adapters of other types get the same from their own configs.

    Args:
        bcos (`dict`, *optional*): the model below the adapter: `config`, its [`BcosConfig`]; `architecture`, its stock
            class; `dtype`; `vocabulary`, how many tokens it has; `labels` of a classifier; `probe`, some logits;
            `missing`, what keeps it from being made again.

    Example:
        >>> import peft
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> from bcos_peft import BcosConfig, get_bcos_model
        >>> small = BertConfig(num_hidden_layers=1, hidden_size=16, num_attention_heads=2, intermediate_size=32)
        >>> model = get_bcos_model(BertForSequenceClassification(small), BcosConfig(b=1.5))
        >>> model = peft.get_peft_model(model, peft.LoraConfig(target_modules=["dense"]))
        >>> config = model.peft_config["default"]
        >>> type(config).__name__, config.bcos["config"]["b"], config.to_dict()["peft_type"]
        ('BcosLoraConfig', 1.5, 'BCOS_LORA')
    """

    bcos: dict[str, Any] | None = field(default=None, metadata={"help": "The B-cos model below the adapter."})


_CLASSES: dict[type[PeftConfig], type[PeftConfig]] = {LoraConfig: BcosLoraConfig}


def _class_for(stock: type[PeftConfig]) -> type[PeftConfig]:
    """What a class of configs becomes for adapters on B-cos models."""
    if stock not in _CLASSES:
        bcos = ("bcos", dict[str, Any] | None, field(default=None))
        made = make_dataclass(f"Bcos{stock.__name__}", [bcos], bases=(_OnBcos, stock))
        made.__module__ = __name__
        _CLASSES[stock] = globals().setdefault(made.__name__, made)  # where pickle looks
        if _CLASSES[stock].__bases__ != made.__bases__:  # of another package, with a name that is taken
            _CLASSES[stock] = made
    return _CLASSES[stock]


for _type in PeftType:
    if _type in PEFT_TYPE_TO_CONFIG_MAPPING and not _type.value.startswith(_PREFIX.rstrip("_")):
        PEFT_TYPE_TO_CONFIG_MAPPING[_PREFIX + _type.value] = _class_for(PEFT_TYPE_TO_CONFIG_MAPPING[_type])


def _bcos_inside(model: nn.Module) -> BcosModel | None:
    """The converted model that an adapter is put on, which may be compiled or wrapped; None for any other."""
    return next((module for module in model.modules() if isinstance(module, BcosModel)), None)


def _with_base(config: PeftConfig, model: nn.Module) -> PeftConfig:
    """A config of peft as one that describes the B-cos model inside `model`; if there is none, as it is."""
    bcos = _bcos_inside(model)
    own = isinstance(config, _OnBcos) or str(getattr(config.peft_type, "value", config.peft_type)).startswith("BCOS")
    if bcos is None or own:
        return config
    config = copy.copy(config)
    if getattr(config, "modules_to_save", None) is not None:
        config.modules_to_save = copy.copy(config.modules_to_save)  # peft adds the head of the task to it
    config.__class__ = _class_for(type(config))
    if config.base_model_name_or_path is None:  # peft asks what is around the model
        config.base_model_name_or_path = bcos.config._name_or_path or None
    config.bcos = {"config": current_config(bcos).to_dict(), "architecture": bcos.bcos_stock_class.__name__}
    return config


def _check_base(config: PeftConfig, model: nn.Module, *, but_b: bool = False) -> None:
    """Refuse to put an adapter of a B-cos model onto another model than that which it was trained on.

    Args:
        config: the adapter's.
        model: what it goes on.
        but_b: the model may have another B.

    Raises:
        ValueError: the model is not converted, or in another way, or its modules are not what its config says; nothing
            was changed.
    """
    if isinstance(config, BcosPeftConfig):
        check_adapter(config, model, but_b=but_b)
        return
    if isinstance(model, BcosModel):
        check_modules(model)
    if not isinstance(config, _OnBcos) or config.bcos is None:
        return
    stored = config.bcos["config"]
    base = stored.get("base_model_name_or_path")
    name = f" (converted from {base})" if base else ""
    bcos = _bcos_inside(model)
    if bcos is None:
        raise ValueError(
            f"This adapter was trained inside the layers of a B-cos model{name}, with B = {stored['b']:g}; on the "
            f"plain {type(model).__name__} it would compute something else. The model was not changed. Load the "
            "adapter with bcos_peft.load(path), or convert the model first: get_bcos_model(model, "
            "BcosConfig.from_dict(adapter_config.bcos['config']))."
        )
    different = different_fields(BcosConfig.from_dict(stored), current_config(bcos))
    if but_b:
        different.pop("b", None)
    if different:
        listed = ", ".join(f"{key}={old!r} (here {new!r})" for key, (old, new) in sorted(different.items()))
        way = f"model.set_b({stored['b']:g})" if set(different) == {"b"} else "bcos_peft.load(path)"
        raise ValueError(
            f"This adapter was trained on a B-cos model{name} with another config: {listed}. The model was not "
            f"changed. Use {way}."
        )
