"""Which classes of a model are norms or layers under another name: told by what they give, not by their names."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from bcos_peft.nn import BcosExperts, layer_norm, quantized_class, rms_norm


def _replacements_of(model: PreTrainedModel) -> dict[str, str]:
    """Names of classes whose modules all give what a norm or linear layer of this package gives, with its kind.

    Example:
        >>> from transformers import T5Config, T5EncoderModel
        >>> small = T5Config(num_layers=1, d_model=16, d_kv=8, d_ff=32, num_heads=2)
        >>> _replacements_of(T5EncoderModel(small))
        {'T5LayerNorm': 'rms_norm'}
    """
    found: dict[str, set[str | None]] = {}
    for module in model.modules():
        if type(module) not in (nn.Linear, nn.LayerNorm, nn.Embedding, Conv1D) and quantized_class(module) is None:
            # Norms without a weight have nothing to convert, and say nothing of others of their class.
            if any(True for _ in module.parameters()) and (not module._modules or _has_experts(module)):
                found.setdefault(type(module).__name__, set()).add(_kind(module))
    return {name: kinds.pop() for name, kinds in sorted(found.items()) if len(kinds) == 1 and None not in kinds}


def _has_experts(module: nn.Module) -> bool:
    """Whether a module holds the weights of several layers, and no layers besides; convolutions have three dimensions
    of another kind."""
    if isinstance(module, (nn.ParameterList, nn.Conv1d)):
        return False
    inside = any(True for child in module.children() for _ in child.parameters())
    own = [parameter for parameter in module._parameters.values() if parameter is not None]
    return not inside and any(one.dim() == 3 and min(one.shape) > 1 for one in own)


@torch.no_grad()
def _kind(module: nn.Module) -> str | None:
    if any(parameter is not None and parameter.is_meta for parameter in module._parameters.values()):
        return None
    if isinstance(module, nn.Linear):
        return "linear" if _gives(module, module.weight, nn.functional.linear(_probe(module), module.weight)) else None
    if _has_experts(module):
        return "experts" if _is_mixture(module) else "stock_experts"
    weight = module._parameters.get("weight")
    eps = [value for value in vars(module).values() if isinstance(value, float)]
    if weight is None or weight.dim() != 1 or len(eps) != 1 or set(module._parameters) - {"weight", "bias"}:
        return None
    x, bias = _probe(module), module._parameters.get("bias")
    kinds = {
        "rms_norm": lambda: rms_norm(x, weight, eps[0], hold_scale=False),
        "rms_norm_from_1": lambda: rms_norm(x, 1.0 + weight, eps[0], hold_scale=False),
        "layer_norm": lambda: layer_norm(x, weight, eps[0]),
    }
    return next((kind for kind, value in kinds.items() if _gives(module, weight, value(), bias)), None)


def _probe(module: nn.Module) -> Tensor:
    weight = module.weight
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, weight.shape[-1], generator=generator).to(weight)


def _gives(module: nn.Module, weight: Tensor, value: Tensor, bias: Tensor | None = None) -> bool:
    """Whether a module of one argument gives a value on the probe."""
    if len(inspect.signature(module.forward).parameters) != 1:
        return False
    bias = module._parameters.get("bias")
    value = value if bias is None else value + bias
    try:
        y = module(_probe(module))
    except (RuntimeError, ValueError, TypeError, IndexError):
        return False
    tolerance = 1e-5 if weight.dtype in (torch.float32, torch.float64) else 2e-2
    return isinstance(y, Tensor) and y.shape == value.shape and torch.allclose(y, value.to(y), tolerance, tolerance)


def _is_mixture(module: nn.Module) -> bool:
    """Whether a module of experts gives at B = 1 what `BcosExperts` gives."""
    names = {name for name, parameter in module._parameters.items() if parameter is not None}
    if names != {"gate_up_proj", "down_proj"} or "act_fn" not in {*module._modules, *vars(module)}:
        return False
    experts, width = module.gate_up_proj.shape[0], module.down_proj.shape[1]
    if module.gate_up_proj.shape[2] != width or len(inspect.signature(type(module).forward).parameters) != 4:
        return False
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, width, generator=generator).to(module.down_proj)
    index = torch.arange(8).view(4, 2).to(x.device) % experts
    weights = torch.rand(4, 2, generator=generator).to(x)
    ours = BcosExperts.__new__(BcosExperts)
    nn.Module.__init__(ours)
    ours.__dict__.update(module.__dict__)
    ours.b, ours.normalize_weights = 1.0, False
    tolerance = 1e-4 if x.dtype in (torch.float32, torch.float64) else 5e-2
    try:
        y, other = module(x, index, weights), ours(x, index, weights)
    except (RuntimeError, ValueError, TypeError, IndexError):
        return False
    if not torch.allclose(y, other.to(y), tolerance, tolerance):
        return False
    try:  # some let tokens pass that go to an expert of a higher number than there are; others refuse
        y = module(x, index + 1, weights)
    except (RuntimeError, IndexError):
        return True
    return torch.allclose(y, ours(x, index + 1, weights).to(y), tolerance, tolerance)
