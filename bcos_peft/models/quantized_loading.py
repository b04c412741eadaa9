"""Loading a saved B-cos model with quantised weights, and one with gains.

transformers puts quantised layers in place of plain `nn.Linear`s between making a model and loading its weights. It
takes B-cos layers for something else, so they are shown to it as plain layers first.
"""

from __future__ import annotations

from collections.abc import Iterable

from safetensors import safe_open
from torch import nn

from bcos_peft._utils.accelerate_hooks import set_class
from bcos_peft.config import BcosConfig
from bcos_peft.families import Family
from bcos_peft.models.initialization import _mark_new
from bcos_peft.models.plan import _exponent
from bcos_peft.nn import BcosLayer, BcosLinear, quantized_class


def _quantize_layers(model, quantizer, stored: set[str], config: BcosConfig, family: Family) -> None:
    """Let a quantiser of bitsandbytes replace the linear layers of a B-cos model without weights, and keep them B-cos.

    Args:
        model: the model, its parameters on the meta device.
        quantizer: transformers' quantiser.
        stored: the names of the tensors that will be loaded.
        config: how the model is converted.
        family: its table.

    Raises:
        ValueError: the weights are to be quantised in another way.
    """
    method = getattr(quantizer.quantization_config.quant_method, "value", quantizer.quantization_config.quant_method)
    if method != "bitsandbytes":
        raise ValueError(
            f"quantization_config: B-cos layers can be quantised by bitsandbytes (4 and 8 bits), not by {method!r}. "
            "Load the model without it, or with transformers.BitsAndBytesConfig."
        )
    from transformers.integrations import replace_with_bnb_linear

    plain = {name: module for name, module in model.named_modules() if type(module) is BcosLinear}
    for module in plain.values():
        set_class(module, nn.Linear)
    skipped = quantizer.modules_to_not_convert
    if quantizer.pre_quantized:  # what was quantised when the model was saved
        marks = (".SCB", ".weight.absmax")
        done = {key.removesuffix(mark) for key in stored for mark in marks if key.endswith(mark)}
        linear = [name for name, module in model.named_modules() if type(module) is nn.Linear]
        skipped = [name for name in linear if not any(other.endswith(name) for other in done)]
    replace_with_bnb_linear(
        model,
        modules_to_not_convert=skipped,
        quantization_config=quantizer.quantization_config,
        pre_quantized=quantizer.pre_quantized,
    )
    for name, module in model.named_modules():
        cls = quantized_class(module) or (BcosLinear if name in plain else None)
        if cls is not None:
            set_class(module, cls)
            module.b = _exponent(model.bcos_name(name), config, family)
            module.normalize_weights = config.normalize_weights


def _add_stored_gains(model, stored: set[str]) -> None:
    """Make room for the gains of layers that were saved with some, before the weights of a model are loaded.

    Args:
        model: the model, its parameters on the meta device.
        stored: the names of the tensors that will be loaded.
    """
    gains = [name.removesuffix(".gain.weight") for name in stored if name.endswith(".gain.weight")]
    for name, module in model.named_modules() if gains else ():
        # The body of a model that was saved with a head has shorter names, and the other way round.
        if isinstance(module, BcosLayer) and any(_same(name, other) for other in gains):
            module.add_gain("meta")
            _mark_new(module.gain)


def _same(name: str, other: str) -> bool:
    return f".{name}".endswith(f".{other}") or f".{other}".endswith(f".{name}")


def _stored_names(state_dict: dict | None, files: Iterable[str] | None) -> set[str]:
    """The names of the tensors in a state dict, or in safetensors files."""
    names = set(state_dict or ())
    for file in files or ():
        if str(file).endswith(".safetensors"):
            with safe_open(file, framework="pt") as tensors:
                names |= set(tensors.keys())
    return names
