"""A model, watched while it runs in a mode that shows what its layers are for."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from bcos_peft.nn import quantized_class
from bcos_peft.operations import Constants, LinearMode, opened_functions


def _is_layer(module: nn.Module) -> bool:
    """Whether a module is a linear layer, of a subclass or quantised perhaps."""
    return isinstance(module, (nn.Linear, Conv1D)) or quantized_class(module) is not None


def _is_embedding(module: nn.Module) -> bool:
    """Whether a module looks ids up: an embedding, or one of a model's own that is called so."""
    weight = module._parameters.get("weight")
    named = type(module).__name__.endswith("Embedding") and not module._modules
    return isinstance(module, nn.Embedding) or (named and weight is not None and weight.dim() == 2)


_PRODUCTS = frozenset("matmul __matmul__ __rmatmul__ mm bmm linear addmm einsum".split())


class _Reads(TorchFunctionMode):
    """Sees which layers are not called where they stand, but their weights multiplied, or their biases read, by code
    of other modules.

    Args:
        model: what runs.
        inside: the names of the modules that run now, the innermost last.
    """

    def __init__(self, model: nn.Module, inside: list[str]):
        super().__init__()
        self._inside = inside
        self.layers: set[str] = set()
        self._owners: dict[int, list[str]] = {}
        for name, module in model.named_modules():
            for parameter in module._parameters.values() if _is_layer(module) else ():
                if parameter is not None:
                    self._owners.setdefault(id(parameter), []).append(name)
        self._biases = {id(m.bias) for m in model.modules() if _is_layer(m) and m._parameters.get("bias") is not None}

    def __torch_function__(self, func: Callable, types, args: tuple = (), kwargs: dict | None = None):
        kwargs = kwargs or {}
        for value in (*args, *kwargs.values()):
            owners = self._owners.get(id(value), ())
            if owners and (func.__name__ in _PRODUCTS or id(value) in self._biases):
                if not any(name in self._inside[-1:] for name in owners):
                    self.layers.update(owners)
        return func(*args, **kwargs)


@dataclass
class _Call:
    """One call of a linear layer or an embedding."""

    name: str
    read: Tensor
    gave: Tensor
    version: int


@dataclass
class _Watch(ExitStack):
    """Hooks on a model, and the mode in which it runs.

    Attributes:
        layers: calls of linear layers, in order.
        embeddings: calls of embeddings, whose outputs are the inputs of the linear map.
        constants: what is added on the way.
        squashed: modules in whose own code a tanh or ReLU was called.
        untouched: layers whose weight or bias other modules' code uses itself.
    """

    model: PreTrainedModel
    lengths: frozenset[int] = frozenset()
    layers: list[_Call] = field(default_factory=list)
    embeddings: list[_Call] = field(default_factory=list)
    squashed: set[str] = field(default_factory=set)

    def __post_init__(self):
        super().__init__()
        self._inside: list[str] = []
        self.constants = Constants(self.lengths, dict(self.model.named_parameters()), trace=True)

    def __enter__(self):
        super().__enter__()
        for name, module in self.model.named_modules():
            self._hook(module.register_forward_pre_hook(self._enter(name)))
            if _is_layer(module):
                self._hook(module.register_forward_hook(self._keep(name, self.layers)))
            elif _is_embedding(module):
                self._hook(module.register_forward_hook(self._cut(name)))
            self._hook(module.register_forward_hook(self._leave))
        # A ratio of 1, so that a feature which a ReLU has shut is not taken for one that is never read.
        self.enter_context(opened_functions(self.model))
        self.enter_context(LinearMode(constants=self.constants, structure=True, on_activation=self._squash))
        self.untouched = self.enter_context(_Reads(self.model, self._inside)).layers
        return self

    def _hook(self, handle) -> None:
        self.callback(handle.remove)

    def _enter(self, name: str) -> Callable:
        return lambda *_: self._inside.append(name)

    def _leave(self, *_) -> None:
        self._inside.pop()

    def _squash(self, function: str) -> None:
        if function in ("tanh", "relu"):
            self.squashed.add(self._inside[-1])

    def _keep(self, name: str, calls: list[_Call]) -> Callable:
        def hook(module, args, output):
            if args and isinstance(output, Tensor):
                # Into what bitsandbytes gives, and keeps a gradient of, nothing can be written.
                output = output if quantized_class(module) is None else output.clone()
                calls.append(_Call(name, args[0], output, output._version))
                return output

        return hook

    def _cut(self, name: str) -> Callable:
        def hook(module, args, output):
            found, *more = output if isinstance(output, tuple) else (output,)
            leaf = found.detach().requires_grad_()
            self.embeddings.append(_Call(name, args[0] if args else leaf, leaf, leaf._version))
            # A copy, into which stock code may write.
            return (leaf.clone(), *more) if isinstance(output, tuple) else leaf.clone()

        return hook

    def gradients(self, outputs: list[Tensor]) -> dict[int, Tensor]:
        """Gradients of a random sum of the outputs, by the `id` of what they are of; none where nothing arrives."""
        generator = torch.Generator().manual_seed(0)
        directions = [torch.randn(y.shape, generator=generator).to(y) for y in outputs]
        of = [call.gave for call in (*self.layers, *self.embeddings)] + [leaf for _, leaf in self.constants.leaves]
        of = [tensor for tensor in of if tensor.requires_grad]
        found = torch.autograd.grad(outputs, of, directions, allow_unused=True)
        return {id(tensor): g for tensor, g in zip(of, found, strict=True) if g is not None and bool((g != 0).any())}
