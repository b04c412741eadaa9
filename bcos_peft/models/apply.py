"""The changes that a plan says, carried out; they can be undone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from transformers import PreTrainedModel

from bcos_peft._utils.accelerate_hooks import forget_parameters, set_class
from bcos_peft.config import BcosConfig
from bcos_peft.models.initialization import _remember_stock_class
from bcos_peft.models.plan import Plan
from bcos_peft.nn import BcosLayer, BcosNorm


_ZEROS = "_bcos_zeros"


def apply_plan(model: PreTrainedModel, plan: Plan, config: BcosConfig) -> Callable[[], None]:
    """Carry a plan out, in place.

    Returns:
        A function that puts the model back as it was.
    """
    undo: list[Callable[[], None]] = []

    def restore() -> None:
        for step in reversed(undo):
            step()

    try:
        for name, cls in plan.swaps.items():
            if name:  # the model itself gets a generated class
                undo.append(_swap(model.get_submodule(name), cls, plan.bcos.get(name), config))
        for name in plan.dropped_activations:
            undo.append(_replace(model, name, nn.Identity()))
        for name in plan.biases:
            undo.append(_drop_parameter(model, name))
        undo.append(forget_parameters(model, plan.biases))
        for name in plan.zeroed:
            undo.append(_zero_parameter(model, name))
        for name in plan.copied:
            model.get_submodule(name).copied = True  # the swap is undone with all that the layer has
    except BaseException:
        restore()
        raise
    return restore


def _swap(module: nn.Module, cls: type, b: float | None, config: BcosConfig) -> Callable[[], None]:
    old_class, old_state = type(module), dict(module.__dict__)
    set_class(module, cls)
    _remember_stock_class(module, old_class)
    if isinstance(module, BcosLayer):
        module.b, module.normalize_weights = b, config.normalize_weights
    if isinstance(module, BcosNorm):
        (module.eps,) = [value for value in old_state.values() if isinstance(value, float)]
        module.normalized_shape = tuple(module.weight.shape)
    if isinstance(module, nn.LayerNorm) and "bias" not in module._parameters:  # of a class that never had one
        module.__dict__["_parameters"] = {**module._parameters, "bias": None}
        module.elementwise_affine = True

    def restore() -> None:
        module.__class__ = old_class
        module.__dict__.clear()
        module.__dict__.update(old_state)

    return restore


def _replace(model: nn.Module, name: str, new: nn.Module) -> Callable[[], None]:
    parent = model.get_submodule(name.rpartition(".")[0])
    child = name.rpartition(".")[2]
    old = parent._modules[child]
    parent._modules[child] = new.train(old.training)
    return lambda: parent._modules.__setitem__(child, old)


def _zero_parameter(model: PreTrainedModel, name: str) -> Callable[[], None]:
    """Put zeros, which are neither trained nor saved, where stock code adds a parameter and cannot do without."""
    owner = model.get_submodule(name.rpartition(".")[0])
    parameter = name.rpartition(".")[2]
    old, kept = dict(owner._parameters), set(owner._non_persistent_buffers_set)
    zeros = torch.zeros_like(owner._parameters.pop(parameter), requires_grad=False)
    owner.register_buffer(parameter, zeros, persistent=False)
    known = owner.__dict__.setdefault(_ZEROS, [])
    known.append(parameter)

    def restore() -> None:
        known.remove(parameter)
        if not known:
            del owner.__dict__[_ZEROS]
        del owner._buffers[parameter]
        owner._non_persistent_buffers_set = kept
        owner._parameters.clear()
        owner._parameters.update(old)

    return restore


def _fill_zeros(model: PreTrainedModel) -> None:
    """Loading leaves the memory of what is not saved as it finds it."""
    for module in model.modules():
        for name in vars(module).get(_ZEROS, ()):
            module._buffers[name].zero_()


def _drop_parameter(model: nn.Module, name: str) -> Callable[[], None]:
    owner = model.get_submodule(name.rpartition(".")[0])
    parameter = name.rpartition(".")[2]
    old = dict(owner._parameters)
    if isinstance(getattr(type(owner), parameter, None), property):
        del owner._parameters[parameter]
    else:
        owner._parameters[parameter] = None

    def restore() -> None:  # in the old order, which an optimiser's state goes by
        owner._parameters.clear()
        owner._parameters.update(old)

    return restore
