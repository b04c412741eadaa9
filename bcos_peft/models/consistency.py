"""What the modules of a converted model are, compared with what its config says.

Only the config is saved beside the weights: a module that it does not tell of would be another one after loading, and
may not be linear in its input. Nothing here looks at what the stock config says (sizes, activations).
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from bcos_peft._utils.patterns import matches_any, matches_pattern
from bcos_peft.config import BcosConfig
from bcos_peft.families import Family, HeadWithoutActivation
from bcos_peft.models.initialization import _is_converted
from bcos_peft.models.plan import _is_bias, _is_known, _is_target, _replacement_of, is_activation
from bcos_peft.nn import BcosLayer, DynamicLinear, Gain, is_quantized


# What was found right, beside the models, which are copied and pickled.
_CHECKED: WeakKeyDictionary[nn.Module, tuple] = WeakKeyDictionary()
_LOADED: WeakKeyDictionary[nn.Module, dict[str, type]] = WeakKeyDictionary()
# What trainers, compilers and adapters put around modules; what is inside is looked at.
_AROUND = ("peft.", "accelerate.", "deepspeed.", "torch.distributed.", "torch._dynamo.", "torch.nn.utils.")
# Of what peft puts around a module, the parts that are the model's own.
_INSIDE = ("base_layer", "original_module", "modules_to_save")


def check_modules(model: PreTrainedModel) -> None:
    """Refuse a converted model whose modules are not those that its config says.

    Args:
        model ([`BcosModel`]): with or without adapters, whose own parts are not looked at.

    Raises:
        ValueError: names the first module that the config does not tell of, and how to say that it is meant.

    Example:
        >>> from torch import nn
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> from bcos_peft import BcosConfig, get_bcos_model
        >>> from bcos_peft.models import check_modules
        >>> small = BertConfig(num_hidden_layers=1, hidden_size=16, num_attention_heads=2, intermediate_size=32)
        >>> model = get_bcos_model(BertForSequenceClassification(small), BcosConfig())
        >>> model.classifier = nn.Linear(16, 2, bias=False)
        >>> check_modules(model)
        Traceback (most recent call last):
        ValueError: 'classifier' of this BcosBertForSequenceClassification is a plain Linear, but its config says ...
        >>> model.config.bcos["exclude_modules"] = ["classifier"]
        >>> check_modules(model)
    """
    modules = [(path, module) for path, module in _own_modules(model) if module is not model]
    state = str(model.config.bcos), [_state(path, module) for path, module in modules]
    if _CHECKED.get(model) == state:  # looking takes a tenth of the time of comparing
        return
    config, family = model.bcos_config, model.bcos_family
    for path, module in modules:
        name = model.bcos_name(path)
        found = _difference(model, name, module, config, family) or _bias(name, module, config, family)
        if found is not None:
            raise ValueError(f"{name!r} of this {type(model).__name__} {found}")
    _CHECKED[model] = state


def _check_loading(model: PreTrainedModel) -> None:
    """Compare layers that the conversion has not made with those of a model that is loaded by the same config.

    Raises:
        ValueError: one would be loaded the wrong way round, or not at all.
    """
    excluded, named = model.bcos_config.exclude_modules, model.bcos_config.target_modules
    # Of plain layers only those that a config names have a place that a B-cos layer may have had.
    kinds = BcosLayer if excluded is None and named is None else (BcosLayer, nn.Linear)
    layers = [(path, module) for path, module in _own_modules(model) if isinstance(module, kinds)]
    own = {path: module for path, module in layers if not is_quantized(module) and not _is_converted(module)}
    if not own:
        return
    with torch.device("meta"):
        loaded = type(model)(copy.deepcopy(model.config))
    there = {loaded.bcos_name(path): module for path, module in loaded.named_modules()}
    for path, module in own.items():
        name = model.bcos_name(path)
        other = there.get(name)
        if other is None or isinstance(other, Conv1D) != isinstance(module, Conv1D) or _shape(other) != _shape(module):
            what = "no such layer" if other is None else f"a {type(other).__name__} with weights {_shape(other)}"
            raise ValueError(
                f"{name!r} of this {type(model).__name__} is a {type(module).__name__} with weights {_shape(module)}, "
                f"but a model that is loaded has {what} there. Nothing was changed. Put one of that kind there, or "
                "change the config (num_labels, sizes) with it."
            )


def current_config(model) -> BcosConfig:
    """The model's config with the B that its layers have now, should somebody have set it on the layers.

    Raises:
        ValueError: the modules of the model are not those that the config says (`check_modules`).
    """
    check_modules(model)
    _check_loading(model)
    config = model.bcos_config
    layers = {model.bcos_name(name): module for name, module in model.named_modules() if isinstance(module, BcosLayer)}
    now = {name: module.b for name, module in layers.items() if module.b is not None}
    if all(b == config.b_for(name) for name, b in now.items()):
        return config
    if not config.align:
        config = replace(config, align=True, b=1.0, b_pattern={})
    free = {b for name, b in now.items() if not any(matches_pattern(key, name) for key in config.b_pattern)}
    if len(free) == 1:
        config = replace(config, b=free.pop())
    single = {rf"\A{re.escape(name)}": b for name, b in now.items() if b != config.b_for(name)}
    return replace(config, b_pattern=single | config.b_pattern)


def _shape(module: nn.Module) -> tuple[int, ...] | None:
    weight = getattr(module, "weight", None)
    return None if weight is None else tuple(weight.shape)


def _state(path: str, module: nn.Module) -> tuple:
    """All that is looked at of a module."""
    own = vars(module)
    parameters = tuple(name for name, parameter in own["_parameters"].items() if parameter is not None)
    return path, type(module), parameters, own.get("b"), own.get("normalize_weights")


def _own_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules of a model with their names, without those that are an adapter's."""
    waiting = [("", model)]
    while waiting:
        name, module = waiting.pop()
        around, adapter = _kind(type(module))
        if not around:
            yield name, module
        for key, child in module._modules.items():
            if child is not None and (not adapter or key in _INSIDE):
                waiting.append((f"{name}.{key}" if name else key, child))


@lru_cache(maxsize=1024)  # reading names takes longer than all the rest
def _kind(cls: type) -> tuple[bool, bool]:
    """Whether modules of a class are only put around other ones, or beside them, and whether they are adapters."""
    if issubclass(cls, DynamicLinear):  # also by a class that FSDP or a parametrisation has made of it
        return False, False
    homes = [base.__module__ for base in cls.__mro__]
    return any(home.startswith(_AROUND) for home in homes), any(home.startswith("peft.") for home in homes)


def _loaded_types(model: PreTrainedModel) -> dict[str, type]:
    """The classes of the modules of a model that is loaded by the same config, by their names in it."""
    known = _LOADED.get(model)
    if known is None:
        with torch.device("meta"):
            loaded = type(model)(copy.deepcopy(model.config))
        known = _LOADED[model] = {loaded.bcos_name(path): type(module) for path, module in loaded.named_modules()}
    return known


def _difference(
    model: PreTrainedModel, name: str, module: nn.Module, config: BcosConfig, family: Family
) -> str | None:
    new = _replacement_of(module, family)
    if isinstance(module, BcosLayer):
        return _layer_difference(name, module, _is_target(name, config, family), config)
    if isinstance(module, HeadWithoutActivation) or new is HeadWithoutActivation:
        return _head_difference(isinstance(module, HeadWithoutActivation), config)
    if isinstance(module, DynamicLinear):
        return None
    if new is not None and issubclass(new, BcosLayer):
        if _is_target(name, config, family):
            return _is_plain(name, module, config)
        return None if type(module) is nn.Linear else _not_converted(module, new)
    if new is not None:
        return _not_converted(module, new)
    dropped = config.pooler_activation == "identity" and matches_any(family.pooler_activations, name)
    if dropped and is_activation(module):
        return (
            f"is a {type(module).__name__}, but its config says that this activation is dropped: loaded again the "
            "model would lack it. Nothing was changed. If it is meant, say so: "
            "model.config.bcos['pooler_activation'] = 'dynamic'. Else put nn.Identity() there."
        )
    if (
        _is_known(module, model.bcos_stock_class)
        or isinstance(module, Gain)
        or _loaded_types(model).get(name) is type(module)
    ):
        return None
    return (
        f"is a {type(module).__module__}.{type(module).__qualname__}, which the conversion has not made and the "
        "config cannot tell of: a model that is loaded would lack it. Nothing was changed. Take it out, or convert a "
        "stock model whose class builds it."
    )


def _head_difference(unsquashed: bool, config: BcosConfig) -> str | None:
    if unsquashed == (config.pooler_activation == "identity"):
        return None
    return (
        f"{'lacks' if unsquashed else 'has'} its activation, but its config says pooler_activation="
        f"{config.pooler_activation!r}: loaded again it would be another one. Nothing was changed. Make them alike: "
        "model.config.bcos['pooler_activation'] is what is saved."
    )


def _layer_difference(name: str, layer: BcosLayer, target: bool, config: BcosConfig) -> str | None:
    if layer.b is None:
        return _is_plain(name, layer, config) if target else None
    if not target:
        return (
            f"is a B-cos layer with B = {layer.b:g}, but its config says that it stays plain: loaded again it would "
            "be a plain layer, and give other outputs. Nothing was changed. Put a plain nn.Linear without bias "
            "there; or convert the stock model with a config that names it: target_modules, exclude_modules, and "
            "convert_head for language-modelling heads."
        )
    if layer.normalize_weights != config.normalize_weights:
        return (
            f"has normalize_weights={layer.normalize_weights}, but its config says {config.normalize_weights}. "
            "Nothing was changed. All layers of a model have the same: that of the config."
        )
    return None


def _is_plain(name: str, module: nn.Module, config: BcosConfig) -> str:
    b, excluded = config.b_for(name), config.exclude_modules
    meant = f"({excluded})|{name}" if isinstance(excluded, str) else [*(excluded or []), name]
    sizes = f"{module.in_features}, {module.out_features}, " if isinstance(module, nn.Linear) else "..., "
    return (
        f"is a plain {type(module).__name__}, but its config says that it is a B-cos layer with B = {b:g}: loaded "
        "again it would be one, and give other outputs. Nothing was changed. If it is meant to stay plain, say so: "
        f"model.config.bcos['exclude_modules'] = {meant!r} (and no bias). Else convert it: put a "
        f"bcos_peft.nn.BcosLinear({sizes}b={b:g}) with its weight there."
    )


def _not_converted(module: nn.Module, replacement: type) -> str:
    return (
        f"is a stock {type(module).__name__}, which was put there after the conversion: what it computes is not held "
        f"linear in its input, and loaded again it would be a {replacement.__name__}. Nothing was changed. Put a "
        f"bcos_peft layer there, or load the stock model, change it, and convert that."
    )


def _bias(name: str, module: nn.Module, config: BcosConfig, family: Family) -> str | None:
    """A bias that the conversion would have taken away."""
    for parameter, value in module._parameters.items():
        linear = isinstance(module, (nn.Linear, nn.Conv1d, DynamicLinear))
        if value is not None and _is_bias(f"{name}.{parameter}", family, linear, config):
            return (
                f"has a {parameter!r}, which is a constant that belongs to no token: contributions would not sum to "
                "the logit, and a model that is loaded has none. Nothing was changed. Put a module there that is "
                "made with bias=False."
            )
    return None
