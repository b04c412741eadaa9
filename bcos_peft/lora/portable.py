"""Adapters that travel without their base: what is written beside the weights, and `load`, which makes it again."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import PeftConfig, PeftModel
from torch import nn
from transformers import AutoConfig, BitsAndBytesConfig, PreTrainedModel

from bcos_peft import models
from bcos_peft._utils.accelerate_hooks import set_wrappers_aside
from bcos_peft._utils.arguments import checked_arguments
from bcos_peft._utils.staging import settle
from bcos_peft.attribution import probe_inputs
from bcos_peft.config import BcosConfig
from bcos_peft.convert import get_bcos_model
from bcos_peft.lora.config import _DESCRIBED
from bcos_peft.lora.method import BcosPeftConfig
from bcos_peft.lora.missing import _missing, _quantization
from bcos_peft.lora.precision import _cast, _describe_precision, _told, _tolerance
from bcos_peft.lora.vocabulary import _check_rows, _mark_rows, _resize
from bcos_peft.models import PREFIX, BcosModel, current_config, find_bcos_model


_logger = logging.getLogger(__name__)

_LABELS = ("pad_token_id", "id2label", "label2id", "problem_type")  # the first matters to every model
_PROBES = 16


@checked_arguments
def load(
    path: str | Path,
    base: str | PreTrainedModel | None = None,
    *,
    adapter_name: str = "default",
    is_trainable: bool = False,
    revision: str | None = None,
    token: bool | str | None = None,
    subfolder: str | None = None,
    verify: bool = True,
    **kwargs,
) -> PeftModel:
    """Load an adapter of a B-cos model, with its base: the plain model is loaded, converted and adapted.

    Some logits of before saving are stored with the adapter: the model gives them again, or it is refused.

    Args:
        path (`str` or `Path`): a folder or a repository of the hub, with what `save_pretrained` of a peft model wrote.
        base (`str` or [`~transformers.PreTrainedModel`], *optional*):
            The model below, plain or B-cos: a name, a folder, or a model, which is converted in place if it is plain.
            Default: the one that the adapter names.
        adapter_name (`str`, defaults to `"default"`): what to call it in the model.
        is_trainable (`bool`, defaults to `False`): to go on training the adapter.
        revision (`str`, *optional*): of the adapter.
        token (`bool` or `str`, *optional*): for the hub, of the adapter and of its base.
        subfolder (`str`, *optional*): where in `path` the adapter is.
        verify (`bool`, defaults to `True`): as in `get_bcos_model`, where a plain base is converted. The logits of
            before saving are compared in any case.
        **kwargs: for `from_pretrained` of the base, such as `device_map`. Default for `dtype`: that of before saving.

    Returns:
        [`~peft.PeftModel`]: in evaluation mode unless `is_trainable`.

    Raises:
        TypeError: `verify` is neither True nor False.
        ValueError: it is no adapter of a B-cos model, its base cannot be made again, or the result gives other logits
            than before saving. A plain model that was passed as `base` is converted by then, and says so.

    Example:
        >>> import tempfile
        >>> import peft
        >>> from transformers import AutoModelForSequenceClassification
        >>> import bcos_peft
        >>> name = "distilbert/distilbert-base-uncased-finetuned-sst-2-english"
        >>> model = AutoModelForSequenceClassification.from_pretrained(name)
        >>> model = bcos_peft.get_bcos_model(model, bcos_peft.BcosConfig(b=1.25))
        >>> model = peft.get_peft_model(model, peft.LoraConfig(task_type="SEQ_CLS", target_modules=["lin1", "lin2"]))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model.save_pretrained(folder)
        ...     type(bcos_peft.load(folder).get_base_model()).__name__
        'BcosDistilBertForSequenceClassification'
    """
    if not isinstance(verify, bool):
        raise TypeError(f"verify must be True or False, got {verify!r}.")
    path = str(path)
    hub = {} if token is None else {"token": token}
    place = {} if subfolder is None else {"subfolder": subfolder}
    config, added = _adapter_config(path, revision=revision, **hub, **place), range(0)
    passed = isinstance(base, PreTrainedModel)
    if not passed:
        base = _load_base(config, base, kwargs | hub)
        added = _resize(base, config.bcos.get("vocabulary"))
    elif kwargs:
        raise ValueError(f"base is a model already, so {', '.join(kwargs)} would have no effect. Leave it out.")
    if isinstance(config, BcosPeftConfig):
        config.verify = verify  # peft has it converted
    converted = not isinstance(base, BcosModel) and not isinstance(config, BcosPeftConfig)
    if converted:
        get_bcos_model(base, _conversion(config, base), verify=verify)
    _mark_rows(base, added)
    options = {"adapter_name": adapter_name, "is_trainable": is_trainable, "config": config, "revision": revision}
    try:
        model = PeftModel.from_pretrained(base, path, **options, **hub, **place)
    except ValueError as error:
        if passed and converted:
            raise ValueError(f"{error} The base that was passed is converted now. Load it anew.") from error
        raise
    _check_rows(model, added)
    return model.train(is_trainable)


def _adapter_config(path: str, **options) -> PeftConfig:
    settle(path, options.get("subfolder"))
    folder = Path(path) / (options.get("subfolder") or "")
    if (folder / "config.json").exists() and not (folder / "adapter_config.json").exists():
        raise ValueError(
            f"{path!r} holds a whole model, not an adapter. Load it with transformers: "
            "AutoModelFor….from_pretrained(path)."
        )
    config = PeftConfig.from_pretrained(path, **{key: value for key, value in options.items() if value is not None})
    if not isinstance(config, _DESCRIBED) or config.bcos is None:
        raise ValueError(
            f"{path!r} is an adapter of type {getattr(config.peft_type, 'value', config.peft_type)} that was not "
            "trained on a B-cos model. Load it with peft, or train an adapter on a model from get_bcos_model."
        )
    return config


def _load_base(config: PeftConfig, base: str | None, kwargs: dict[str, Any]) -> PreTrainedModel:
    name = base or config.base_model_name_or_path
    if base is None and config.bcos.get("missing"):
        raise ValueError(f"This adapter cannot be loaded alone. {config.bcos['missing']}")
    if not name:
        raise ValueError(
            "This adapter does not name its base model, which was not loaded from a name or folder. Pass it: "
            "bcos_peft.load(path, base=...)."
        )
    architecture = config.bcos["architecture"]
    own = {key: kwargs[key] for key in ("token", "trust_remote_code") if key in kwargs}
    revision = config.revision if base is None else None
    base_config = AutoConfig.from_pretrained(name, revision=revision, **own)
    if base_config.model_type.startswith(PREFIX):
        cls = getattr(models, f"Bcos{architecture}", None)
    else:
        cls = getattr(transformers, architecture, None)
    if cls is None:
        raise ValueError(
            f"The base model is a {architecture}, which transformers does not have. Make it yourself and pass it: "
            "bcos_peft.load(path, base=model)."
        )
    for key, value in (config.bcos.get("labels") or {}).items():
        setattr(base_config, key, {int(i): label for i, label in value.items()} if key == "id2label" else value)
    wanted, own_dtype = config.bcos.get("dtype") or "auto", "dtype" in kwargs
    kwargs.setdefault("dtype", config.bcos.get("loaded_dtype") or wanted)
    if config.bcos.get("quantization") and not hasattr(base_config, "quantization_config"):
        kwargs.setdefault("quantization_config", BitsAndBytesConfig.from_dict(config.bcos["quantization"]))
    model = cls.from_pretrained(name, config=base_config, revision=revision, **kwargs)
    if config.bcos.get("loaded_dtype") and not own_dtype:
        _cast(model, getattr(torch, wanted))
    return model


def _conversion(config: PeftConfig, base: PreTrainedModel) -> BcosConfig:
    architecture = config.bcos["architecture"]
    if type(base).__name__ != architecture:
        raise ValueError(f"base is a {type(base).__name__}, but the adapter was trained on a {architecture}.")
    return BcosConfig.from_dict(config.bcos["config"])


def _describe_adapters(model: nn.Module) -> None:
    """Write into the configs of a model's adapters what they need to be loaded without it, as it is now."""
    bcos = find_bcos_model(model)
    kept = _LABELS if "Classification" in type(bcos).__name__ else _LABELS[:1]
    facts = {
        "config": current_config(bcos).to_dict(),
        "architecture": bcos.bcos_stock_class.__name__,
        **_describe_precision(bcos),
        "vocabulary": bcos.config.get_text_config().vocab_size,
        "labels": {key: getattr(bcos.config, key, None) for key in kept},
        "quantization": _quantization(bcos),
        "missing": _missing(model, bcos),
    }
    if facts["missing"]:
        _logger.warning("The adapter is saved, but it cannot be loaded alone. %s", facts["missing"])
    for name, config in list(model.peft_config.items()):
        if isinstance(config, _DESCRIBED):
            if sum(other is config for other in model.peft_config.values()) > 1:
                # Adapters may share a config, as TRL's reference does with the trained one; not what is said of them.
                config = model.peft_config[name] = copy.copy(config)
            config.bcos = facts | {"probe": _probe(model, bcos, name)}


def _probe(model: nn.Module, bcos: BcosModel, adapter: str) -> list[float] | None:
    """Some logits, with one adapter active; None where a forward pass is not to be had."""
    if _is_spread(model) or any(getattr(module, "merged_adapters", None) for module in model.modules()):
        return None
    inputs = {name: value[:1] for name, value in probe_inputs(bcos).items()}  # without padding, which trainers change
    with _only(model, adapter), torch.no_grad(), torch.autocast(inputs["input_ids"].device.type, enabled=False):
        # Models that return several tensors: the first are the logits.
        logits = bcos(**inputs, return_dict=True).to_tuple()[0]
    flat = logits.flatten().double().cpu()
    values = flat[torch.linspace(0, len(flat) - 1, min(_PROBES, len(flat))).long()].tolist()
    return [*values, float(flat.abs().max())] if all(map(math.isfinite, values)) else None


def _is_spread(model: nn.Module) -> bool:
    """Whether parameters lie on several processes, or nowhere: a pass that one process makes alone would hang."""
    if any("FullySharded" in type(module).__name__ or "FSDP" in type(module).__name__ for module in model.modules()):
        return True
    return any(
        p.is_meta or not p.numel() or hasattr(p, "ds_id") or hasattr(p, "device_mesh") for p in model.parameters()
    )


@contextmanager
def _only(model: nn.Module, adapter: str) -> Iterator[None]:
    """One adapter active, in evaluation mode, without the automatic precision that a `Trainer` leaves on a forward."""
    layers = [module for module in model.modules() if hasattr(module, "_active_adapter")]
    before = [(module, module._active_adapter, module._disable_adapters) for module in layers]
    modes = [(module, module.training) for module in model.modules()]
    restore = set_wrappers_aside(model)
    try:
        model.eval()
        for module in layers:
            single = isinstance(module._active_adapter, str)
            module._active_adapter, module._disable_adapters = adapter if single else [adapter], False
        yield
    finally:
        restore()
        for module, active, disabled in before:
            module._active_adapter, module._disable_adapters = active, disabled
        for module, training in modes:
            module.training = training


def _check_probe(model: nn.Module, adapter: str) -> None:
    """Compare the logits of a loaded adapter with those of before saving.

    Raises:
        ValueError: they differ by more than rounding, in the precision of before.
    """
    config = model.peft_config[adapter]
    expected = config.bcos.get("probe") if isinstance(config, _DESCRIBED) and config.bcos else None
    if expected is None:
        return
    bcos = find_bcos_model(model)
    found = _probe(model, bcos, adapter)
    if found is None:
        return
    gap = max((abs(a - b) for a, b in zip(found, expected, strict=False)), default=0.0) / max(expected[-1], 1e-30)
    if len(found) == len(expected) and gap <= _tolerance(config.bcos):
        return
    text = (
        f"With this adapter the model does not give the logits of before saving: on a probe they differ by {gap:.2g} "
        f"of the largest. Its base ({bcos.config._name_or_path or 'not named'}) is not the one that the adapter was "
        "trained on: another checkpoint or revision, parts with new random weights (a head, a pooler) that are not "
        "in the adapter's modules_to_save, a calibration, or weights that were changed before."
    )
    now, then = _told(_describe_precision(bcos) | {"quantization": _quantization(bcos)}), _told(config.bcos)
    if now != then:
        _logger.warning("%s Or it is the precision: %s, where it was %s.", text, now, then)
        return
    raise ValueError(f"{text} Pass the right one: bcos_peft.load(path, base=...).")
