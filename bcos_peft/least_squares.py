"""The weight with which a B-cos layer comes closest to given outputs, in closed form.

A ridge regression for the directions of the rows, then one factor per row for their lengths; how strong the ridge is,
and whether there is one at all, is chosen on rows that were held out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bcos_peft.functional import bcos_linear


__all__ = ["RIDGES", "Fit", "Layer", "fit_experts", "fit_layers"]

# Strengths that are tried, as shares of the mean squared input.
RIDGES = (0.01, 0.1, 1.0, 10.0)
_FIXED = 0.01
# A row whose factor is that far from the layer's median is all but silent on the calibration data.
_RANGE = 10.0


@dataclass(frozen=True)
class Fit:
    """What `fit_layers` found for one layer.

    Args:
        weight (`torch.Tensor`): `(out, in)`, the new weight.
        ridge (`float`, *optional*): the strength that was used, as a share of the mean squared input; `None` where
            the rows kept their directions.
        error (`float`): squared error on the held-out tokens as a share of the squared targets, with the chosen
            method, fitted without them.
        error_before (`float`): the same with the weight as it was.

    Example:
        >>> import torch
        >>> from bcos_peft.least_squares import Fit
        >>> Fit(torch.eye(2), ridge=None, error=0.1, error_before=0.3).error
        0.1
    """

    weight: Tensor
    ridge: float | None
    error: float
    error_before: float


@dataclass(frozen=True)
class Layer:
    """A layer to be fitted: its weight `(out, in)`, its exponent (`None` if it stays plain), the outputs that are
    wanted `(tokens, out)`, and how much a squared error counts at each token `(tokens,)`.

    Example:
        >>> import torch
        >>> from bcos_peft.least_squares import Layer
        >>> Layer(torch.eye(2), 1.5, torch.zeros(4, 2)).importance is None
        True
    """

    weight: Tensor
    b: float | None
    targets: Tensor
    importance: Tensor | None = None


def fit_layers(x: Tensor, layers: list[Layer], held_out: Tensor, method: str = "auto") -> list[Fit]:
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
        >>> from bcos_peft.functional import bcos_linear
        >>> from bcos_peft.least_squares import Layer, fit_layers
        >>> generator = torch.Generator().manual_seed(0)
        >>> x, weight = torch.randn(200, 8, generator=generator), torch.randn(3, 8, generator=generator)
        >>> layer = Layer(weight, 1.5, targets=x @ weight.T)
        >>> fit = fit_layers(x, [layer], held_out=torch.arange(200) % 5 == 0)[0]
        >>> fit.error < 0.1 < fit.error_before
        True
    """
    train = ~held_out
    fits: list[Fit | None] = [None] * len(layers)
    # Layers that weigh tokens alike share their Gram matrices.
    for importance in {id(layer.importance): layer.importance for layer in layers}.values():
        weighted = x if importance is None else x * importance[:, None]
        grams = _gram(weighted[train], x[train]), _gram(weighted[held_out], x[held_out])
        for i, layer in enumerate(layers):
            if layer.importance is importance:
                fits[i] = _fit(x, weighted, layer, train, held_out, grams, method)
    return fits


def _gram(weighted: Tensor, x: Tensor) -> Tensor:
    return _wide(weighted.t() @ x)


def _wide(x: Tensor) -> Tensor:
    """In float64, which some devices lack."""
    return x.cpu().double() if x.device.type == "mps" else x.double()


def _fit(x, weighted, layer, train, held_out, grams, method) -> Fit:
    plain = layer.b is None or layer.b == 1
    targets, importance = layer.targets, layer.importance
    counted = targets if importance is None else targets * importance[:, None]
    wanted = targets if plain else _linear_part(targets, x, layer.b)
    scale = (counted * targets)[held_out].sum().clamp_min(torch.finfo(x.dtype).tiny)

    def output(weight: Tensor) -> Tensor:
        return bcos_linear(x, weight, layer.b or 1.0)

    def error(y: Tensor) -> float:
        gap = (y - targets)[held_out].square()
        return float((gap if importance is None else gap * importance[held_out, None]).sum() / scale)

    def row_factors(y: Tensor, t: Tensor, rows) -> Tensor:
        y, t = y[rows], t[rows]
        by = y if importance is None else y * importance[rows, None]
        squares = (by * y).sum(0)
        factors = (by * t).sum(0) / squares.clamp_min(torch.finfo(x.dtype).tiny)
        heard = (squares > 0) & (factors > 0)
        if not heard.any():
            return torch.ones_like(factors)
        middle = factors[heard].median()
        return torch.where(heard, factors, middle).clamp(middle / _RANGE, middle * _RANGE)

    def lengths(weight: Tensor, rows) -> Tensor:
        """The weight with row factors: only layers that distort need them."""
        if plain:
            return weight
        return weight * row_factors(output(weight), targets, rows)[:, None]

    # The weight as it was, with rows as long as the linear part asks for.
    prior = layer.weight
    if not plain:
        prior = prior * row_factors(x @ prior.t(), wanted, train)[:, None]
    missing = wanted - x @ prior.t()
    sides = [_wide(weighted[rows].t() @ missing[rows]) for rows in (train, held_out)]
    mean_square = grams[0].diagonal().mean()

    def ridge(strength: float, gram: Tensor, side: Tensor, share: float) -> Tensor:
        damped = gram + strength * share * mean_square * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        return prior + torch.linalg.solve(damped, side).t().to(prior)

    before = error(output(layer.weight))
    strengths = {"auto": (None, *RIDGES), "ridge": (_FIXED,), "rows": (None,)}[method]
    found = []
    for strength in strengths:
        weight = prior if strength is None else ridge(strength, grams[0], sides[0], 1.0)
        found.append((error(output(lengths(weight, train))), strength))
    best, strength = min(found, key=lambda entry: entry[0])
    if method == "auto" and not best < before:  # also where the data says nothing, as for a silent layer
        return Fit(layer.weight, None, before, before)
    weight = prior
    if strength is not None:
        weight = ridge(strength, grams[0] + grams[1], sides[0] + sides[1], len(train) / int(train.sum()))
    weight = lengths(weight, slice(None))
    return Fit(weight, strength, best, before)


def _linear_part(targets: Tensor, x: Tensor, b: float) -> Tensor:
    """`u` with `|cos|^(B−1)·u = t` for rows of unit length."""
    norms = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return torch.sign(targets) * (targets.abs() * norms ** (b - 1)) ** (1 / b)


def fit_experts(experts: nn.Module, x: Tensor) -> None:
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
