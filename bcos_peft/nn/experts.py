"""The experts of a mixture, whose weights are three-dimensional, as B-cos layers."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bcos_peft.nn.layers import BcosLayer


class BcosExperts(BcosLayer, nn.Module):
    """All experts of a block, `y = Σ_e r_e(x)·E_e(x)`, on their three-dimensional parameters.

    `gate_up_proj` is `(experts, 2·intermediate, hidden)`, `down_proj` `(experts, hidden, intermediate)`.
    """

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        output = torch.zeros_like(hidden_states)
        gate_up_proj, down_proj = self.gate_up_proj, self.down_proj  # an adapter makes them anew at each look
        norms = self.known_norms("gate_up_proj"), self.known_norms("down_proj")
        for expert in top_k_index.unique().tolist():
            if expert >= len(gate_up_proj):  # of none: stock code lets the token pass, too
                continue
            token, choice = torch.where(top_k_index == expert)
            gate_up_norm, down_norm = (None if known is None else known[expert] for known in norms)
            mixed = self.bcos(hidden_states[token], gate_up_proj[expert], w_norm=gate_up_norm)
            gate, up = mixed.chunk(2, dim=-1)
            y = self.bcos(self.act_fn(gate) * up, down_proj[expert], w_norm=down_norm)
            y = y * top_k_weights[token, choice, None]
            output = output.index_add(0, token, y.to(output.dtype))
        return output

    def extra_repr(self) -> str:
        return f"{tuple(self.gate_up_proj.shape)}, {tuple(self.down_proj.shape)}, b={self.b}"


class StockExperts(BcosLayer, nn.Module):
    """Experts with a formula of their own: the stock forward, in which each product with a three-dimensional weight is
    a B-cos map.

    Example:
        >>> from bcos_peft.nn import StockExperts
        >>> issubclass(StockExperts, BcosLayer)
        True
    """

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        # Below what dispatches to fused kernels.
        forward = inspect.unwrap(self._bcos_stock_class.forward)
        with _Products(self):
            return forward(self, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        """What the stock forward calls on itself is in the stock class."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            found = inspect.getattr_static(self.__dict__.get("_bcos_stock_class", object), name, None)
            if found is None or name.startswith("__"):
                raise
            return found.__get__(self) if hasattr(found, "__get__") else found

    def extra_repr(self) -> str:
        shapes = ", ".join(
            str(tuple(parameter.shape)) for parameter in self._parameters.values() if parameter.dim() == 3
        )
        return f"{shapes}, b={self.b}"


class _Products(TorchFunctionMode):
    """Inside, products with a part of the experts' weights are B-cos maps."""

    _PARTS = frozenset(
        "__getitem__ select unbind chunk split t transpose permute view reshape to contiguous __get__ swapaxes".split()
    )
    _PRODUCTS = frozenset("linear matmul __matmul__ mm bmm".split())

    def __init__(self, layer: StockExperts):
        super().__init__()
        self._layer = layer
        self._weights = {
            id(weight) for weight in layer._parameters.values() if weight is not None and weight.dim() == 3
        }

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.__name__
        if name in self._PRODUCTS and len(args) > 1 and self._is_weight(args[1]):
            return self._product(name, *args[:2]) + (kwargs.get("bias") if kwargs.get("bias") is not None else 0)
        result = func(*args, **kwargs)
        if name in self._PARTS and args and self._is_weight(args[0]):
            for part in result if isinstance(result, (tuple, list)) else (result,):
                if isinstance(part, Tensor) and part.dim() > 1:
                    part._bcos_weight = True
        return result

    def _is_weight(self, value: Any) -> bool:
        return isinstance(value, Tensor) and (id(value) in self._weights or getattr(value, "_bcos_weight", False))

    def _product(self, name: str, x: Tensor, weight: Tensor) -> Tensor:
        rows = weight if name == "linear" else weight.transpose(-1, -2)
        if rows.dim() == 2:
            return self._layer.bcos(x, rows)
        return torch.stack([self._layer.bcos(one, own) for one, own in zip(x, rows, strict=True)])
