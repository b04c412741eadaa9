"""Weights that a checkpoint lacks get the values that the stock class gives them.

Stock initialisers go by the classes of modules, and by names of classes: they pass over what stands for a stock
module. So each module is shown to them as what it was, with a bias in the place of the one that it lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from bcos_peft.nn import Gain


_STOCK_CLASS = "_bcos_stock_class"


def _remember_stock_class(module: nn.Module, stock: type) -> None:
    """Keep with a module that is converted which class it had."""
    module.__dict__[_STOCK_CLASS] = stock


def _is_converted(module: nn.Module) -> bool:
    """Whether a module was made of a stock one by the conversion."""
    return _STOCK_CLASS in vars(module)


@contextmanager
def _as_stock(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Let modules be of their stock classes meanwhile; what is written into their weights stays."""
    changed = []
    for module in modules:
        cls, stock = type(module), vars(module).get(_STOCK_CLASS, type(module))
        lost = _lost_biases(module, stock)
        changed.append((module, cls, {name: name in module._parameters for name in lost}))
        module.__class__ = stock
        module._parameters.update((name, _stand_in(module, name)) for name in lost)
    try:
        yield
    finally:
        for module, cls, lost in changed:
            module.__class__ = cls
            for name, was_there in lost.items():
                if was_there:
                    module._parameters[name] = None
                else:
                    del module._parameters[name]


def _stand_in(module: nn.Module, name: str) -> Tensor:
    """What a stock initialiser may write a lost bias into; some copy values of its size."""
    sizes = ((nn.Linear, "out_features"), (nn.Conv1d, "out_channels"), (Conv1D, "nf"))
    size = next((getattr(module, size) for cls, size in sizes if name == "bias" and isinstance(module, cls)), 0)
    return torch.empty(size, device=module.weight.device if size else None)


def _lost_biases(module: nn.Module, stock: type) -> list[str]:
    """Parameters that are gone: None, or a property of the class that stands for the stock one."""
    gone = [name for name, parameter in module._parameters.items() if parameter is None]
    own = [cls for cls in type(module).__mro__ if cls not in stock.__mro__]
    properties = {name for cls in own for name, value in vars(cls).items() if isinstance(value, property)}
    return gone + sorted(name for name in properties if isinstance(getattr(module, name), Tensor))


def _mark_new(gain: Gain) -> None:
    """Say of a gain that its values are yet to be loaded."""
    gain._is_hf_initialized = False


@torch.no_grad()
def _fill_new_gains(model: nn.Module) -> None:
    """Gains that a checkpoint lacks are 1: stock initialisers know none, and would leave their memory be."""
    for module in model.modules():
        new = isinstance(module, Gain) and vars(module).get("_is_hf_initialized") is False
        if new and not getattr(module.weight, "_is_hf_initialized", False):
            module.weight.fill_(1.0)


class _InitializedAsStock:
    """What generated classes do in place of transformers' methods."""

    bcos_stock_class: type[PreTrainedModel]

    def initialize_weights(self):
        """As in transformers. Modules of the body are initialised by its class, which is the stock one."""
        _fill_new_gains(self)
        with _as_stock(list(self.modules())):
            super().initialize_weights()

    def _init_weights(self, module):
        with _as_stock([module]):
            super()._init_weights(module)

    @classmethod
    def is_custom_code(cls) -> bool:
        # Of custom code transformers leaves out what a block does about the weights of its layers.
        return cls.bcos_stock_class.is_custom_code()
