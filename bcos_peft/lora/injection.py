"""What adapters of peft become on a B-cos model: LoRA inside the layers, and a refusal for what attaches outside."""

from __future__ import annotations

import copy

from peft import PeftConfig, PeftType
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer, check_target_module_exists
from torch import nn
from transformers.pytorch_utils import Conv1D

from bcos_peft.lora.config import _check_base, _with_base
from bcos_peft.lora.layer import BcosLora
from bcos_peft.models import BcosModel
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
# Methods that are not linear in the input on any layer, by the names of their types: an older peft lacks some.
_NOT_LINEAR = {
    "BEFT": "adds constants that belong to no token",
    "LILY": "mixes its adapters by weights that depend on the input",
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
            input, or it was trained on another model.

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
    _check_base(config, model)
    if not any(isinstance(module, BcosLayer) for module in model.modules()):
        return config
    if isinstance(model, BcosModel):
        config = _with_base(config, model)
    _fill_targets(tuner, model, config)
    targets = _bcos_targets(model, config)
    if config.peft_type == PeftType.LORA:
        _check_lora(config, targets)
        config._register_custom_module({BcosLayer: _make_layer})
    elif config.peft_type.value in _NOT_LINEAR:
        raise ValueError(
            f"{config.peft_type.value} {_NOT_LINEAR[config.peft_type.value]}: contributions would not sum to the "
            "logit. The model was not changed. Use one LoraConfig, or combine adapters with add_weighted_adapter."
        )
    elif targets:
        raise ValueError(
            f"{config.peft_type.value} would attach outside the B-cos layer {next(iter(targets))!r}: what it learns "
            "would not enter the cosine, and merging it would change the model. The model was not changed. Use "
            "peft.LoraConfig, which goes inside, or target_modules that stay plain (query, key and value projections)."
        )
    return config


def _make_layer(target: nn.Module, adapter_name: str, **kwargs) -> BcosLora | None:
    base = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
    if base.b is None or kwargs.get("parameter_name") is not None:
        return None  # a plain layer, or an update of the weight itself: peft's own layer is right
    if hasattr(base, "dequantized"):
        from bcos_peft.lora.quantized import _CLASSES

        return _CLASSES[type(base)](target, adapter_name, **kwargs)
    return BcosLora(target, adapter_name, **kwargs)


def _fill_targets(tuner: BaseTuner, model: nn.Module, config: PeftConfig) -> None:
    """peft knows default targets by the stock model type."""
    if not isinstance(model, BcosModel) or getattr(config, "target_modules", "none needed") is not None:
        return
    defaults = getattr(tuner, "target_module_mapping", {}).get(model.bcos_family.model_type)
    if defaults is not None and not getattr(config, "target_parameters", None):
        config.target_modules = defaults if isinstance(defaults, str) else set(defaults)


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
