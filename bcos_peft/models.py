"""B-cos model classes, generated from the stock ones, and their registration with the Auto classes.

`BertForSequenceClassification` becomes `BcosBertForSequenceClassification` with `model_type="bcos_bert"`:
parameter names stay those of the stock model, a plain `AutoModelFor….from_pretrained` loads it once `bcos_peft` is
imported, and without the import transformers refuses it instead of loading a silently different model.
"""

from __future__ import annotations

from dataclasses import replace

from torch import nn
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping
from transformers.models.auto import modeling_auto
from transformers.models.auto.auto_factory import _BaseAutoModelClass
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

from bcos_peft.config import BcosConfig
from bcos_peft.families.base import Family, families
from bcos_peft.layers import BcosLayer
from bcos_peft.structure import apply_plan, plan_conversion
from bcos_peft.summary import ConversionSummary, summarize


__all__ = ["BcosModel", "find_bcos_model"]

PREFIX = "bcos_"


class BcosModel:
    """What every generated class has beside the stock model. Not to be instantiated.

    Example:
        >>> from transformers import BertConfig
        >>> from bcos_peft.models import BcosModel, model_class
        >>> from bcos_peft.families import find_family
        >>> from transformers import BertForSequenceClassification
        >>> cls = model_class(BertForSequenceClassification, find_family("bert"))
        >>> cls.__name__, cls.config_class.model_type, issubclass(cls, BcosModel)
        ('BcosBertForSequenceClassification', 'bcos_bert', True)
    """

    bcos_family: Family
    bcos_stock_class: type[PreTrainedModel]

    def __init__(self, config, *args, **kwargs):
        bcos_config = BcosConfig.from_dict(_stored_config(config))
        super().__init__(config, *args, **kwargs)
        plan = plan_conversion(self, self.bcos_stock_class, bcos_config, self.bcos_family)
        apply_plan(self, plan, bcos_config)

    @property
    def bcos_config(self) -> BcosConfig:
        """The conversion's config, as stored in `model.config.bcos`."""
        return BcosConfig.from_dict(_stored_config(self.config))

    def set_b(self, b: float) -> None:
        """Give the model another B: every layer without an entry in `b_pattern`, and the config that is saved with it.

        Args:
            b (`float`): the new `BcosConfig.b`, at least 1. Layers with an entry in `b_pattern` keep theirs, and with
                `align=False` all stay at 1.

        Raises:
            ValueError: `b` is below 1 or not finite; nothing was changed.
            TypeError: `b` is not a number.

        Example:
            >>> from transformers import BertConfig, BertForSequenceClassification
            >>> from bcos_peft import BcosConfig, get_bcos_model
            >>> small = BertConfig(num_hidden_layers=1, hidden_size=16, num_attention_heads=2, intermediate_size=32)
            >>> model = get_bcos_model(BertForSequenceClassification(small), BcosConfig(b=1.25))
            >>> model.set_b(2)
            >>> model.classifier, model.bcos_config.b
            (BcosLinear(in_features=16, out_features=2, b=2), 2.0)
        """
        config = replace(self.bcos_config, b=b)
        for name, module in self.named_modules():
            if isinstance(module, BcosLayer) and module.b is not None:
                module.b = config.b_for(name)
        self.config.bcos = config.to_dict()

    def bcos_summary(self) -> ConversionSummary:
        """What the conversion made of the model: layers by B, norms, parameters, the residual on a probe."""
        return summarize(self)

    def print_bcos_summary(self) -> None:
        """Print `bcos_summary()`, as peft prints trainable parameters."""
        print(self.bcos_summary())  # noqa: T201

    def _init_weights(self, module):
        parameters = module._parameters.values()
        if parameters and all(parameter is None for parameter in parameters):
            return  # a head whose only parameter was its bias: the stock initialiser would look for it
        super()._init_weights(module)

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        # The stock method reads the source of the class's module, and a generated class has none.
        return cls.bcos_stock_class._can_set_attn_implementation()

    @classmethod
    def register_for_auto_class(cls, auto_class="AutoModel"):
        """Do nothing: a generated class has no source file to copy beside the weights."""


def _stored_config(config: PretrainedConfig) -> dict:
    stored = getattr(config, "bcos", None)
    if not isinstance(stored, dict):
        raise ValueError(
            f"The config of this {config.model_type!r} model has no 'bcos' entry, so it cannot be built as a "
            "B-cos model. Load "
            "a model that get_bcos_model has converted, or convert a stock one with get_bcos_model."
        )
    return stored


def find_bcos_model(model) -> BcosModel:
    """The converted model inside `model`, which may be wrapped (by peft, by `torch.compile`, for several devices).

    Raises:
        TypeError: if it is no module.
        ValueError: if there is no converted model in it.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a converted transformers model, got {type(model).__name__}.")
    for module in model.modules():
        if isinstance(module, BcosModel):
            return module
    raise ValueError(
        f"{type(model).__name__} is not a B-cos model: its contributions would not sum to the logit. "
        "Convert it first: get_bcos_model(model, BcosConfig())."
    )


_classes: dict[str, type] = {}


def config_class(stock: type[PretrainedConfig]) -> type[PretrainedConfig]:
    """The generated config class for a stock one."""
    name = f"Bcos{stock.__name__}"
    if name not in _classes:
        # auto_map must be an empty dict: absent, some loaders fail; None, others do.
        body = {"model_type": PREFIX + stock.model_type, "auto_map": {}, "__module__": __name__}
        _classes[name] = type(name, (stock,), body)
    return _classes[name]


def model_class(stock: type[PreTrainedModel], family: Family) -> type[PreTrainedModel]:
    """The generated class for a stock model class."""
    name = f"Bcos{stock.__name__}"
    if name not in _classes:
        base = family.replacements.get(stock, stock)
        body = {
            "__module__": __name__,
            "__doc__": f"`{stock.__name__}` as a B-cos model. From `get_bcos_model` or `from_pretrained`.",
            "config_class": config_class(stock.config_class),
            "bcos_family": family,
            "bcos_stock_class": stock,
            "_tied_weights_keys": _without_biases(stock._tied_weights_keys),
        }
        _classes[name] = type(name, (BcosModel, base), body)
    return _classes[name]


def _without_biases(tied):
    if not isinstance(tied, dict):
        return tied
    return {target: source for target, source in tied.items() if not target.endswith("bias")}


def __getattr__(name: str):
    # Pickle looks generated classes up by name.
    try:
        return _classes[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None


def register(family: Family) -> None:
    """Make `AutoConfig` and the Auto model classes know the B-cos models of a family."""
    stock_config = CONFIG_MAPPING[family.model_type]
    bcos_type = PREFIX + family.model_type
    generated_config = config_class(stock_config)
    AutoConfig.register(bcos_type, generated_config, exist_ok=True)
    TOKENIZER_MAPPING_NAMES.setdefault(bcos_type, TOKENIZER_MAPPING_NAMES.get(family.model_type))
    conversion = get_checkpoint_conversion_mapping(family.model_type)
    if conversion is not None:
        register_checkpoint_conversion_mapping(bcos_type, conversion, overwrite=True)
    for auto_class in _auto_classes():
        stock = auto_class._model_mapping.get(stock_config, None)
        if isinstance(stock, type) and stock.__name__ in family.architectures:
            auto_class.register(generated_config, model_class(stock, family), exist_ok=True)


def _auto_classes() -> list[type[_BaseAutoModelClass]]:
    candidates = (getattr(modeling_auto, name) for name in modeling_auto.__all__ if name.startswith("AutoModel"))
    return [cls for cls in candidates if isinstance(cls, type) and getattr(cls, "_model_mapping", None) is not None]


def register_all() -> None:
    """Register every known family; done once, when `bcos_peft` is imported."""
    for family in families():
        register(family)
