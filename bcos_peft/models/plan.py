"""From a stock model to B-cos layers: the plan, which may refuse. `application` carries it out."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.activations import ACT2CLS
from transformers.pytorch_utils import Conv1D

from bcos_peft._utils.accelerate_hooks import is_patched
from bcos_peft._utils.patterns import matches_any, matches_modules, matches_pattern
from bcos_peft.config import BcosConfig
from bcos_peft.discovery import is_headless
from bcos_peft.families import Family, HeadWithoutActivation, replacement
from bcos_peft.nn import BcosConv1D, BcosLayer, BcosLayerNorm, BcosLinear, BcosNorm, quantized_class


# What has no part in a forward pass, or is linear in any model.
_PLAIN = (
    *(nn.Embedding, nn.Dropout, nn.Identity, nn.Conv1d, nn.ModuleList, nn.ModuleDict, nn.Sequential),
    *(nn.CrossEntropyLoss, nn.BCEWithLogitsLoss, nn.MSELoss),
)
_LAYERS: dict[type, type] = {nn.Linear: BcosLinear, Conv1D: BcosConv1D, nn.LayerNorm: BcosLayerNorm}
_ACTIVATIONS = (nn.GELU, nn.SiLU, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.Tanh, nn.Mish, nn.Hardswish, nn.Hardtanh)
_HUB_ACTIVATIONS = tuple(entry[0] if isinstance(entry, tuple) else entry for entry in ACT2CLS.values())
_KNOWN_ACTIVATIONS = frozenset(_ACTIVATIONS + _HUB_ACTIVATIONS)


@dataclass
class Plan:
    """What a conversion will do, by module name."""

    bcos: dict[str, float] = field(default_factory=dict)
    swaps: dict[str, type] = field(default_factory=dict)
    dropped_activations: list[str] = field(default_factory=list)
    biases: list[str] = field(default_factory=list)
    zeroed: list[str] = field(default_factory=list)
    copied: list[str] = field(default_factory=list)
    plain: list[str] = field(default_factory=list)


def sub_plan(plan: Plan, block: str | None, blocks: list[str]) -> Plan:
    """The part of a plan that is about one of the `blocks`, or with `None` about what is in none of them."""

    def mine(name: str) -> bool:
        if block is not None:
            return name.startswith(block + ".")
        return not any(name.startswith(other + ".") for other in blocks)

    return Plan(
        bcos={name: b for name, b in plan.bcos.items() if mine(name)},
        swaps={name: cls for name, cls in plan.swaps.items() if mine(name)},
        dropped_activations=[name for name in plan.dropped_activations if mine(name)],
        biases=[name for name in plan.biases if mine(name)],
        zeroed=[name for name in plan.zeroed if mine(name)],
        copied=[name for name in plan.copied if mine(name)],
        plain=[name for name in plan.plain if mine(name)],
    )


def is_activation(module: nn.Module) -> bool:
    """Whether a module is an elementwise function with value 0 at 0, which can be explained as `x · (f(x)/x)`."""
    if type(module) not in _KNOWN_ACTIVATIONS or any(True for _ in module.parameters()):
        return False
    with torch.no_grad():
        return bool(module(torch.zeros(1, device="cpu")) == 0)


def plan_conversion(model: PreTrainedModel, stock_class: type, config: BcosConfig, family: Family) -> Plan:
    """Decide about every module of a model, without touching it.

    Raises:
        ValueError: names the first module, parameter or pattern that cannot be handled, and why.
    """
    plan = _plan_modules(model, stock_class, config, family)
    _check_patterns(plan, config, family)
    return plan


def _plan_stored(model: PreTrainedModel, stock_class: type, config: BcosConfig, family: Family) -> Plan:
    """The same for a model that is built to be loaded, whose config may come from one with another head.

    The config's patterns may match nothing here. Of a model without a head they see the names that its modules have in
    one with a head.
    """
    if not is_headless(model):
        return _plan_modules(model, stock_class, config, family)
    whole = nn.Module()
    whole._modules[model.base_model_prefix] = model
    plan = _plan_modules(whole, stock_class, config, family)
    start = len(model.base_model_prefix) + 1
    return Plan(
        bcos={name[start:]: b for name, b in plan.bcos.items()},
        swaps={name[start:]: cls for name, cls in plan.swaps.items()},
        dropped_activations=[name[start:] for name in plan.dropped_activations],
        biases=[name[start:] for name in plan.biases],
        zeroed=[name[start:] for name in plan.zeroed],
        copied=[name[start:] for name in plan.copied],
        plain=[name[start:] for name in plan.plain],
    )


def _plan_modules(model: nn.Module, stock_class: type, config: BcosConfig, family: Family) -> Plan:
    plan = Plan()
    for name, module in model.named_modules():
        _plan_module(plan, stock_class, name, module, config, family)
    _plan_parameters(plan, model, config, family)
    return plan


def _plan_module(plan: Plan, stock: type, name: str, module: nn.Module, config: BcosConfig, family: Family) -> None:
    cls = type(module)
    if hasattr(module, "base_layer"):
        raise ValueError(
            f"Cannot convert module {name!r} ({cls.__module__}.{cls.__qualname__}): it is a special linear layer; "
            "convert the model before adapters or quantisation are put on it. The model was not changed."
        )
    new = _replacement_of(module, family)
    if matches_any(family.untouched, name):
        plan.plain.append(name)
        if quantized_class(module) is not None:  # with its bias; the stock one may lose gradients
            plan.swaps[name] = quantized_class(module)
    elif new is not None and issubclass(new, BcosLayer):
        if _is_target(name, config, family):
            plan.bcos[name] = config.b_for(name)
            plan.swaps[name] = new
        else:
            plan.plain.append(name)
            if cls is not nn.Linear:  # its stock forward needs a bias, or rules of its own
                plan.swaps[name] = new
        if name in plan.swaps and matches_any(family.copied, name):
            plan.copied.append(name)
    elif new is HeadWithoutActivation:
        if config.pooler_activation == "identity":
            plan.swaps[name] = new
    elif new is not None:
        plan.swaps[name] = new
    elif matches_any(family.pooler_activations, name) and is_activation(module):
        if config.pooler_activation == "identity":
            plan.dropped_activations.append(name)


def _replacement_of(module: nn.Module, family: Family) -> type | None:
    """What takes a module's place: by its class's name in the table, or by what layers and norms always get."""
    known = replacement(family.replacements.get(type(module).__name__))
    if known is not None and issubclass(known, BcosNorm) and getattr(module, "weight", None) is None:
        return None
    return known or _LAYERS.get(type(module)) or quantized_class(module)


def _is_known(module: nn.Module, stock: type) -> bool:
    """Whether a module is of a class that any model may have, or of one that is defined beside the model's."""
    if is_activation(module) or type(module) in _PLAIN or isinstance(module, stock):
        return True
    return type(module).__module__ in _homes(stock)


def _refuse_patched(name: str, module: nn.Module) -> None:
    cls = type(module)
    what = f"module {name!r} ({cls.__qualname__})" if name else f"this {cls.__qualname__}"
    if any(origin.__module__.startswith("liger_kernel") for origin in (cls, cls.forward)):
        raise ValueError(
            f"Cannot convert {what}: Liger kernels have replaced its code, for the whole process, and what they "
            "compute cannot be held linear. Load the model in a process that does not call apply_liger_kernel_to_..., "
            "and convert it there."
        )
    if is_patched(module):
        raise ValueError(
            f"Cannot convert {what}: something has patched its forward, as trainers and Liger kernels do. Convert the "
            "model first, before a trainer is built or a kernel library touches it. If it is trained already: save "
            "it, load it again and convert what was loaded."
        )


def refuse_patched(model: nn.Module) -> None:
    """Refuse a model of which something has replaced the forward of a module, as trainers and kernel libraries do."""
    for name, module in model.named_modules():
        _refuse_patched(name, module)


def _homes(stock: type) -> set[str]:
    """Where the classes of a model are defined; one of the user's own has modules of the model that it builds on."""
    return {base.__module__ for base in stock.__mro__ if issubclass(base, PreTrainedModel)} - {
        PreTrainedModel.__module__
    }


def _exponent(name: str, config: BcosConfig, family: Family) -> float | None:
    """The B of a linear layer by its name in a model with a head; None if it stays plain."""
    return config.b_for(name) if _is_target(name, config, family) else None


def _is_target(name: str, config: BcosConfig, family: Family) -> bool:
    if matches_modules(config.exclude_modules, name) or matches_any(family.untouched, name):
        return False
    if matches_any(family.lm_heads, name):
        return config.convert_head
    if config.target_modules is not None:
        return matches_modules(config.target_modules, name)
    return not matches_any(family.plain, name)


def _plan_parameters(plan: Plan, model: nn.Module, config: BcosConfig, family: Family) -> None:
    for name, module in model.named_modules():
        known = isinstance(module, (nn.Linear, nn.Conv1d, nn.Embedding)) or name in plan.swaps
        known = known and not matches_any(family.untouched, name)
        for parameter in module._parameters:
            if module._parameters[parameter] is None:
                continue
            full_name = f"{name}.{parameter}" if name else parameter
            if matches_any(family.zeroed, full_name):
                plan.zeroed.append(full_name)
            elif matches_any(family.biases, full_name) or (known and parameter == "bias"):
                plan.biases.append(full_name)
    if config.remove_bias:
        return
    biases = plan.biases + plan.zeroed
    harmful = [name for name in biases if not matches_any(_with_bias(family.harmless_biases), name)]
    if harmful:
        raise ValueError(
            f"remove_bias=False cannot be exact for this model: {len(harmful)} biases are constants that reach the "
            f"logits and belong to no token ({', '.join(harmful[:3])}{', ...' if len(harmful) > 3 else ''}). Use "
            "remove_bias=True."
        )
    plan.biases.clear()
    plan.zeroed.clear()


def _is_bias(name: str, family: Family, linear: bool, config: BcosConfig) -> bool:
    """Whether a parameter of a converted model is one that a conversion takes away."""
    if matches_any(_with_bias(family.untouched), name):
        return False
    if not (matches_any(family.biases, name) or (linear and name.endswith(".bias"))):
        return False
    return config.remove_bias or not matches_any(_with_bias(family.harmless_biases), name)


def _with_bias(patterns: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(rf"({pattern})(\.bias)?" for pattern in patterns)


def _check_patterns(plan: Plan, config: BcosConfig, family: Family) -> None:
    linear = list(plan.bcos) + plan.plain
    for argument in ("target_modules", "exclude_modules"):
        modules = getattr(config, argument)
        for entry in [modules] if isinstance(modules, str) else modules or []:
            one = entry if isinstance(modules, str) else [entry]
            matched = [name for name in linear if matches_modules(one, name)]
            if not matched:
                raise ValueError(_unmatched(argument, entry, "linear layer", linear))
            heads = all(matches_any(family.lm_heads, name) for name in matched)
            if argument == "target_modules" and heads and not config.convert_head:
                raise ValueError(
                    f"target_modules: {entry!r} is a language-modelling head, which is converted with "
                    "convert_head=True "
                    "only. Pass that too, or leave it out."
                )
    for pattern in config.b_pattern:
        if not any(matches_pattern(pattern, name) for name in plan.bcos):
            raise ValueError(_unmatched("b_pattern", pattern, "B-cos layer", list(plan.bcos)))
    if not plan.bcos:
        raise ValueError("No linear layer would become a B-cos layer: check target_modules and exclude_modules.")


def _unmatched(argument: str, entry: str, what: str, names: list[str]) -> str:
    endings = sorted({name.rsplit(".", 1)[-1] for name in names})
    return f"{argument}: {entry!r} matches no {what} of the model. Names end with: {', '.join(endings)}."
