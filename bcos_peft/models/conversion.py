"""A model that is converted gets its generated class, and a config of its own."""

from __future__ import annotations

import copy
from collections.abc import Callable

from transformers import PreTrainedModel

from bcos_peft._utils.accelerate_hooks import set_class
from bcos_peft.config import BcosConfig
from bcos_peft.families import Family, find_family
from bcos_peft.models.generated import _config_class, _model_class


def change_class(model: PreTrainedModel, stock: type, bcos_config: BcosConfig, family: Family) -> Callable[[], None]:
    """Give the model its generated class and a config of its own; other models may share the stock config."""
    old_config, old_tied, old_class_state = model.config, dict(model.all_tied_weights_keys), dict(model.__dict__)
    new_config = copy.deepcopy(old_config)
    new_config.__class__ = _config_class(type(old_config))
    new_config.bcos = bcos_config.to_dict()
    owners = [module for module in model.modules() if module.__dict__.get("config") is old_config]
    for module in owners:
        module.config = new_config
    _forget_unpacked_file(model)
    set_class(model, _model_class(stock, find_family(family.model_type) if bcos_config.family else family))
    model.all_tied_weights_keys = {k: v for k, v in old_tied.items() if not k.endswith("bias")}

    def restore() -> None:
        model.__class__ = stock
        model.__dict__.clear()
        model.__dict__.update(old_class_state)
        for module in owners:
            module.config = old_config

    return restore


def _forget_unpacked_file(model: PreTrainedModel) -> None:
    """Take the mark of a quantised model off one whose GGUF file was unpacked when it was loaded.

    Its layers are ordinary ones (others are refused before), yet transformers neither trains nor saves a marked model.
    """
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is not None and getattr(quantizer.quantization_config, "quant_method", None) == "gguf":
        quantizer.remove_quantization_config(model)
