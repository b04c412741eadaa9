"""B-cos layers over the quantised linear layers of bitsandbytes, which this module imports.

The quantised weight is never touched. Its product with the input is bitsandbytes' own (4 bits) or that of the
dequantised weight (8 bits); the norms of its rows are taken from the dequantised weight, once.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from bitsandbytes import functional as bnb_functional
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from torch import Tensor, nn

from bcos_peft.nn.functional import bcos_scale
from bcos_peft.nn.layers import BcosLayer
from bcos_peft.nn.low_rank import LowRank
from bcos_peft.nn.numerics import _keep_scales, _row_norms, _state_of


class QuantizedBcosLayer(BcosLayer):
    """What B-cos layers over a quantised weight have in common. What calibration folds into the rows of a float weight
    is their gain."""

    _norms: tuple[Any, Tensor] | None = None
    precision: torch.dtype | None = None  # what the product is taken in; None: that of its input

    def product(self, x: Tensor) -> Tensor:
        """`x` times the weight, as the plain quantised layer gives it."""
        raise NotImplementedError

    def plain_product(self, x: Tensor) -> Tensor:
        """The same, without what makes its gradient exact."""
        raise NotImplementedError

    def dequantized(self) -> Tensor:
        """The weight, `(out_features, in_features)`, in float."""
        raise NotImplementedError

    def row_norms(self) -> Tensor:
        """The norms of the weight's rows, `(out_features,)`; taken again only for another weight."""
        state = _state_of(self.weight)
        if self._norms is None or self._norms[0] != state:
            with torch.no_grad(), torch.autocast(self.weight.device.type, enabled=False):
                self._norms = state, _keep_scales(_row_norms(self.dequantized()))
        return self._norms[1]

    def scale_rows(self, factors: Tensor) -> None:
        """Multiply the outputs, as multiplying the rows of a float weight would."""
        self.add_gain(self.row_norms().device)
        self.gain.weight.data.mul_(factors.to(self.gain.weight))

    def forward(self, x: Tensor, update: LowRank | None = None) -> Tensor:
        o = self.product(x)
        if update is not None:
            o = o + (update.hidden @ update.up.t().to(update.hidden.dtype)).to(o.dtype)
        if self.b is not None:
            norms = self.row_norms() if update is None else self._updated_norms(update)
            o = bcos_scale(x, o, norms, self.b, normalize_weights=self.normalize_weights, hold_scale=self.explaining)
        return self.gained(o)

    def _updated_norms(self, update: LowRank) -> Tensor:
        # Thin products only, so autograd may follow them: nothing here has the size of the weight.
        down, up = update.down.float(), update.up.float()
        with torch.autocast(self.weight.device.type, enabled=False):
            w_down = self.product(down).float().t()
            more = (up * (2 * w_down + up @ (down @ down.t()))).sum(-1)
            return (self.row_norms().square() + more).clamp_min(1e-30).sqrt()

    def extra_repr(self) -> str:
        kind = "plain" if self.b is None else f"b={self.b:g}"
        return f"in_features={self.in_features}, out_features={self.out_features}, {kind}"


class BcosLinear4bit(QuantizedBcosLayer, Linear4bit):
    """A 4-bit linear layer of bitsandbytes as a B-cos layer, or, with `b=None`, a plain one that can be explained.

    On CPUs with AVX512-BF16, bitsandbytes rearranges the weight at the first prediction, and gradients with respect to
    the input are lost from then on without a word. Here it does not.
    """

    def product(self, x: Tensor) -> Tensor:
        self._keep_gradients()
        return _Product.apply(x, self) if self._rounded_on_the_way_back() else self.plain_product(x)

    def plain_product(self, x: Tensor) -> Tensor:
        return Linear4bit.forward(self, x)

    def dequantized(self) -> Tensor:
        self._keep_gradients()
        state = self.weight.quant_state
        if self._rounded_on_the_way_back():
            state = copy.copy(state)
            state.dtype = self.compute_dtype
        return bnb_functional.dequantize_4bit(self.weight.data, state)

    @property
    def precision(self) -> torch.dtype | None:
        return self.compute_dtype

    def _rounded_on_the_way_back(self) -> bool:
        """Whether bitsandbytes takes gradients with a weight that it rounds to what the checkpoint was in, while it
        predicts with one that it does not: a bfloat16 checkpoint, computed in float32."""
        state, compute = getattr(self.weight, "quant_state", None), self.compute_dtype
        if state is None or compute is None:
            return False
        return torch.finfo(state.dtype).eps > torch.finfo(compute).eps

    def _keep_gradients(self) -> None:
        self.support_avx512bf16_for_cpu = False
        state = getattr(self.weight, "quant_state", None)
        if getattr(state, "packing_format_for_cpu", False):  # rearranged before the conversion
            packed = self.weight.data, state
            self.weight.data, self.weight.quant_state = bnb_functional._convert_weight_packed_for_cpu_inverse(*packed)


class BcosLinear8bit(QuantizedBcosLayer, Linear8bitLt):
    """An 8-bit linear layer of bitsandbytes as a B-cos layer, or, with `b=None`, a plain one that can be explained.

    LLM.int8 rounds the layer's input to 8 bits too, which is not linear. Here the weight alone is rounded, and the
    product is taken in float.
    """

    def product(self, x: Tensor) -> Tensor:
        return _Product.apply(x, self)

    def plain_product(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)  # of a layer that a conversion leaves alone
        return nn.functional.linear(x, self.dequantized().to(x.dtype), bias)

    def dequantized(self) -> Tensor:
        if self.weight.CB is not None:
            self.init_8bit_state()
        codes, scale = (
            (self.state.CB, self.state.SCB) if self.state.CB is not None else (self.weight.data, self.state.SCB)
        )
        return codes.float() * (scale.float() / 127).unsqueeze(-1)


class _Product(torch.autograd.Function):
    # Keeps no dequantised weight for the backward pass.

    @staticmethod
    def forward(ctx, x, layer):
        ctx.layer = layer
        return layer.plain_product(x)

    @staticmethod
    def backward(ctx, grad):
        precision = ctx.layer.precision or grad.dtype
        return (grad.to(precision) @ ctx.layer.dequantized().to(precision)).to(grad.dtype), None


_CLASSES: dict[type, type] = {Linear4bit: BcosLinear4bit, Linear8bitLt: BcosLinear8bit}
