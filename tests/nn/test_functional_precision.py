"""The maths at extremes: huge and tiny values, half precision, autocast."""

import pytest
import torch
from helpers.functions import SHAPES, both_modes, exponents, gradients, operands, reference

from bcos_peft.nn import bcos_linear, hold_ratio, numerics


EXTREMES = {
    "huge inputs": (1e30, 1.0),
    "tiny inputs": (1e-30, 1.0),
    "huge weights": (1.0, 1e30),
    "tiny weights": (1.0, 1e-30),
    "huge and tiny": (1e30, 1e-30),
    "tiny and huge": (1e-30, 1e30),
}


@exponents
@both_modes
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", EXTREMES.values(), ids=EXTREMES)
def test_huge_and_tiny_values(b, unit_rows, shape, scale):
    if unit_rows and scale[1] != 1:
        scale = (1.0, scale[1])  # a unit row has no size: nothing is huge or tiny but the weights themselves
    x, weight = operands(shape, torch.float32, scale=scale)
    found = gradients(bcos_linear, x, weight, b, normalize_weights=unit_rows)
    exact = gradients(
        reference, x.detach().double().requires_grad_(), weight.detach().double().requires_grad_(), b, unit_rows
    )
    for value, expected in zip(found, exact, strict=True):
        assert value.isfinite().all()
        size = expected.abs().max()
        torch.testing.assert_close(value.double() / size, expected / size, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("scale", [(1e30, 1e30), (1e-30, 1e-30)], ids=["huge", "tiny"])
@pytest.mark.parametrize("shape", SHAPES)
@exponents
def test_unit_rows_do_not_overflow_where_the_output_fits(b, shape, scale):
    x, weight = operands(shape, torch.float32, scale=scale)
    y = bcos_linear(x, weight, b, normalize_weights=True).double()
    expected = reference(x.double(), weight.double(), b, True)
    torch.testing.assert_close(y / scale[0], expected / scale[0], rtol=2e-5, atol=2e-5)


@exponents
@both_modes
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2**-6), (torch.float16, 2**-9)], ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_half_precision(b, unit_rows, shape, dtype, tolerance):
    x, weight = operands(shape, dtype)
    found = gradients(bcos_linear, x, weight, b, normalize_weights=unit_rows)
    wide = x.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    y = reference(*wide, b, unit_rows)
    g = torch.randn(y.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64).to(dtype).double()
    exact = y, *torch.autograd.grad(y, wide, g)
    for value, expected in zip(found, exact, strict=True):
        assert value.dtype == dtype
        size = expected.detach().abs().max()
        torch.testing.assert_close(value.double() / size, expected.detach() / size, rtol=0, atol=2 * tolerance)


def test_norms_are_accumulated_in_float32():
    x = torch.full((1, 4096), 0.1, dtype=torch.bfloat16)
    assert numerics._row_norms(x).item() == pytest.approx(float(x[0, 0]) * 64, rel=1e-5)
    x = torch.full((1, 64), 3e4, dtype=torch.float16)  # the sum of squares does not fit float16
    assert numerics._row_norms(x).item() == pytest.approx(8 * 3e4, rel=1e-3)


@pytest.mark.parametrize("hold_scale", [False, True])
def test_no_gradient_of_the_gradient(hold_scale):
    """Not even silently, where the loss has another part that can be differentiated."""
    x, weight = operands()
    y = bcos_linear(x, weight, 1.5, hold_scale=hold_scale)
    for output in (y, hold_ratio(x, x.tanh())):
        (grad,) = torch.autograd.grad(output.sum(), x, create_graph=True)
        torch.testing.assert_close(grad, torch.autograd.grad(output.sum(), x, retain_graph=True)[0])
        with pytest.raises(RuntimeError, match="differentiated twice"):
            torch.autograd.grad(x.sum() + grad.square().sum(), x, retain_graph=True)


@exponents
@both_modes
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(b, unit_rows, dtype):
    x, weight = operands("many tokens", torch.float32)
    with torch.autocast("cpu", dtype):
        y = bcos_linear(x, weight, b, normalize_weights=unit_rows)
        inside = torch.autograd.grad(y, (x, weight), torch.ones_like(y), retain_graph=True)
    assert y.dtype == dtype
    outside = torch.autograd.grad(y, (x, weight), torch.ones_like(y))
    exact = reference(x, weight, b, unit_rows)
    for grads in (inside, outside):
        for value, expected in zip(
            grads, torch.autograd.grad(exact, (x, weight), torch.ones_like(exact), retain_graph=True), strict=True
        ):
            assert value.dtype == torch.float32
            torch.testing.assert_close(value, expected, rtol=0.02, atol=0.05)
    torch.testing.assert_close(y.float(), exact, rtol=0.02, atol=0.05)


@exponents
@both_modes
def test_autocast_leaves_float64_alone_as_it_does_for_stock_layers(b, unit_rows):
    x, weight = operands()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.nn.functional.linear(x, weight).dtype == torch.float64
        y = bcos_linear(x, weight, b, normalize_weights=unit_rows)
    assert torch.equal(y, bcos_linear(x, weight, b, normalize_weights=unit_rows))
