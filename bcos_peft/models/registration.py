"""Registration of the generated classes with the Auto classes of transformers."""

from __future__ import annotations

from transformers import AutoConfig, AutoModel
from transformers.models.auto import tokenization_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from bcos_peft.families import Family, after_registration, families
from bcos_peft.models.generated import PREFIX, _config_class, _convert_checkpoints_alike, _model_class, keep_class
from bcos_peft.models.stub import _auto_model_classes


def _register(family: Family) -> None:
    """Make the Auto classes know the B-cos models of a family, if they know its stock models."""
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
        # Models without a head cannot be converted, for they have no logits, but they are loaded from converted ones.
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
    """Register every known family, and each that comes later; done once, when `bcos_peft` is imported."""
    for family in families():
        _register(family)
    after_registration.append(_register)
