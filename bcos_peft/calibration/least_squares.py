"""The weight with which a B-cos layer comes closest to given outputs, in closed form.

A ridge regression for the directions of the rows, then one factor per row for their lengths; how strong the ridge is,
and whether there is one at all, is chosen on rows that were held out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bcos_peft.nn import bcos_linear


# Strengths that are tried, as shares of the mean squared input.
_RIDGES = (0.01, 0.1, 1.0, 3.0, 10.0)
_FIXED = 0.01
# A row whose factor is that far from the layer's median is all but silent on the calibration data.
_RANGE = 10.0
# Streams whose squared size is below this share of the usual one count as if they were of that size.
_NEAR_ZERO = 1e-4
# Mean squares of inputs below this are those of no input, as after a layer that was pruned: the weight stays.
_SILENT = 1e-30
# Tokens by which strengths are compared.
_PROBED = 2048


@dataclass(frozen=True)
class _Fit:
    """What `_fit_layers` found for one layer.

    Args:
        weight (`torch.Tensor`): `(out, in)`, the new weight.
        ridge (`float`, *optional*): the strength that was used, as a share of the mean squared input; `None` where
            the rows kept their directions.
        error (`float`): squared error on the held-out tokens as a share of the squared targets, with the chosen
            method, fitted without them.
        error_before (`float`): the same with the weight as it was.

    Example:
        >>> import torch
        >>> _Fit(torch.eye(2), ridge=None, error=0.1, error_before=0.3).error
        0.1
    """

    weight: Tensor
    ridge: float | None
    error: float
    error_before: float


@dataclass(frozen=True)
class _Layer:
    """A layer to be fitted: its weight `(out, in)`, its exponent (`None` if it stays plain), the outputs that are
    wanted `(tokens, out)`, and how much a squared error counts at each token `(tokens,)`.

    Example:
        >>> import torch
        >>> _Layer(torch.eye(2), 1.5, torch.zeros(4, 2)).importance is None
        True
    """

    weight: Tensor
    b: float | None
    targets: Tensor
    importance: Tensor | None = None


def _importance_of(stream: Tensor) -> Tensor:
    """How much a squared error counts at each token: relative to the size of the stream there, for norms divide by it.

    A token whose embedding is zero, say one that was never trained, is not to drown all others.

    Args:
        stream (`torch.Tensor`): `(tokens, hidden)`.

    Returns:
        `torch.Tensor`: `(tokens,)`, 1 in the mean.

    Example:
        >>> import torch
        >>> _importance_of(torch.tensor([[1.0, 0.0], [0.0, 1.0]])).tolist()
        [1.0, 1.0]
    """
    squares = stream.square().sum(-1)
    heard = squares[squares > 0]
    least = _NEAR_ZERO * float(heard.median()) if len(heard) else 1.0
    importance = 1 / squares.clamp_min(max(least, torch.finfo(stream.dtype).tiny))
    return importance / importance.mean()


def _fit_layers(x: Tensor, layers: list[_Layer], held_out: Tensor, method: str = "auto") -> list[_Fit]:
    r"""Fit the weights of layers that read the same input.

    Per row, with the targets `t` and `B` the layer's exponent, the linear part that gives exactly `t` is
    `u = sign(t)·(|t|·‖x‖^(B−1))^(1/B)`. The ridge regression is towards `u` and leans on the weight as it was, with
    its rows scaled to `u`; then every row is multiplied by the factor that brings `y` closest to `t`,
    `k_i = Σ t_i·y_i / Σ y_i²`, which leaves its cosine alone.

    Args:
        x (`torch.Tensor`): `(tokens, in)`, the layers' input, in float32 or float64.
        layers (`list[Layer]`): what to fit.
        held_out (`torch.Tensor`): `(tokens,)`, bool: the tokens that choose between strengths. The weights that are
            returned are fitted on all tokens.
        method (`str`): `"rows"` (factors only), `"ridge"` (with a fixed strength of 0.01, then factors) or `"auto"`
            (the best of these, and of other strengths, on the held-out tokens).

    Returns:
        `list[Fit]`, one for each layer.

    Example:
        >>> import torch
        >>> from bcos_peft.nn import bcos_linear
        >>> generator = torch.Generator().manual_seed(0)
        >>> x, weight = torch.randn(200, 8, generator=generator), torch.randn(3, 8, generator=generator)
        >>> layer = _Layer(weight, 1.5, targets=x @ weight.T)
        >>> fit = _fit_layers(x, [layer], held_out=torch.arange(200) % 5 == 0)[0]
        >>> fit.error < 0.1 < fit.error_before
        True
    """
    train = ~held_out
    fits: list[_Fit | None] = [None] * len(layers)
    # Layers that weigh tokens alike share their Gram matrices.
    for importance in {id(layer.importance): layer.importance for layer in layers}.values():
        weighted = x if importance is None else x * importance[:, None]
        grams = [_wide(weighted[rows].t() @ x[rows]) for rows in (train, held_out)]
        for i, layer in enumerate(layers):
            if layer.importance is importance:
                fits[i] = _Fitter(x, weighted, layer, train, held_out, grams).fit(method)
    return fits


def _wide(x: Tensor) -> Tensor:
    """In float64, which some devices lack."""
    return x.cpu().double() if x.device.type == "mps" else x.double()


def _some(rows: Tensor, count: int) -> Tensor:
    """Indices of `count` of the marked rows, evenly spread."""
    indices = rows.nonzero()[:, 0]
    return indices[:: -(-len(indices) // count)]


class _Fitter:
    """The fit of one layer."""

    def __init__(self, x, weighted, layer, train, held_out, grams):
        self.x, self.weighted, self.layer, self.train, self.held_out, self.grams = (
            x, weighted, layer, train, held_out, grams,
        )  # fmt: skip
        self.plain = layer.b is None or layer.b == 1
        self.tiny = torch.finfo(x.dtype).tiny
        # Strengths are compared on a part of the tokens: enough to choose, and quick.
        self.probe, self.judge = _some(train, _PROBED), _some(held_out, _PROBED)
        wanted = layer.targets if self.plain else _linear_part(layer.targets, x, layer.b)
        # The weight as it was, with rows as long as the linear part asks for.
        self.prior = layer.weight
        if not self.plain:
            o = x[self.probe] @ self.prior.t()
            self.prior = self.prior * self._factors(o, wanted[self.probe], self.probe)[:, None]
        missing = wanted - x @ self.prior.t()
        self.sides = [_wide(weighted[rows].t() @ missing[rows]) for rows in (train, held_out)]

    def fit(self, method: str) -> _Fit:
        before = self._error(self.layer.weight, factors=False)
        strengths = {"auto": (None, *_RIDGES), "ridge": (_FIXED,), "rows": (None,)}[method]
        found = [(self._error(self._ridge(strength, whole=False)), strength) for strength in strengths]
        error, strength = min(found, key=lambda entry: entry[0])
        if method == "auto" and not error < before:  # also where the data says nothing, as for a silent layer
            return _Fit(self.layer.weight, None, before, before)
        weight = self._ridge(strength, whole=True)
        if not self.plain:
            y = bcos_linear(self.x, weight, self.layer.b)
            weight = weight * self._factors(y, self.layer.targets, slice(None))[:, None]
        return _Fit(weight, strength, error, before)

    def _ridge(self, strength: float | None, whole: bool) -> Tensor:
        """The ridge regression on the tokens to fit on, or on the whole data."""
        if strength is None:
            return self.prior
        gram, side = (sum(self.grams), sum(self.sides)) if whole else (self.grams[0], self.sides[0])
        size = gram.diagonal().mean().clamp_min(_SILENT)
        damping = strength * size * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        return self.prior + torch.linalg.solve(gram + damping, side).t().to(self.prior)

    def _factors(self, y: Tensor, targets: Tensor, rows) -> Tensor:
        counted = y if self.layer.importance is None else y * self.layer.importance[rows, None]
        squares = (counted * y).sum(0)
        factors = (counted * targets).sum(0) / squares.clamp_min(self.tiny)
        heard = (squares > 0) & (factors > 0)
        if not heard.any():
            return torch.ones_like(factors)
        middle = factors[heard].median()
        return torch.where(heard, factors, middle).clamp(middle / _RANGE, middle * _RANGE)

    def _error(self, weight: Tensor, factors: bool = True) -> float:
        """Squared error on tokens held out, as a share of the squared targets; with factors from other tokens."""
        targets, b = self.layer.targets, self.layer.b or 1.0
        y = bcos_linear(self.x[self.judge], weight, b)
        if factors and not self.plain:
            y = y * self._factors(bcos_linear(self.x[self.probe], weight, b), targets[self.probe], self.probe)
        squares = torch.stack([(y - targets[self.judge]).square(), targets[self.judge].square()])
        if self.layer.importance is not None:
            squares = squares * self.layer.importance[self.judge, None]
        error, scale = squares.sum((1, 2))
        return float(error / scale.clamp_min(self.tiny))


def _linear_part(targets: Tensor, x: Tensor, b: float) -> Tensor:
    """`u` with `|cos|^(B−1)·u = t` for rows of unit length."""
    norms = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return torch.sign(targets) * (targets.abs() * norms ** (b - 1)) ** (1 / b)


def _fit_experts(experts: nn.Module, x: Tensor) -> None:
    """Row factors for all experts of a mixture, in place, towards what their plain linear layers give.

    Every expert is fitted on all tokens, also on those that the router sends elsewhere: some see few.

    Args:
        experts (`torch.nn.Module`): with `b`, `act_fn`, and the parameters `gate_up_proj`, `(experts, 2·intermediate,
            hidden)`, and `down_proj`, `(experts, hidden, intermediate)`.
        x (`torch.Tensor`): `(tokens, hidden)`.
    """

    def rescale(weight: Tensor, x: Tensor) -> Tensor:
        plain, y = x @ weight.to(x).t(), bcos_linear(x, weight.to(x), experts.b)
        factors = (plain * y).sum(0) / (y * y).sum(0).clamp_min(torch.finfo(x.dtype).tiny)
        weight.mul_(factors.to(weight.dtype)[:, None])
        return y * factors

    for gate_up, down in zip(experts.gate_up_proj, experts.down_proj, strict=True):
        gate, up = rescale(gate_up, x).chunk(2, dim=-1)
        rescale(down, experts.act_fn(gate) * up)
