"""Stock code that writes into what a layer gave: the backward pass is that of code that does not."""

import pytest
import torch
from helpers.functions import both_modes, operands
from torch.utils.checkpoint import checkpoint

from bcos_peft.nn import BcosLinear, LowRank, bcos_linear, bcos_lora_linear, bcos_scale


def _zeroed(y):
    y[..., 1:] = 0
    return y


WAYS = {
    "mul_": (lambda y: y.mul_(3.0), lambda y: y * 3.0),
    "relu_": (torch.relu_, torch.relu),
    "a part": (_zeroed, lambda y: y * torch.tensor([1.0, *[0.0] * 5])),
}


@pytest.mark.parametrize("way", WAYS)
@both_modes
@pytest.mark.parametrize("hold", [False, True], ids=["", "held"])
def test_the_gradients_are_those_of_a_copy(way, unit_rows, hold):
    x, weight = operands()
    written, other = WAYS[way]
    options = {"normalize_weights": unit_rows, "hold_scale": hold}
    found = torch.autograd.grad(written(bcos_linear(x, weight, 1.5, **options)).square().sum(), (x, weight))
    expected = torch.autograd.grad(other(bcos_linear(x, weight, 1.5, **options)).square().sum(), (x, weight))
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-14)


def test_with_an_update():
    x, weight = operands()
    down, up = torch.randn(2, 4).double().requires_grad_(), torch.randn(6, 2).double().requires_grad_()
    leaves = x, weight, down, up

    def output():
        return bcos_lora_linear(x, weight, LowRank(x @ down.t(), down, up), 1.5)

    expected = torch.autograd.grad((output() * 3).square().sum(), leaves)
    torch.testing.assert_close(torch.autograd.grad(output().mul_(3).square().sum(), leaves), expected)


def test_in_a_checkpointed_block():
    x, weight = operands()

    def block(x):
        return bcos_linear(x, weight, 1.5).mul_(3.0).sin()

    expected = torch.autograd.grad((bcos_linear(x, weight, 1.5) * 3).sin().sum(), (x, weight))
    found = torch.autograd.grad(checkpoint(block, x, use_reentrant=False).sum(), (x, weight))
    torch.testing.assert_close(found, expected)


def test_a_layer_before_an_activation_in_place():
    network = torch.nn.Sequential(BcosLinear(4, 6), torch.nn.ReLU(inplace=True), BcosLinear(6, 2))
    network(torch.randn(3, 4)).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.parameters())


def test_what_cannot_be_computed_again_says_so():
    x, weight = operands()
    frozen = weight.detach()
    for y in (
        bcos_linear(x, frozen, 1.5, hold_scale=True),
        bcos_scale(x, x @ frozen.t(), frozen.norm(dim=-1), 1.5),
        bcos_lora_linear(x, frozen, LowRank(x @ frozen[:2].t(), frozen[:2], frozen[:, :2]), 1.5, hold_scale=True),
    ):
        with pytest.raises(RuntimeError, match="changed in place .* set `copied = True`"):
            y.mul_(2).sum().backward()
    layer = BcosLinear(4, 6, dtype=torch.float64)
    layer.copied = layer.explaining = True
    layer.weight.requires_grad_(False)
    layer(x).mul_(2).sum().backward()
    assert x.grad.isfinite().all()


def test_other_operands_are_watched_as_ever():
    x, weight = operands()
    y = bcos_linear(x, weight, 1.5)
    with torch.no_grad():
        weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
