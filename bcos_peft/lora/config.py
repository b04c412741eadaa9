"""The config of a LoRA adapter on a B-cos model: `adapter_config.json` says what the adapter needs to be loaded onto.

On disk its `peft_type` is `BCOS_LORA`. Without `bcos_peft`, peft knows no such type and refuses the adapter: as plain
LoRA, on the plain base, it would be a silently different model. In memory it is LoRA, for all that peft does with it.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

from peft import LoraConfig, PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

from bcos_peft.config import BcosConfig
from bcos_peft.models import BcosModel, check_modules, current_config


_ON_DISK = "BCOS_LORA"
# Fields of BcosConfig that tell where a model comes from, not what it computes.
_ORIGIN = {"base_model_name_or_path", "bcos_version", "probe_residual"}
_ORIGIN |= {"calibration", "calibration_tokens", "calibration_replay", "calibration_epochs", "calibration_report"}


@dataclass
class BcosLoraConfig(LoraConfig):
    """peft's `LoraConfig` and what its adapter was trained on. Adapters on B-cos models get it by themselves.

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

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {"peft_type": _ON_DISK}


PEFT_TYPE_TO_CONFIG_MAPPING[_ON_DISK] = BcosLoraConfig


def _with_base(config: PeftConfig, model: BcosModel) -> PeftConfig:
    """A plain LoRA config as a config of its own that describes `model`; any other as it is."""
    if type(config) is not LoraConfig:
        return config
    config = copy.copy(config)
    config.modules_to_save = copy.copy(config.modules_to_save)  # peft adds the head of the task to it
    config.__class__ = BcosLoraConfig
    config.bcos = {"config": current_config(model).to_dict(), "architecture": model.bcos_stock_class.__name__}
    return config


def _check_base(config: PeftConfig, model) -> None:
    """Refuse to put an adapter of a B-cos model onto another model than that which it was trained on.

    Raises:
        ValueError: the model is not converted, or in another way, or its modules are not what its config says; nothing
            was changed.
    """
    if isinstance(model, BcosModel):
        check_modules(model)
    if not isinstance(config, BcosLoraConfig) or config.bcos is None:
        return
    stored = config.bcos["config"]
    base = stored.get("base_model_name_or_path")
    name = f" (converted from {base})" if base else ""
    if not isinstance(model, BcosModel):
        raise ValueError(
            f"This adapter was trained inside the layers of a B-cos model{name}, with B = {stored['b']:g}; on the "
            f"plain {type(model).__name__} it would compute something else. The model was not changed. Load the "
            "adapter with bcos_peft.load(path), or convert the model first: get_bcos_model(model, "
            "BcosConfig.from_dict(adapter_config.bcos['config']))."
        )
    now = current_config(model).to_dict()
    then = BcosConfig.from_dict(stored).to_dict()
    different = {key: (then[key], now[key]) for key in then.keys() - _ORIGIN if then[key] != now[key]}
    if different:
        listed = ", ".join(f"{key}={old!r} (here {new!r})" for key, (old, new) in sorted(different.items()))
        way = f"model.set_b({then['b']:g})" if set(different) == {"b"} else "bcos_peft.load(path)"
        raise ValueError(
            f"This adapter was trained on a B-cos model{name} with another config: {listed}. The model was not "
            f"changed. Use {way}."
        )
