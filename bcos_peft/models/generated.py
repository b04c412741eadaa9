"""B-cos model classes, generated from the stock ones.

`BertForSequenceClassification` becomes `BcosBertForSequenceClassification` with `model_type="bcos_bert"`:
parameter names stay those of the stock model, a plain `AutoModelFor….from_pretrained` loads it once `bcos_peft` is
imported, and without the import transformers refuses it instead of loading a silently different model.
"""

from __future__ import annotations

import copy
import re
from contextvars import ContextVar
from dataclasses import replace

import torch
import transformers
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping

from bcos_peft._utils.accelerate_hooks import set_class
from bcos_peft.config import BcosConfig
from bcos_peft.families import Family, find_family, replacement
from bcos_peft.models.apply import apply_plan, fill_zeros
from bcos_peft.models.guards import _check_forward, refuse_liger, refuse_tensor_parallel
from bcos_peft.models.hub import BcosHubMixin
from bcos_peft.models.initialization import _InitializedAsStock
from bcos_peft.models.plan import _plan_stored
from bcos_peft.models.quantized_loading import _add_stored_gains, _dequantize, _quantize_layers, _stored_names
from bcos_peft.models.summary import ConversionSummary, _summarize
from bcos_peft.nn import BcosLayer, Gain, SteadyGeneration, count_of


PREFIX = "bcos_"
# Whether a B-cos model is being built around the one that is.
_building: ContextVar[bool] = ContextVar("building", default=False)
# What peft, compilers and trainers put between a module's name and those of its parts.
_AROUND = ("base_layer", "original_module", r"modules_to_save\.[^.]+", "_orig_mod", r"_\w+_wrapped_module")
_ADAPTER = re.compile(rf"\.({'|'.join(_AROUND)})(?=\.|$)")


class BcosModel(_InitializedAsStock, BcosHubMixin):
    """What every generated class has beside the stock model. Not to be instantiated.

    Example:
        >>> from transformers import BertConfig
        >>> from bcos_peft.models import BcosModel
        >>> from bcos_peft.families import find_family
        >>> from transformers import BertForSequenceClassification
        >>> cls = _model_class(BertForSequenceClassification, find_family("bert"))
        >>> cls.__name__, cls.config_class.model_type, issubclass(cls, BcosModel)
        ('BcosBertForSequenceClassification', 'bcos_bert', True)
    """

    bcos_table: Family | None
    bcos_stock_class: type[PreTrainedModel]

    def __init__(self, config, *args, **kwargs):
        bcos_config = _stored_config(config)
        inside = _building.set(True)
        try:
            super().__init__(config, *args, **kwargs)
        finally:
            _building.reset(inside)
        if _building.get():  # the body of a classifier, which many models ask AutoModel for: converted with the whole
            self.__class__ = self.bcos_stock_class
            return
        apply_plan(self, _plan_stored(self, self.bcos_stock_class, bcos_config, self.bcos_family), bcos_config)
        refuse_liger(config.model_type)

    def __setattr__(self, name, value):
        if name == "forward":
            _check_forward(self, value)
        super().__setattr__(name, value)

    @staticmethod
    def _load_pretrained_model(model, state_dict, checkpoint_files, load_config, *args, **kwargs):
        refuse_tensor_parallel(model)
        stored = _stored_names(state_dict, checkpoint_files)
        if load_config.hf_quantizer is not None:  # it has put its layers in place, and they have no weights yet
            _quantize_layers(model, load_config.hf_quantizer, stored, model.bcos_config, model.bcos_family)
        _add_stored_gains(model, stored)
        load = super(BcosModel, type(model))._load_pretrained_model
        found = load(model, state_dict, checkpoint_files, load_config, *args, **kwargs)
        fill_zeros(model)
        return found

    @property
    def bcos_config(self) -> BcosConfig:
        """The conversion's config, as stored in `model.config.bcos`."""
        return _stored_config(self.config)

    @property
    def bcos_family(self) -> Family:
        """What the conversion went by: what it found out, as stored in `model.config.bcos`, or the table."""
        stored = self.config.bcos.get("family")
        if stored is None:
            return self.bcos_table or _refuse_untabled(self)
        known = self.__dict__.get("_bcos_family")
        if known is None or known[0] != stored:
            self.__dict__["_bcos_family"] = known = copy.deepcopy(stored), Family.from_dict(stored)
        return known[1]

    def bcos_name(self, name: str) -> str:
        """What the config calls the module `name`: its name in a model with a head, without adapters and wrappers."""
        name = _ADAPTER.sub("", name)
        return f"{self.base_model_prefix}.{name}" if self.base_model is self else name

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
                module.b = config.b_for(self.bcos_name(name))
        self.config.bcos = config.to_dict()

    def bcos_summary(self) -> ConversionSummary:
        """What the conversion made of the model: layers by B, norms, parameters, the residual on a probe."""
        return _summarize(self)

    def print_bcos_summary(self) -> None:
        """Print `bcos_summary()`, as peft prints trainable parameters."""
        print(self.bcos_summary())  # noqa: T201

    def print_trainable_parameters(self) -> None:
        """Print how many parameters are trained, in the words of peft's method of this name."""
        sizes = [(count_of(parameter), parameter.requires_grad) for parameter in self.parameters()]
        trained, total = sum(size for size, trains in sizes if trains), sum(size for size, _ in sizes)
        share = 100 * trained / max(1, total)
        text = f"trainable params: {trained:,d} || all params: {total:,d} || trainable%: {share:.4f}"
        print(text)  # noqa: T201

    def load_adapter(self, *args, **kwargs):
        """As in transformers. An adapter of a B-cos model has to give the logits of before saving, or is taken off."""
        import peft  # noqa: F401  (which brings `lora.install` in before the method of transformers is looked up)

        return super().load_adapter(*args, **kwargs)

    def dequantize(self, dtype=None):
        """As in transformers: quantised weights become those that they stand for. Layers stay B-cos layers.

        Raises:
            ValueError: the model is not quantised, or has adapters; nothing was changed.
        """
        return _dequantize(self, super().dequantize, dtype)

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        # The stock method reads the source of the class's module, and a generated class has none.
        return cls.bcos_stock_class._can_set_attn_implementation()

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        return cls.bcos_stock_class._can_set_experts_implementation()

    def _get_resized_lm_head(self, old_lm_head, *args, **kwargs):
        new = super()._get_resized_lm_head(old_lm_head, *args, **kwargs)
        if isinstance(old_lm_head, BcosLayer) and new is not old_lm_head:
            set_class(new, type(old_lm_head))
            new.b, new.normalize_weights = old_lm_head.b, old_lm_head.normalize_weights
        return new

    def _resize_token_embeddings(self, *args, **kwargs):
        gain = getattr(self.get_output_embeddings(), "gain", None)
        trained = gain is not None and gain.weight.requires_grad  # transformers sets the new head's by its weight
        embeddings = super()._resize_token_embeddings(*args, **kwargs)
        if gain is not None:
            # A tied head may get its rows only later, so the number is that of the embeddings.
            resized = _resized(gain, embeddings.num_embeddings).requires_grad_(trained)
            self.get_output_embeddings().gain = resized
        return embeddings


def _resized(gain: Gain, size: int) -> Gain:
    """A gain for another number of rows: those that stay keep theirs, and new ones have none, which is 1."""
    resized = Gain(size, gain.weight.device, gain.weight.dtype)
    kept = min(size, len(gain.weight))
    with torch.no_grad():
        resized.weight[:kept] = gain.weight[:kept]
    return resized


def _stored_config(config: PretrainedConfig) -> BcosConfig:
    stored = getattr(config, "bcos", None)
    name = repr(config._name_or_path) if config._name_or_path else f"this {config.model_type!r} model"
    if stored is None:
        raise ValueError(
            f"Not a saved B-cos model: the config of {name} has no 'bcos' entry. Load a stock model with its own "
            "class and convert it with bcos_peft.get_bcos_model. If it was converted, its config.json is damaged."
        )
    try:
        return BcosConfig.from_dict(stored)
    except (TypeError, ValueError) as error:
        raise ValueError(f"The 'bcos' entry in the config of {name} cannot be used: {error}") from error


def _refuse_untabled(model: PreTrainedModel) -> Family:
    raise ValueError(
        f"The config of this {type(model).__name__} has no family, and there is no table for "
        f"{model.config.model_type!r}. If it was converted with family=..., register that table first: "
        "bcos_peft.register_family(table)."
    )


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
