"""The maths: values by hand, gradients against autograd, compilation, memory."""

import pytest
import torch
from helpers.functions import EXPONENTS, SHAPES, both_modes, exponents, gradients, operands, reference
from torch.autograd import gradcheck

from bcos_peft.nn import BcosLinear, bcos_linear, hold_ratio, numerics


def test_values_by_hand():
    x = torch.tensor([3.0, 4.0], dtype=torch.float64)
    weight = torch.tensor([[2.0, 0.0], [3.0, 4.0], [0.0, -1.0], [4.0, -3.0]], dtype=torch.float64)
    # plain outputs 6, 25, -4, 0 and cosines 0.6, 1, -0.8, 0
    for b in EXPONENTS:
        expected = torch.tensor([6 * 0.6 ** (b - 1), 25.0, -4 * 0.8 ** (b - 1), 0.0], dtype=torch.float64)
        torch.testing.assert_close(bcos_linear(x, weight, b), expected)
        unit = expected / torch.tensor([2.0, 5.0, 1.0, 5.0], dtype=torch.float64)
        torch.testing.assert_close(bcos_linear(x, weight, b, normalize_weights=True), unit)


def test_b_1_is_the_plain_layer():
    x, weight = operands(dtype=torch.float32)
    assert torch.equal(bcos_linear(x, weight, 1), torch.nn.functional.linear(x, weight))


def test_scaling_a_row_scales_its_output_alone():
    x, weight = operands()
    k = torch.tensor([1.0, 2.0, -3.0, 0.5, 10.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(bcos_linear(x, weight * k[:, None], 1.5), bcos_linear(x, weight, 1.5) * k)
    unit = bcos_linear(x, weight * k[:, None], 1.5, normalize_weights=True)
    torch.testing.assert_close(unit, bcos_linear(x, weight, 1.5, normalize_weights=True) * k.sign())


@both_modes
@pytest.mark.parametrize("hold_scale", [False, True])
def test_pieces_make_no_difference(monkeypatch, unit_rows, hold_scale):
    x, weight = operands("many tokens")
    options = {"normalize_weights": unit_rows, "hold_scale": hold_scale}
    whole = gradients(bcos_linear, x, weight, 1.25, **options), torch.autograd.grad(hold_ratio(x, x**3).sum(), x)
    monkeypatch.setattr(numerics, "_CACHED", 7)
    assert len(list(numerics._pieces(x.detach().flatten(0, 1)))) > 1
    pieces = gradients(bcos_linear, x, weight, 1.25, **options), torch.autograd.grad(hold_ratio(x, x**3).sum(), x)
    torch.testing.assert_close(pieces, whole, rtol=1e-14, atol=1e-14)


def test_an_explanation_does_not_keep_the_input():
    x, weight = operands(dtype=torch.float32)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.data_ptr()) or t, lambda t: t):
        for frozen in (False, True):
            kept.clear()
            bcos_linear(x, weight.requires_grad_(not frozen), 1.5, hold_scale=True)
            assert (x.data_ptr() in kept) == (not frozen)


@pytest.mark.parametrize("shape", [(0, 4), (2, 0, 4)])
def test_no_tokens(shape):
    x, weight = torch.zeros(shape, requires_grad=True), torch.ones(3, 4, requires_grad=True)
    y = bcos_linear(x, weight, 1.5)
    y.sum().backward()
    assert y.shape == (*shape[:-1], 3)
    assert (weight.grad == 0).all()


@exponents
@both_modes
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients(b, unit_rows, shape):
    x, weight = operands(shape)
    assert gradcheck(lambda x, w: bcos_linear(x, w, b, normalize_weights=unit_rows), (x, weight), atol=1e-7)
    torch.testing.assert_close(
        gradients(bcos_linear, x, weight, b, normalize_weights=unit_rows),
        gradients(reference, x, weight, b, unit_rows),
    )


@exponents
@both_modes
@pytest.mark.parametrize("shape", SHAPES)
def test_held_scale(b, unit_rows, shape):
    x, weight = operands(shape)
    held = gradients(bcos_linear, x, weight, b, normalize_weights=unit_rows, hold_scale=True)
    torch.testing.assert_close(held, gradients(reference, x, weight, b, unit_rows, hold_scale=True))
    assert torch.equal(held[0], bcos_linear(x, weight, b, normalize_weights=unit_rows)), "the output is the same"
    y = bcos_linear(x, weight, b, normalize_weights=unit_rows, hold_scale=True)
    (grad,) = torch.autograd.grad(y[..., 0].sum(), x)
    torch.testing.assert_close((grad * x).sum(-1), y[..., 0], rtol=1e-12, atol=1e-12)


@exponents
@both_modes
@pytest.mark.parametrize("shape", SHAPES)
def test_zero_inputs_and_zero_rows(b, unit_rows, shape):
    """Both give zeros, pass no gradient on, and leave the other rows alone."""
    x, weight = operands(shape)
    with torch.no_grad():
        x.view(-1, x.shape[-1])[1] = 0
        weight[1] = 0
    y = bcos_linear(x, weight, b, normalize_weights=unit_rows)
    assert (y.reshape(-1, y.shape[-1])[1] == 0).all()
    assert (y[..., 1] == 0).all()
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        small = x.detach().to(dtype).requires_grad_(), weight.detach().to(dtype).requires_grad_()
        y = bcos_linear(*small, b, normalize_weights=unit_rows)
        grads = torch.autograd.grad(y, small, torch.full_like(y, 100.0))
        assert all(grad.isfinite().all() for grad in grads)
    _, dx, dw = gradients(bcos_linear, x, weight, b, normalize_weights=unit_rows)
    rows_of_w = [row for row in range(len(weight)) if row != 1]
    rows_of_x = [row for row in range(x.shape[:-1].numel()) if row != 1]
    if b > 1:
        assert (dx.view(-1, x.shape[-1])[1] == 0).all()
    if b > 1 or unit_rows:
        assert (dw[1] == 0).all()
    live_x = x.detach().view(-1, x.shape[-1])[rows_of_x].requires_grad_()
    live_w = weight.detach()[rows_of_w].requires_grad_()
    g = torch.randn((*x.shape[:-1], len(weight)), generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    exact = reference(live_x, live_w, b, unit_rows)
    expected = torch.autograd.grad(exact, (live_x, live_w), g.view(-1, len(weight))[rows_of_x][:, rows_of_w])
    torch.testing.assert_close((dx.view(-1, x.shape[-1])[rows_of_x], dw[rows_of_w]), expected)


@exponents
@both_modes
@pytest.mark.parametrize("shape", [(0, 4), (2, 0, 4)], ids=str)
def test_empty_batch(b, unit_rows, shape):
    x = torch.empty(shape, requires_grad=True)
    weight = torch.randn(3, 4, requires_grad=True)
    y = bcos_linear(x, weight, b, normalize_weights=unit_rows)
    y.sum().backward()
    assert y.shape == (*shape[:-1], 3)
    assert x.grad.shape == x.shape
    assert (weight.grad == 0).all()


@exponents
@both_modes
@pytest.mark.parametrize("shape", SHAPES)
def test_one_token_without_batch(b, unit_rows, shape):
    x, weight = operands(shape)
    row = x.detach().reshape(-1, x.shape[-1])[0].requires_grad_()
    found = gradients(bcos_linear, row, weight, b, normalize_weights=unit_rows)
    torch.testing.assert_close(found, gradients(reference, row, weight, b, unit_rows))


@pytest.mark.parametrize("shape", SHAPES)
def test_non_contiguous(shape):
    x, weight = operands(shape)
    exact = gradients(bcos_linear, x, weight, 1.5)
    strided_x = x.detach().repeat_interleave(2, dim=-1)[..., ::2].requires_grad_()
    strided_w = weight.detach().t().contiguous().t().requires_grad_()
    assert not strided_x.is_contiguous()
    assert not strided_w.is_contiguous()
    torch.testing.assert_close(gradients(bcos_linear, strided_x, strided_w, 1.5), exact)
    y = bcos_linear(x, weight, 1.5)  # a gradient that is expanded from one number, as sum() gives
    torch.testing.assert_close(
        torch.autograd.grad(y.sum(), (x, weight)),
        torch.autograd.grad(bcos_linear(x, weight, 1.5), (x, weight), torch.ones_like(y)),
    )


@exponents
@both_modes
@pytest.mark.parametrize("frozen", ["x", "weight"])
def test_a_frozen_operand_gets_no_gradient(b, unit_rows, frozen):
    x, weight = operands()
    _, dx, dw = gradients(bcos_linear, x, weight, b, normalize_weights=unit_rows)
    (x if frozen == "x" else weight).requires_grad_(False)
    y = bcos_linear(x, weight, b, normalize_weights=unit_rows)
    g = torch.randn(y.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    y.backward(g)
    assert (x if frozen == "x" else weight).grad is None
    torch.testing.assert_close(*((weight.grad, dw) if frozen == "x" else (x.grad, dx)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@exponents
def test_operands_and_gradient_are_not_overwritten(b, dtype):
    x, weight = operands("wide input", dtype)
    before = x.detach().clone(), weight.detach().clone()
    y = bcos_linear(x, weight, b)
    y_before, g = y.detach().clone(), torch.ones_like(y)
    torch.autograd.grad(y, (x, weight), g)
    assert torch.equal(x, before[0])
    assert torch.equal(weight, before[1])
    assert torch.equal(y, y_before)
    assert (g == 1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_saves_its_output_and_two_norms_and_shares_the_rest(shape, dtype):
    """Beside what a plain layer saves (x and the weight) there is y, which the next operation saves anyway."""
    x, weight = operands(shape, dtype)
    saved = []

    def pack(tensor):
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = bcos_linear(x, weight, 1.5)
        z = torch.nn.functional.gelu(y)
    storages = {tensor.untyped_storage().data_ptr(): tensor for tensor in saved}
    own = {t.untyped_storage().data_ptr() for t in (x, weight, y)}
    assert own <= storages.keys()
    others = [tensor for pointer, tensor in storages.items() if pointer not in own]
    assert sum(tensor.numel() for tensor in others) == x.shape[:-1].numel() + len(weight)
    z.sum().backward()


@pytest.mark.parametrize("b", [1.25, 2.0])
@both_modes
def test_compiles_without_graph_breaks(b, unit_rows):
    layer = BcosLinear(4, 6, b=b, normalize_weights=unit_rows)
    x = torch.randn(3, 4, requires_grad=True)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    expected, *grads = gradients(lambda x, w: layer(x), x, layer.weight)
    found, *found_grads = gradients(lambda x, w: compiled(x), x, layer.weight)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found_grads, grads)
    function = torch.compile(bcos_linear, fullgraph=True, backend="aot_eager")
    held = gradients(function, x, layer.weight, b, normalize_weights=unit_rows, hold_scale=True)
    exact = gradients(bcos_linear, x, layer.weight, b, normalize_weights=unit_rows, hold_scale=True)
    torch.testing.assert_close(held, exact)


@pytest.mark.slow
def test_compiles_with_inductor():
    layer = BcosLinear(4, 6, b=1.5)
    x = torch.randn(3, 4, requires_grad=True)
    expected = gradients(lambda x, w: layer(x), x, layer.weight)
    compiled = torch.compile(layer, fullgraph=True)
    torch.testing.assert_close(gradients(lambda x, w: compiled(x), x, layer.weight), expected)
