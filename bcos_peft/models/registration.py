"""Registration of the generated classes with the Auto classes of transformers.

Every architecture of transformers can be converted, and importing the code of all of them takes minutes. So the Auto
classes get names, as they have them of stock models, and the module in which to look these up: `bcos_peft.models`,
which makes a class when it is asked for.
"""

from __future__ import annotations

import sys

from transformers import AutoConfig, AutoModel
from transformers.models.auto import tokenization_auto
from transformers.models.auto.configuration_auto import (
    CONFIG_MAPPING,
    CONFIG_MAPPING_NAMES,
    model_type_to_module_name,
)

from bcos_peft.families import Family, after_registration
from bcos_peft.models.classes import _config_class, _convert_checkpoints_alike, _model_class, keep_class
from bcos_peft.models.generated import PREFIX
from bcos_peft.models.hub_upload import _auto_model_classes, _UnfinishedConfig


def _register_names() -> None:
    """Make the Auto classes know, by name, what every architecture of transformers becomes."""
    stock_names = {name: config for name, config in CONFIG_MAPPING_NAMES.items() if not name.startswith(PREFIX)}
    mappings = [auto._model_mapping for auto in _auto_model_classes()]
    made = sys.modules["bcos_peft.models"]
    for model_type, config in stock_names.items():
        bcos_type, bcos_config = PREFIX + model_type, _named(config)
        module = model_type_to_module_name(bcos_type)
        CONFIG_MAPPING._mapping.setdefault(bcos_type, bcos_config)
        CONFIG_MAPPING._modules[module] = made
        _register_tokenizer(model_type, bcos_type)
        for mapping in mappings:
            # The first type with a config class is the one that it says itself.
            mapping._reverse_config_mapping.setdefault(bcos_config, PREFIX + mapping._reverse_config_mapping[config])
            mapping._modules[module] = made
            if model_type in mapping._model_mapping:
                mapping._model_mapping.setdefault(bcos_type, _named(mapping._model_mapping[model_type]))


def _named(stock: str | tuple[str, ...] | list[str]) -> str | tuple[str, ...]:
    return f"Bcos{stock}" if isinstance(stock, str) else tuple(map(_named, stock))


def _register(family: Family) -> None:
    """Make the Auto classes know the B-cos models of a table that a user brings, if they know its stock models."""
    if family.model_type not in CONFIG_MAPPING:
        return
    stock_config = CONFIG_MAPPING[family.model_type]
    bcos_type = PREFIX + family.model_type
    generated_config = _config_class(stock_config)
    AutoConfig.register(bcos_type, generated_config, exist_ok=True)
    _register_tokenizer(family.model_type, bcos_type)
    _convert_checkpoints_alike(family.model_type, bcos_type)
    for auto_class in _auto_model_classes():
        stock = auto_class._model_mapping.get(stock_config, None)
        if isinstance(stock, type) and (stock.__name__ in family.architectures or auto_class is AutoModel):
            generated = keep_class(_model_class(stock, family))
            auto_class.register(generated_config, generated, exist_ok=True)
            if auto_class is not AutoModel:
                # Trainers and pipelines ask these tables of names what a model is for: whether to shift labels, say.
                auto_class._model_mapping._model_mapping.setdefault(bcos_type, generated.__name__)


def _register_tokenizer(model_type: str, bcos_type: str) -> None:
    names = tokenization_auto.TOKENIZER_MAPPING_NAMES
    if names.get(model_type) is not None:
        names.setdefault(bcos_type, names[model_type])
    wrong_on_hub = getattr(tokenization_auto, "MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS", set())
    if model_type in wrong_on_hub:
        wrong_on_hub.add(bcos_type)


def register_all() -> None:
    """Register what comes with transformers, and each table that comes later; done once, on `import bcos_peft`."""
    _register_names()
    AutoConfig.register(_UnfinishedConfig.model_type, _UnfinishedConfig, exist_ok=True)
    after_registration.append(_register)


def register_encoders() -> None:
    """Make sentence-transformers load what a converted encoder of an encoder-decoder, such as `T5EncoderModel`, was
    saved as. It knows these by the class of their config, which a B-cos config is an instance of, and would load the
    stock encoder. Done once, when that package is imported."""
    known = sys.modules["sentence_transformers.base.modules.transformer"]._ENCODER_ONLY_MODELS
    known[:0] = [(_config_class(config), "bcos_peft.models", _named(model)) for config, _, model in known]
