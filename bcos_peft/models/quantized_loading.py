"""Loading a saved B-cos model with quantised weights, and one with gains; and `model.dequantize()`.

transformers puts quantised layers in place of plain `nn.Linear`s between making a model and loading its weights. It
takes B-cos layers for something else, so they are shown to it as plain layers first. Where it dequantises them, it
makes plain layers, which become B-cos layers again.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel
from transformers.core_model_loading import WeightRenaming, rename_source_key
from transformers.pytorch_utils import Conv1D

from bcos_peft._utils.accelerate_hooks import set_class
from bcos_peft.config import BcosConfig
from bcos_peft.families import Family
from bcos_peft.models.initialization import _mark_new
from bcos_peft.models.plan import _exponent
from bcos_peft.nn import BcosConv1D, BcosLayer, BcosLinear, is_quantized, quantized_class


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


def _add_stored_gains(model, stored: set[str], mapping: list | None) -> None:
    """Make room for the gains of layers that were saved with some, before the weights of a model are loaded.

    Args:
        model: the model, its parameters on the meta device.
        stored: the names of the tensors that will be loaded.
        mapping: how transformers renames them, where files have other names than modules.
    """
    mapping = copy.deepcopy(mapping or [])  # each entry remembers whether it was of use
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    found = (name for name in stored if name.endswith(".gain.weight"))
    gains = [rename_source_key(name, renamings, [])[0].removesuffix(".gain.weight") for name in found]
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


def _dequantize(model: PreTrainedModel, stock_dequantize, dtype: torch.dtype | str | None) -> PreTrainedModel:
    """Dequantise a converted model by transformers' own method, which makes plain layers, and keep it B-cos.

    Raises:
        ValueError: it has adapters, which are made for the quantised layers below them; or no quantised layers.
    """
    if any("base_layer" in module._modules for module in model.modules()):
        raise ValueError(
            "dequantize() of a model with adapters: they are made for the quantised layers below them, and would "
            "merge wrongly. Nothing was changed. Merge them first (merge_and_unload()), or take them off "
            "(unload(), or delete_adapter()), dequantise, and load them again."
        )
    layers = {name: module for name, module in model.named_modules() if is_quantized(module)}
    for module in layers.values():
        module.dequantized()  # which undoes what bitsandbytes may have rearranged, and stock code would misread
    stock_dequantize(dtype=dtype)
    for name, layer in layers.items():
        new = model.get_submodule(name)
        new.train(layer.training)
        new.weight.data = layer.dequantized().to(new.weight)  # as it is multiplied with, not as the checkpoint was
        if issubclass(getattr(layer, "source_cls", nn.Linear), Conv1D):
            _transpose(new)
        if layer.b is not None or isinstance(new, BcosConv1D):
            if type(new) is nn.Linear:
                set_class(new, BcosLinear)
            new.b, new.normalize_weights = layer.b, layer.normalize_weights
        gain = layer._modules.get("gain")
        if gain is not None and isinstance(new, BcosLayer):
            new.gain = gain
        elif gain is not None:  # a plain layer has no room for one
            new.weight.data.mul_(gain.weight.data.to(new.weight)[:, None])
    return model


def _transpose(layer: nn.Linear) -> None:
    """Make the transposed layer of GPT-2, which transformers quantises the other way round, of a linear one."""
    weight, (rows, columns) = layer.weight, layer.weight.shape
    set_class(layer, BcosConv1D)
    layer.weight = nn.Parameter(weight.data.t().contiguous(), requires_grad=weight.requires_grad)
    layer.nf, layer.nx = rows, columns
    del layer.in_features, layer.out_features
