"""What explanation mode holds: activations, norms, and many gradients at once."""

import math

import pytest
import torch
from helpers.functions import gradients

from bcos_peft.nn import bcos_linear, few_rows, hold_ratio, layer_norm, rms_norm


def test_hold_ratio():
    x = torch.tensor([2.0, -1.0, 0.0, 1e-38, 1e30], requires_grad=True)
    y = torch.nn.functional.silu(x)
    held = hold_ratio(x, y)
    assert torch.equal(held, y)
    (grad,) = torch.autograd.grad(held.sum(), x)
    sigmoid = x.detach().sigmoid()
    torch.testing.assert_close(grad, torch.where(x.detach() == 0, 0, sigmoid))
    assert grad[2] == 0
    torch.testing.assert_close((grad * x).detach(), y.detach())


@pytest.mark.parametrize("function", ["relu", "gelu", "silu", "tanh", "leaky_relu", "mish"])
def test_activations_are_zero_at_zero_and_sum(function):
    activation = getattr(torch.nn.functional, function)
    x = torch.linspace(-6, 6, 25, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(hold_ratio(x, activation(x)).sum(), x)
    torch.testing.assert_close((grad * x).detach(), activation(x).detach())


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_norms_are_linear_with_their_statistics_held(norm, weighted):
    x = torch.randn(3, 5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    weight = torch.linspace(-1, 2, 8, dtype=torch.float64) if weighted else None
    if norm == "layer":
        y, exact = layer_norm(x, weight, 1e-5), torch.nn.functional.layer_norm(x, (8,), weight, None, 1e-5)
    else:
        y, exact = rms_norm(x, weight, 1e-5), torch.nn.functional.rms_norm(x, (8,), weight, 1e-5)
    torch.testing.assert_close(y, exact, rtol=1e-12, atol=1e-12)
    (grad,) = torch.autograd.grad(y[..., 3].sum(), x)
    torch.testing.assert_close((grad * x).sum(-1), y[..., 3], rtol=1e-12, atol=1e-12)


def test_rms_norm_with_live_statistics_is_the_stock_norm():
    x = torch.randn(3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    weight = torch.linspace(-1, 2, 8, dtype=torch.float64, requires_grad=True)
    stock = gradients(lambda x, w: torch.nn.functional.rms_norm(x, (8,), w, 1e-5), x, weight)
    torch.testing.assert_close(gradients(lambda x, w: rms_norm(x, w, 1e-5, hold_scale=False), x, weight), stock)


@pytest.mark.parametrize("norm", [layer_norm, rms_norm])
def test_norms_take_statistics_in_float32(norm):
    x = torch.randn(2, 512, generator=torch.Generator().manual_seed(0)) + 10
    half = norm(x.bfloat16(), None, 1e-6)
    assert half.dtype == torch.bfloat16
    exact = norm(x.bfloat16().double(), None, 1e-6)
    torch.testing.assert_close(half.double(), exact, rtol=2**-8, atol=1e-6)
    zeros = norm(torch.zeros(2, 8, requires_grad=True), None, 1e-6)
    assert (zeros == 0).all()
    assert math.isfinite(torch.autograd.grad(zeros.sum(), zeros)[0].sum())


@pytest.mark.parametrize("b", [1.0, 1.25, 2.0])
def test_many_gradients_at_once_are_those_of_one_at_a_time(b):
    """In explanation mode, under torch.vmap."""
    torch.manual_seed(0)
    x = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 4, dtype=torch.float64)
    hidden = layer_norm(bcos_linear(x, weight, b, hold_scale=True), None, 1e-5)
    hidden = rms_norm(hold_ratio(hidden, torch.relu(hidden)), torch.ones(3, dtype=torch.float64), 1e-5)
    y = few_rows(hidden, hidden @ weight, weight.t())
    gradients = torch.randn(6, *y.shape, dtype=torch.float64)

    def backward(gradient):
        return torch.autograd.grad(y, x, gradient, retain_graph=True)[0]

    together = torch.vmap(backward)(gradients)
    torch.testing.assert_close(together, torch.stack([backward(one) for one in gradients]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_few_rows_of_a_head_give_the_gradient_of_all_of_it(dtype):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 4, generator=generator).requires_grad_()
    weight = torch.randn(9, 4, generator=generator)
    y = torch.nn.functional.linear(x.to(dtype), weight.to(dtype))  # autocast has cast copies of them
    given = torch.zeros_like(y)
    given[0, 1, 7], given[1, 2, 0] = 1, -2
    (exact,) = torch.autograd.grad(y, x, given, retain_graph=True)
    found = few_rows(x, y, weight)
    assert torch.equal(found, y)
    (grad,) = torch.autograd.grad(found, x, given)
    assert grad.dtype == x.dtype
    torch.testing.assert_close(grad, exact, rtol=2**-7 if dtype == torch.bfloat16 else 1e-6, atol=1e-6)


def test_few_rows_of_a_head_without_any_gradient():
    x, weight = torch.ones(1, 2, requires_grad=True), torch.ones(3, 2)
    y = few_rows(x, x @ weight.T, weight)
    assert not torch.autograd.grad(y, x, torch.zeros_like(y))[0].any()


def test_few_rows_is_differentiated_twice_as_a_linear_layer_is():
    x, weight = torch.ones(1, 2, requires_grad=True), torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    (grad,) = torch.autograd.grad(few_rows(x, x @ weight.T, weight)[0, 1] ** 2, x, create_graph=True)
    (twice,) = torch.autograd.grad(grad[0, 0], x)
    torch.testing.assert_close(twice, 2 * 3.0 * weight[1:2])
