"""peft on B-cos models: LoRA goes inside the B-cos layers, and what would attach outside of them is refused.

`lora_install` puts the first seven functions around methods of peft and of transformers, which they get as `original`.
Models without B-cos layers pass through untouched.
"""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path

from peft import PeftConfig, PeftType
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer, check_target_module_exists
from torch import nn
from transformers.pytorch_utils import Conv1D

from bcos_peft.hub_upload import upload
from bcos_peft.layers import BcosLayer
from bcos_peft.lora_beside import load_beside, save_beside
from bcos_peft.lora_config import BcosLoraConfig, check_base, with_base
from bcos_peft.lora_layer import BcosLora
from bcos_peft.lora_portable import check_probe, describe_adapters, extend_card, load
from bcos_peft.models import BcosModel


__all__ = [
    "auto_from_pretrained",
    "complete",
    "init_for_task",
    "inject_adapter",
    "load_adapter",
    "load_into_transformers",
    "prepare_injection",
    "push_to_hub",
    "save_pretrained",
]

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


def inject_adapter(original, self, model, adapter_name, *args, **kwargs):
    """`BaseTuner.inject_adapter`."""
    self.peft_config[adapter_name] = prepare_injection(self, model, self.peft_config[adapter_name])
    return original(self, model, adapter_name, *args, **kwargs)


def init_for_task(original, self, model, peft_config=None, *args, **kwargs):
    """`__init__` of the `PeftModelFor…` that save a head: they write its name into the config that they were given.

    Some do so after the adapter is in, when the config of `inject_adapter` would be another object than theirs.
    """
    if isinstance(model, BcosModel):
        peft_config = with_base(peft_config, model)
    original(self, model, peft_config, *args, **kwargs)


def save_pretrained(original, self, save_directory, *args, **kwargs):
    """`PeftModel.save_pretrained`: with what the adapter needs to be loaded alone."""
    ours = any(isinstance(config, BcosLoraConfig) for config in self.peft_config.values())
    if ours:
        describe_adapters(self)
    result = original(self, save_directory, *args, **kwargs)
    if ours and kwargs.get("is_main_process", True):
        complete(self, save_directory, kwargs.get("repo_id"), kwargs.get("state_dict"))
    return result


def complete(model, folder, repo_id: str | None = None, state_dict=None) -> None:
    """Write beside the adapters of a model, in the folder that they were saved in, what else they need."""
    for path in (Path(folder), *(Path(folder) / name for name in model.peft_config)):
        if (path / "adapter_config.json").exists():
            save_beside(model, path, state_dict)
    extend_card(folder, repo_id or str(folder), next(iter(model.peft_config.values())).base_model_name_or_path)


def load_adapter(original, self, model_id, adapter_name, *args, **kwargs):
    """`PeftModel.load_adapter`: checks that the logits are those of before saving, or takes the adapter off again."""
    result = original(self, model_id, adapter_name, *args, **kwargs)
    if isinstance(self.peft_config[adapter_name], BcosLoraConfig):
        try:
            _put_beside(self, adapter_name, model_id, kwargs)
        except ValueError:
            self.delete_adapter(adapter_name) if len(self.peft_config) > 1 else self.base_model.unload()
            raise
    return result


def load_into_transformers(original, self, peft_model_id=None, adapter_name=None, *args, **kwargs):
    """`PreTrainedModel.load_adapter`: checks the same, and takes an adapter that fails off again."""
    result = original(self, peft_model_id, adapter_name, *args, **kwargs)
    name = adapter_name or "default"
    if isinstance(self.peft_config[name], BcosLoraConfig) and peft_model_id is not None:
        options = {key: value for key, value in kwargs.items() if value is not None}
        options |= getattr(kwargs.get("load_config"), "download_kwargs", None) or {}
        try:
            _put_beside(self, name, peft_model_id, options | (kwargs.get("adapter_kwargs") or {}))
        except ValueError:
            self.delete_adapter(name)
            _take_off_empty_layers(self)
            raise
    return result


def _take_off_empty_layers(model: nn.Module) -> None:
    """Put the layers of a model back in their places where no adapter is left."""
    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer) and not any(
            len(getattr(module, part)) for part in module.adapter_layer_names
        ):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, module.get_base_layer())


def push_to_hub(original, self, repo_id, *args, **kwargs):
    """`PeftModel.push_to_hub`, which would put an empty card in place of the one that `save_pretrained` writes."""
    if not any(isinstance(config, BcosLoraConfig) for config in self.peft_config.values()):
        return original(self, repo_id, *args, **kwargs)
    kwargs.pop("max_shard_size", None)
    with tempfile.TemporaryDirectory() as folder:
        self.save_pretrained(folder, repo_id=repo_id)
        names = [path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()]
        return upload(Path(folder), sorted(names), repo_id, **kwargs)


def _put_beside(model, adapter_name: str, path, options: dict) -> None:
    """What was saved beside an adapter. If the logits are not those of before saving, it goes again."""
    undo = load_beside(model, str(path), **options)
    try:
        check_probe(model, adapter_name)
    except ValueError:
        undo()
        raise


def auto_from_pretrained(original, cls, pretrained_model_name_or_path, *args, **kwargs):
    """`AutoPeftModelFor….from_pretrained`: converts the base."""
    config = PeftConfig.from_pretrained(pretrained_model_name_or_path, **kwargs)
    if not isinstance(config, BcosLoraConfig):
        return original(cls, pretrained_model_name_or_path, *args, **kwargs)
    names = ("adapter_name", "is_trainable", "config", "revision")
    kwargs |= dict(zip(names, args, strict=False))
    for name in ("config", "import_allowlist"):
        kwargs.pop(name, None)
    return load(pretrained_model_name_or_path, **kwargs)


def prepare_injection(tuner: BaseTuner, model: nn.Module, config: PeftConfig) -> PeftConfig:
    """Make an adapter's config fit a B-cos model, or refuse it.

    Args:
        tuner: peft's model of the method, such as `LoraModel`.
        model: what the adapter goes on; one without B-cos layers is left to peft.
        config: the adapter's config.

    Returns:
        `PeftConfig`: for LoRA on a B-cos model a config of its own, in which `target_modules=None` is peft's default
        for the stock architecture.

    Raises:
        ValueError: the adapter would attach outside the non-linearity of a B-cos layer, or add a bias, or it was
            trained on another model.

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
    check_base(config, model)
    if not any(isinstance(module, BcosLayer) for module in model.modules()):
        return config
    if isinstance(model, BcosModel):
        config = with_base(config, model)
    _fill_targets(tuner, model, config)
    targets = _bcos_targets(model, config)
    if config.peft_type == PeftType.LORA:
        _check_lora(config, targets)
        config._register_custom_module({BcosLayer: _make_layer})
    elif config.peft_type == PeftType.XLORA:
        raise ValueError(
            "XLORA mixes its adapters by weights that depend on the input, outside the B-cos layers: contributions "
            "would not sum to the logit. The model was not changed. Use one LoraConfig, or combine adapters with "
            "add_weighted_adapter."
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
        from bcos_peft.lora_quantized import CLASSES

        return CLASSES[type(base)](target, adapter_name, **kwargs)
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
