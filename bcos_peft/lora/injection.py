"""What adapters of peft become on a B-cos model: LoRA inside the layers, and a refusal for what attaches outside."""

from __future__ import annotations

import copy

import torch
from peft import PeftConfig, PeftType
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer, check_target_module_exists
from torch import nn
from transformers.pytorch_utils import Conv1D

from bcos_peft.config import BcosConfig
from bcos_peft.lora.config import _bcos_inside, _check_base, _with_base
from bcos_peft.lora.layer import BcosLora
from bcos_peft.lora.method import BcosPeftConfig, as_peft_config, check_other_adapter
from bcos_peft.lora.tables import _know_experts
from bcos_peft.nn import BcosLayer


# Forms of LoRA that change what its layer computes, beyond W + s·B·A. (An initialisation, as of PiSSA, does not.)
_VARIANTS = (
    "use_dora",
    "use_qalora",
    "arrow_config",
    "alora_invocation_tokens",
    "use_bdlora",
    "velora_config",
    "monteclora_config",
    "kasa_config",
)
_LINEAR = (nn.Linear, Conv1D)
# Methods that no layer can take, by the names of their types: an older peft lacks some.
_REFUSED = {
    "ADAPTION_PROMPT": "attends to prompts of its own, which contribute and belong to no token",
    "BEFT": "adds constants that belong to no token",
    "LILY": "mixes its adapters by weights that depend on the input",
    "POLY": "mixes its adapters by task_ids, which are no input of the model inside",
    "SHADOW": "adds what a second network makes of the input, outside the B-cos layers",
    "XLORA": "mixes its adapters by weights that depend on the input, outside the B-cos layers",
}


def _prepare_injection(tuner: BaseTuner, model: nn.Module, config: PeftConfig) -> PeftConfig:
    """Make an adapter's config fit a B-cos model, or refuse it.

    Args:
        tuner: peft's model of the method, such as `LoraModel`.
        model: what the adapter goes on; one without B-cos layers is left to peft.
        config: the adapter's config.

    Returns:
        `PeftConfig`: for LoRA on a B-cos model a config of its own, in which `target_modules=None` is peft's default
        for the stock architecture.

    Raises:
        ValueError: the adapter would attach outside the non-linearity of a B-cos layer, or add a bias, or mix by the
            input, or its gradient is wrong, or it was trained on another model.

    Example:
        >>> import peft
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> from bcos_peft import BcosConfig, get_bcos_model
        >>> small = BertConfig(num_hidden_layers=1, hidden_size=16, num_attention_heads=2, intermediate_size=32)
        >>> model = get_bcos_model(BertForSequenceClassification(small), BcosConfig())
        >>> peft.get_peft_model(model, peft.LoHaConfig(target_modules=["intermediate.dense"]))
        Traceback (most recent call last):
        ValueError: LOHA would attach outside the B-cos layer 'bert.encoder.layer.0.intermediate.dense': ...
    """
    if not any(isinstance(module, BcosLayer) for module in model.modules()):
        check_other_adapter(config, model)
        _check_base(config, model)
        return config
    config = _describe(config, model)
    bcos = _bcos_inside(model)
    if bcos is not None:
        _know_experts(bcos)
    config = _fill_targets(tuner, model, config)
    targets = _bcos_targets(model, config)
    if config.peft_type == PeftType.LORA:
        _check_lora(config, targets)
        config._register_custom_module({BcosLayer: _make_layer})
    elif targets:
        raise ValueError(
            f"{config.peft_type.value} would attach outside the B-cos layer {next(iter(targets))!r}: what it learns "
            "would not enter the cosine, and merging it would change the model. The model was not changed. Use "
            "peft.LoraConfig, which goes inside, or target_modules that stay plain (query, key and value projections)."
        )
    if bcos is not None and config.peft_type.value == "C3A" and _gradient_of_c3a_is_wrong():
        raise ValueError(
            "C3A: the backward pass of this peft gives a wrong gradient with respect to the input, so contributions, "
            "which are read off it, would not sum to the logit. The model was not changed. Use peft.LoraConfig."
        )
    return config


def _describe(config: PeftConfig, model: nn.Module) -> PeftConfig:
    """The config of an adapter of any type, with the B-cos model inside `model` that it goes on.

    Raises:
        ValueError: no B-cos model can have an adapter of this type, or this one is another model's.
    """
    if isinstance(config, BcosConfig):
        config = as_peft_config(config, model)
    if not isinstance(config, BcosPeftConfig):
        check_other_adapter(config, model)
    _check_base(config, model)
    kind = getattr(config.peft_type, "value", None)
    if kind in _REFUSED and _bcos_inside(model) is not None:
        raise ValueError(
            f"{kind} {_REFUSED[kind]}: contributions would not sum to the logit. The model was not changed. Use one "
            "LoraConfig, or combine adapters with add_weighted_adapter."
        )
    return _with_base(config, model)


def _gradient_of_c3a_is_wrong() -> bool:
    """Whether it is that of another matrix: a linear map times its input is its gradient times the input."""
    from peft.tuners.c3a.utils import BlockCircularConvolution

    x = torch.tensor([[1.0, 2.0, 3.0, 5.0]], dtype=torch.float64, requires_grad=True)
    kernel = torch.tensor([[[1.0, 0.5, 2.0, 0.25]]], dtype=torch.float64)
    output = BlockCircularConvolution.apply(x, kernel)[0, 1]  # the first comes out right
    (gradient,) = torch.autograd.grad(output, x)
    return bool((gradient * x).sum().sub(output).abs() > 1e-6)


def _make_layer(target: nn.Module, adapter_name: str, **kwargs) -> BcosLora | None:
    base = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
    if base.b is None or kwargs.get("parameter_name") is not None:
        return None  # a plain layer, or an update of the weight itself: peft's own layer is right
    if hasattr(base, "dequantized"):
        from bcos_peft.lora.quantized import _CLASSES

        return _CLASSES[type(base)](target, adapter_name, **kwargs)
    return BcosLora(target, adapter_name, **kwargs)


def _fill_targets(tuner: BaseTuner, model: nn.Module, config: PeftConfig) -> PeftConfig:
    """peft's default targets, which it would fill in only later, when they cannot be looked at any more."""
    if _bcos_inside(model) is None or getattr(config, "target_modules", "none needed") is not None:
        return config
    return tuner._prepare_adapter_config(config, BaseTuner.get_model_config(model))


def _bcos_targets(model: nn.Module, config: PeftConfig) -> dict[str, BcosLayer]:
    """The B-cos layers that the config means, by name."""
    if getattr(config, "target_modules", None) is None:
        return {}
    everything = str(config.target_modules).lower() == "all-linear"
    if everything:
        config = copy.copy(config)
        config.target_modules = ".*"
    found, inner = {}, ()
    for name, module in model.named_modules():
        if inner and name.startswith(inner):
            continue
        if isinstance(module, BaseTunerLayer):
            inner = (*inner, name + ".")
            module = module.get_base_layer()
        if not isinstance(module, BcosLayer) or module.b is None or (everything and not isinstance(module, _LINEAR)):
            continue
        if check_target_module_exists(config, name):
            found[name] = module
    return found


def _check_lora(config: PeftConfig, targets: dict[str, BcosLayer]) -> None:
    if getattr(config, "lora_bias", False):
        raise ValueError(
            "lora_bias=True adds constants that belong to no token, so contributions would not sum to the logit. The "
            "model was not changed. Use lora_bias=False."
        )
    for name, layer in targets.items():
        if not isinstance(layer, _LINEAR):
            parameters = [f"{name.rpartition('.')[2]}.{parameter}" for parameter in layer._parameters]
            raise ValueError(
                f"target_modules names {name!r}, a {type(layer).__name__} with the weights of several layers. The "
                f"model was not changed. Name its parameters instead: LoraConfig(target_parameters={parameters})."
            )
    used = [field for field in _VARIANTS if getattr(config, field, None)]
    if getattr(config, "init_lora_weights", None) == "mica":
        used.append("init_lora_weights='mica'")
    if used and targets:
        raise ValueError(
            f"{used[0]}: this form of LoRA changes the output of its layer, outside the B-cos layer "
            f"{next(iter(targets))!r}, so its update would not enter the cosine. The model was not changed. Use plain "
            "LoRA there (use_rslora, rank_pattern and peft's initialisations are fine), or target_modules that stay "
            "plain (query, key and value projections)."
        )
