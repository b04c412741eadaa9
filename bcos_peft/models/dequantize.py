"""`model.dequantize()`: quantised weights become those that they stand for, and B-cos layers stay B-cos layers."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from bcos_peft._utils.accelerate_hooks import set_class
from bcos_peft.nn import BcosConv1D, BcosLayer, BcosLinear, is_quantized


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
