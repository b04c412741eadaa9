"""The config of a B-cos adapter: what peft keeps of a `BcosConfig`, and writes into `adapter_config.json`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from peft import PeftConfig
from torch import nn

from bcos_peft.config import BcosConfig


_TYPE = "BCOS"


@dataclass
class BcosPeftConfig(PeftConfig):
    """What an adapter is that `peft.get_peft_model(model, BcosConfig())` made. It is made of the `BcosConfig`.

    Args:
        modules_to_save (`list[str]`, *optional*): modules that are trained and saved whole, such as a head.
        bcos (`dict`, *optional*): the conversion: `config`, a [`BcosConfig`]; when it is saved, also what
            [`BcosLoraConfig`] has: `architecture`, `dtype`, `vocabulary`, `labels`, `probe`, `missing`.
        verify (`bool`, defaults to `True`): as in `get_bcos_model`, where the model is still to be converted.

    Raises:
        ValueError: `bcos` has no config, or one that cannot be used.

    Example:
        >>> import peft
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> from bcos_peft import BcosConfig
        >>> small = BertConfig(num_hidden_layers=1, hidden_size=16, num_attention_heads=2, intermediate_size=32)
        >>> model = peft.get_peft_model(BertForSequenceClassification(small), BcosConfig(b=1.5))
        >>> config = model.peft_config["default"]
        >>> type(config).__name__, config.peft_type.value, config.conversion.b
        ('BcosPeftConfig', 'BCOS', 1.5)
    """

    modules_to_save: list[str] | None = field(default=None, metadata={"help": "Modules that are trained whole."})
    bcos: dict[str, Any] | None = field(default=None, metadata={"help": "The conversion, and the model below."})
    verify: bool = field(default=True, metadata={"help": "Whether the conversion is tried on a probe."})

    def __post_init__(self):
        super().__post_init__()
        self.peft_type = _peft_type()
        if not isinstance(self.bcos, dict) or "config" not in self.bcos:
            raise ValueError(
                f"bcos must say how the model is converted, got {self.bcos!r:.80}. Give peft.get_peft_model a "
                "BcosConfig, which is made into such a config."
            )
        BcosConfig.from_dict(self.bcos["config"])

    @property
    def conversion(self) -> BcosConfig:
        """How the model is converted."""
        return BcosConfig.from_dict(self.bcos["config"])

    def to_dict(self) -> dict[str, Any]:
        """As in peft: what `adapter_config.json` has."""
        values = super().to_dict() | {"peft_type": _TYPE}
        values.pop("verify")
        return values


def _peft_type():
    from peft import PeftType

    return PeftType(_TYPE)


def as_peft_config(config: BcosConfig, model: nn.Module) -> BcosPeftConfig:
    """What `config` is as the config of an adapter on `model`.

    Args:
        config: as it was given to peft.
        model: what gets the adapter.

    Raises:
        ValueError: a name in `modules_to_save` is none of the model's; nothing was changed.
    """
    names = [name for name, _ in model.named_modules()]
    for wanted in config.modules_to_save or ():
        if not any(name.endswith(wanted) for name in names):
            endings = sorted({name.rpartition(".")[2] for name in names if name} - {str(i) for i in range(1000)})
            raise ValueError(
                f"modules_to_save: {wanted!r} is no module of the {type(model).__name__}. The model was not changed. "
                f"Names end with: {', '.join(endings)}."
            )
    return BcosPeftConfig(
        task_type=config.task_type,
        modules_to_save=None if config.modules_to_save is None else list(config.modules_to_save),
        inference_mode=config.inference_mode,
        base_model_name_or_path=config.base_model_name_or_path or None,
        revision=config.revision,
        bcos={"config": config.to_dict()},
    )
