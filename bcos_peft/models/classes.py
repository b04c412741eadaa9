"""The generated classes: made for a stock class when they are first asked for, kept, and given to converted models."""

from __future__ import annotations

import copy
from collections.abc import Callable

import transformers
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping

from bcos_peft._utils.accelerate_hooks import set_class
from bcos_peft.config import BcosConfig
from bcos_peft.families import Family, find_family, replacement
from bcos_peft.models.generated import PREFIX, BcosModel
from bcos_peft.nn import SteadyGeneration


_classes: dict[str, type] = {}
_OWN_LOSS = ("ForSequenceClassification", "ForTokenClassification", "ForMaskedLM")


def _config_class(stock: type[PretrainedConfig]) -> type[PretrainedConfig]:
    """The generated config class for a stock one: the kept one, unless that was made from another of the same name."""
    name = f"Bcos{stock.__name__}"
    if name not in _classes or _classes[name].__bases__ != (stock,):
        # auto_map must be an empty dict: absent, some loaders fail; None, others do.
        body = {
            "model_type": PREFIX + stock.model_type,
            "auto_map": {},
            "register_for_auto_class": BcosModel.register_for_auto_class,  # as for models
            "__module__": "bcos_peft.models",  # where pickle, and files saved with code, look for it
        }
        _classes[name] = type(name, (stock,), body)
        _convert_checkpoints_alike(stock.model_type, PREFIX + stock.model_type)
    return _classes[name]


def _model_class(stock: type[PreTrainedModel], family: Family | None) -> type[PreTrainedModel]:
    """The generated class for a stock model class: the kept one, unless that was made from another table. What is
    found out about a model is stored in its config, and no table."""
    name = f"Bcos{stock.__name__}"
    kept = _classes.get(name)
    if kept is not None and kept.bcos_table is family and kept.bcos_stock_class is stock:
        return kept
    base = stock if family is None else replacement(family.replacements.get(stock.__name__)) or stock
    body = {
        "__module__": "bcos_peft.models",  # where pickle, and files saved with code, look for it
        "__doc__": f"`{stock.__name__}` as a B-cos model. From `get_bcos_model` or `from_pretrained`.",
        "config_class": _config_class(stock.config_class),
        "bcos_table": family,
        "bcos_stock_class": stock,
        "_tied_weights_keys": _without_biases(stock._tied_weights_keys),
        # Gains are trained, and loaded, in float32 whatever the precision of the weights.
        "_keep_in_fp32_modules_strict": [*(stock._keep_in_fp32_modules_strict or ()), "gain"],
    }
    if name.endswith(_OWN_LOSS):
        # Their forward takes the Trainer's count of items and leaves it alone, so accumulated losses would add up.
        body["accepts_loss_kwargs"] = False
    _convert_checkpoints_alike(stock.__name__, name)
    mixins = (BcosModel, SteadyGeneration) if issubclass(base, GenerationMixin) else (BcosModel,)
    return type(name, (*mixins, base), body)


def keep_class(cls: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """Let a generated class be found by its name, and by `_model_class`."""
    _classes[cls.__name__] = cls
    return cls


def _without_biases(tied):
    if not isinstance(tied, dict):
        return tied
    return {target: source for target, source in tied.items() if not target.endswith("bias")}


def _class_named(name: str) -> type:
    """The generated class of a name; of a stock class of transformers it is made when it is first asked for.

    Raises:
        AttributeError: there is no such stock class.
    """
    if name not in _classes:
        stock = getattr(transformers, name.removeprefix("Bcos"), None) if name.startswith("Bcos") else None
        if not isinstance(stock, type) or not issubclass(stock, (PreTrainedModel, PretrainedConfig)):
            raise AttributeError(f"module 'bcos_peft.models' has no attribute {name!r}")
        if issubclass(stock, PretrainedConfig):
            return _config_class(stock)
        table = find_family(stock.config_class.model_type)
        keep_class(_model_class(stock, table))
    return _classes[name]


def _convert_checkpoints_alike(stock: str, bcos: str) -> None:
    """What transformers renames or merges when it loads a type or class of models, and reverses when it saves it."""
    conversion = get_checkpoint_conversion_mapping(stock)
    if conversion is not None:
        register_checkpoint_conversion_mapping(bcos, conversion, overwrite=True)


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
