"""B-cos model classes, generated from the stock ones.

`BertForSequenceClassification` becomes `BcosBertForSequenceClassification` with `model_type="bcos_bert"`:
parameter names stay those of the stock model, a plain `AutoModelFor….from_pretrained` loads it once `bcos_peft` is
imported, and without the import transformers refuses it instead of loading a silently different model.
"""

from __future__ import annotations

import copy
import inspect
import re
from contextvars import ContextVar
from dataclasses import replace

import torch
from transformers import PretrainedConfig, PreTrainedModel

from bcos_peft._utils.accelerate_hooks import set_class
from bcos_peft.config import BcosConfig
from bcos_peft.discovery import is_headless
from bcos_peft.families import Family
from bcos_peft.models.apply import _fill_zeros, apply_plan
from bcos_peft.models.guards import _check_forward, refuse_liger, refuse_tensor_parallel
from bcos_peft.models.hub import BcosHubMixin
from bcos_peft.models.initialization import _InitializedAsStock
from bcos_peft.models.plan import _plan_stored
from bcos_peft.models.quantized_loading import _add_stored_gains, _dequantize, _quantize_layers, _stored_names
from bcos_peft.models.summary import ConversionSummary, _summarize
from bcos_peft.nn import BcosLayer, Gain, count_of


PREFIX = "bcos_"
# Whether a B-cos model is being built around the one that is.
_building: ContextVar[bool] = ContextVar("building", default=False)
# What peft, compilers and trainers put between a module's name and those of its parts.
_AROUND = ("base_layer", "original_module", r"modules_to_save\.[^.]+", "_orig_mod", r"_\w+_wrapped_module")
_ADAPTER = re.compile(rf"\.({'|'.join(_AROUND)})(?=\.|$)")


class BcosModel(_InitializedAsStock, BcosHubMixin):
    """What every generated class has beside the stock model. Not to be instantiated.

    Example:
        >>> from bcos_peft import models
        >>> from bcos_peft.models import BcosModel
        >>> cls = models.BcosBertForSequenceClassification
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
        _add_stored_gains(model, stored, load_config.weight_mapping)
        load = super(BcosModel, type(model))._load_pretrained_model
        found = load(model, state_dict, checkpoint_files, load_config, *args, **kwargs)
        _fill_zeros(model)
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
            found = _as_in(Family.from_dict(stored), self.bcos_stock_class, self.config)
            self.__dict__["_bcos_family"] = known = copy.deepcopy(stored), found
        return known[1]

    def bcos_name(self, name: str) -> str:
        """What the config calls the module `name`: its name in a model with a head, without adapters and wrappers."""
        name = _ADAPTER.sub("", name)
        return f"{self.base_model_prefix}.{name}" if is_headless(self) else name

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


def _as_in(family: Family, stock: type[PreTrainedModel], config: PretrainedConfig) -> Family:
    """What was found out about a model, for another class that its weights are loaded into: one stack of two, say."""
    if not family.seq2seq or "decoder_input_ids" in inspect.signature(stock.forward).parameters:
        return family
    return replace(family, seq2seq=False, causal=bool(getattr(config, "is_decoder", False)))


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
