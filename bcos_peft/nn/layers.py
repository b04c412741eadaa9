"""B-cos layers: thin modules over `functional`, made so that a stock layer becomes one by a change of class.

Parameters keep their names and their identity, so a converted layer is trained, saved and moved as the stock one was.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bcos_peft.nn.dynamic_linear import layer_norm, rms_norm
from bcos_peft.nn.functional import bcos_linear
from bcos_peft.nn.low_rank import LowRank, bcos_lora_linear
from bcos_peft.nn.numerics import _keep_scales, _row_norms, _state_of


class DynamicLinear:
    """Marks modules that are linear in their input while `explaining` is True. `explanation_mode` sets it.

    Example:
        >>> from bcos_peft.nn import BcosLinear, DynamicLinear
        >>> isinstance(BcosLinear(2, 2), DynamicLinear)
        True
    """

    explaining: bool = False


class BcosLayer(DynamicLinear):
    """Marks layers that have an exponent: linear layers, transposed ones, experts.

    Attributes:
        b (`float`, *optional*): the exponent B, at least 1; `None` for a layer that stays plain.
        normalize_weights (`bool`): use unit-norm rows.
        gain (`torch.nn.Module`, *optional*): its `weight`, `(out_features,)`, multiplies the output, as
            multiplying the rows of the weight would: what is trained, or calibrated, where
            the weight itself is not touched.

    Example:
        >>> from bcos_peft.nn import BcosLayer, BcosLinear
        >>> layer = BcosLinear(2, 2, b=1.5)
        >>> isinstance(layer, BcosLayer), layer.b
        (True, 1.5)
    """

    b: float | None
    normalize_weights: bool
    # Stock code writes into what the layer gives, which the backward pass would need as it was.
    copied: bool = False
    # Norms of the rows of weights that keep still, by the weight's name, with what they were taken of (`steady`).
    steady: dict[str, tuple[tuple, Tensor]] | None = None

    def bcos(self, x: Tensor, weight: Tensor, update: LowRank | None = None, w_norm: Tensor | None = None) -> Tensor:
        """The layer's map of `x`, `(..., in)`, with the rows of `weight`, `(out, in)`, to which an adapter adds, and
        their norms, where they are known."""
        if self.b is None:
            return nn.functional.linear(x, weight)
        options = {"normalize_weights": self.normalize_weights, "hold_scale": self.explaining, "w_norm": w_norm}
        if update is not None:
            return bcos_lora_linear(x, weight, update, self.b, **options)
        return bcos_linear(x, weight, self.b, **options)

    def rows(self, weight: Tensor) -> Tensor:
        """A weight with its rows in the last dimension but one."""
        return weight

    def known_norms(self, name: str = "weight") -> Tensor | None:
        """Norms of the rows of a weight, `(..., out)`, where it keeps still meanwhile; else None."""
        steady = self.steady  # once: another thread may end its block meanwhile
        if steady is None or self.b is None:
            return None
        if torch.compiler.is_compiling():  # takes what the first pass, which is not compiled, has left
            return steady[name][1] if name in steady else None
        weight = self._parameters.get(name)
        # An adapter may make the weight anew at each look, and other processes or devices may hold it.
        if type(weight) is not nn.Parameter or weight.is_meta or not weight.numel():
            return None
        state = _state_of(weight)
        if name not in steady or steady[name][0] != state:
            with torch.inference_mode(False), torch.no_grad():
                steady[name] = state, _keep_scales(_row_norms(self.rows(weight)))
        return steady[name][1]

    @property
    def outputs(self) -> int | None:
        """How many outputs the layer has; None for one with the weights of several layers."""
        return getattr(self, "out_features", getattr(self, "nf", None))

    def add_gain(self, device: torch.device | str | None = None) -> None:
        """Make room for factors of the outputs, all 1; a gain that is there stays."""
        if getattr(self, "gain", None) is None:
            dtype = self.weight.dtype if self.weight.dtype == torch.float64 else torch.float32
            self.gain = Gain(self.outputs, device, dtype)

    def gained(self, y: Tensor) -> Tensor:
        """Outputs, `(..., out_features)`, times the gain, if there is one."""
        gain = self._modules.get("gain")
        if gain is not None:
            return gain(y)
        return y.clone() if self.copied else y


class Gain(nn.Module):
    """Factors of a layer's outputs: `weight`, `(size,)`, all 1 to begin with. In float32 for layers in half precision,
    where small steps from 1 would be lost.

    A module of its own, since quantisers take every other parameter of a quantised layer for weights.

    Example:
        >>> from bcos_peft.nn import Gain
        >>> Gain(2).weight.tolist()
        [1.0, 1.0]
    """

    def __init__(self, size: int, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size, device=device, dtype=dtype))

    def forward(self, y: Tensor) -> Tensor:
        # Called, and its weight not taken by the layer: so a hook can bring a weight that is kept elsewhere.
        return y * self.weight.to(y.dtype)


class BcosLinear(BcosLayer, nn.Linear):
    """A linear layer without bias whose rows are scaled by `|cos(x, w)|^(b-1)`.

    Args:
        in_features (`int`), out_features (`int`): as in `torch.nn.Linear`.
        b (`float`, defaults to 1.25): the exponent B, at least 1.
        normalize_weights (`bool`, defaults to `False`): use unit-norm rows.
        **kwargs: `device` and `dtype`.

    Shape:
        `(..., in_features)` to `(..., out_features)`.

    Example:
        >>> import torch
        >>> from bcos_peft.nn import BcosLinear
        >>> BcosLinear(4, 3, b=2.0)(torch.ones(2, 4)).shape
        torch.Size([2, 3])

    Source: B-cos LM (arXiv 2502.12992), section 3.
    """

    def __init__(
        self, in_features: int, out_features: int, b: float = 1.25, normalize_weights: bool = False, **kwargs
    ):
        super().__init__(in_features, out_features, bias=False, **kwargs)
        self.b = b
        self.normalize_weights = normalize_weights

    def forward(self, x: Tensor, update: LowRank | None = None) -> Tensor:
        return self.gained(self.bcos(x, self.weight, update, self.known_norms()))

    def extra_repr(self) -> str:
        unit = ", normalize_weights=True" if self.normalize_weights else ""
        return f"in_features={self.in_features}, out_features={self.out_features}, b={self.b:g}{unit}"


class BcosNorm(DynamicLinear):
    """What norms have in common: a weight that scales each feature of what is normalised.

    Example:
        >>> from bcos_peft.nn import BcosNorm, BcosRMSNorm
        >>> issubclass(BcosRMSNorm, BcosNorm)
        True
    """

    weight: nn.Parameter
    eps: float  # what is added to the mean square or variance; a conversion takes it from the stock norm

    @torch.no_grad()
    def scale_output(self, factor: float) -> None:
        """Multiply everything that the norm gives by a number, in place."""
        self.weight.mul_(factor)


class BcosLayerNorm(BcosNorm, nn.LayerNorm):
    """`torch.nn.LayerNorm` without bias, linear in its input while explaining (1/σ is held constant).

    Example:
        >>> import torch
        >>> from bcos_peft.nn import BcosLayerNorm
        >>> BcosLayerNorm(2, bias=False)(torch.tensor([[1.0, 3.0]])).detach().round(decimals=3)
        tensor([[-1.,  1.]])
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.explaining:
            return layer_norm(x, self.weight, self.eps)
        return super().forward(x)


class BcosRMSNorm(BcosNorm, nn.Module):
    """The RMSNorm of Llama and its relatives, linear in its input while explaining (1/rms is held constant).

    It takes the place of a stock norm, with its `weight`. It does not inherit from it: hub kernels would look for
    their name on the class and replace the forward.

    Example:
        >>> from bcos_peft.nn import BcosRMSNorm, DynamicLinear
        >>> issubclass(BcosRMSNorm, DynamicLinear)
        True
    """

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps, hold_scale=self.explaining)

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}, eps={self.eps}"


class BcosShiftedRMSNorm(BcosRMSNorm):
    """The RMSNorm of Gemma, scaled by `1 + weight`, before the result is rounded to the input's precision.

    Example:
        >>> from bcos_peft.nn import BcosRMSNorm, BcosShiftedRMSNorm
        >>> issubclass(BcosShiftedRMSNorm, BcosRMSNorm)
        True
    """

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return rms_norm(wide, 1.0 + self.weight.to(wide.dtype), self.eps, hold_scale=self.explaining).to(x.dtype)

    @torch.no_grad()
    def scale_output(self, factor: float) -> None:
        self.weight.copy_(factor * (1.0 + self.weight) - 1.0)
