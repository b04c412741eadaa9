"""The B-cos transform of a low-rank update: against the definition on W + UD, in value and gradient."""

import pytest
import torch
from helpers.functions import both_modes, exponents, reference
from torch.autograd import gradcheck

from bcos_peft.nn import LowRank, bcos_linear, bcos_lora_linear, numerics
from bcos_peft.nn import low_rank as lora_functional


# (leading dimensions, in, out, rank)
SHAPES = {"wide input": ((2, 3), 6, 4, 2), "wide output": ((3,), 4, 6, 1), "many tokens": ((4, 5), 3, 5, 2)}
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def operands(shape=SHAPES["wide input"], dtype=torch.float64, seed=0):
    """x, W, D and U."""
    leading, n_in, n_out, rank = shape
    generator = torch.Generator().manual_seed(seed)
    sizes = ((*leading, n_in), (n_out, n_in), (rank, n_in), (n_out, rank))
    values = [torch.randn(*size, generator=generator, dtype=torch.float64) for size in sizes]
    return tuple(value.to(dtype).requires_grad_() for value in values)


def updated(x, weight, down, up, b, **options):
    return bcos_lora_linear(x, weight, LowRank(x @ down.t(), down, up), b, **options)


def naive(x, weight, down, up, b, normalize_weights=False, hold_scale=False):
    return reference(x, weight + up @ down, b, normalize_weights, hold_scale)


def gradients(function, inputs, *args, **options):
    y = function(*inputs, *args, **options)
    g = torch.randn(y.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64).to(y.dtype)
    return y.detach(), *torch.autograd.grad(y, [t for t in inputs if t.requires_grad], g)


@exponents
@both_modes
@shapes
def test_value_and_gradients_are_those_of_the_sum(b, unit_rows, shape):
    inputs = operands(shape)
    found = gradients(updated, inputs, b, normalize_weights=unit_rows)
    torch.testing.assert_close(found, gradients(naive, inputs, b, normalize_weights=unit_rows))
    merged = bcos_linear(inputs[0], inputs[1] + inputs[3] @ inputs[2], b, normalize_weights=unit_rows)
    torch.testing.assert_close(found[0], merged)


@pytest.mark.parametrize("b", [1.0, 1.25, 1.5, 2.0])
@both_modes
@shapes
def test_gradients(b, unit_rows, shape):
    """Of all parameters and the input, against differences."""
    assert gradcheck(lambda *inputs: updated(*inputs, b, normalize_weights=unit_rows), operands(shape), atol=1e-7)


@exponents
@both_modes
@shapes
def test_held_scale(b, unit_rows, shape):
    inputs = operands(shape)
    options = {"normalize_weights": unit_rows, "hold_scale": True}
    torch.testing.assert_close(gradients(updated, inputs, b, **options), gradients(naive, inputs, b, **options))
    for tensor in inputs[1:]:
        tensor.requires_grad_(False)
    y = updated(*inputs, b, **options)
    assert torch.equal(y, updated(*inputs, b, normalize_weights=unit_rows)), "the output is the same"
    (grad,) = torch.autograd.grad(y[..., 0].sum(), inputs[0])
    torch.testing.assert_close((grad * inputs[0]).sum(-1), y[..., 0], rtol=1e-12, atol=1e-12)


@exponents
@both_modes
def test_noise_on_the_low_rank_branch(b, unit_rows):
    """Dropout in training: the numerator has it, the norms have not, and the gradients are those of that."""
    x, weight, down, up = inputs = operands()
    mask = torch.tensor([0.0, 2.0, 2.0, 0.0, 2.0, 0.0], dtype=torch.float64)

    def noisy(x, weight, down, up):
        return bcos_lora_linear(x, weight, LowRank((x * mask) @ down.t(), down, up), b, normalize_weights=unit_rows)

    def by_definition(x, weight, down, up):
        o = x @ weight.t() + (x * mask) @ down.t() @ up.t()
        norms = (weight + up @ down).norm(dim=-1)
        cosine = o / (x.norm(dim=-1, keepdim=True) * norms)
        return cosine.abs() ** (b - 1) * o / (norms if unit_rows else 1)

    torch.testing.assert_close(gradients(noisy, inputs), gradients(by_definition, inputs))


@pytest.mark.parametrize("hold_scale", [False, True])
@both_modes
def test_pieces_make_no_difference(monkeypatch, unit_rows, hold_scale):
    inputs = operands(SHAPES["many tokens"])
    options = {"normalize_weights": unit_rows, "hold_scale": hold_scale}
    whole = gradients(updated, inputs, 1.25, **options)
    monkeypatch.setattr(numerics, "_CACHED", 7)
    monkeypatch.setattr(lora_functional, "_COPIED", 4)
    torch.testing.assert_close(gradients(updated, inputs, 1.25, **options), whole, rtol=1e-13, atol=1e-13)


@exponents
@both_modes
def test_zero_inputs_and_zero_rows(b, unit_rows):
    x, weight, down, up = operands(dtype=torch.float32)
    with torch.no_grad():
        x[0, 1] = 0
        weight[1] = 0
        up[1] = 0
    y, *grads = gradients(updated, (x, weight, down, up), b, normalize_weights=unit_rows)
    assert (y[0, 1] == 0).all()
    assert (y[..., 1] == 0).all()
    assert all(grad.isfinite().all() for grad in grads)


def test_a_new_row_from_nothing():
    """A zero row of W has the norm of its update."""
    x, weight, down, up = operands()
    with torch.no_grad():
        weight[1] = 0
    found = gradients(updated, (x, weight, down, up), 1.5)
    torch.testing.assert_close(found, gradients(naive, (x, weight, down, up), 1.5))


def test_no_update_changes_nothing():
    x, weight, down, _ = operands()
    y = updated(x, weight, down, torch.zeros(4, 2, dtype=torch.float64), 1.5)
    torch.testing.assert_close(y, bcos_linear(x, weight, 1.5), rtol=1e-14, atol=1e-14)


@exponents
@both_modes
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2**-6), (torch.float16, 2**-9)], ids=str)
@pytest.mark.parametrize("adapter", ["same", "float32"])
def test_half_precision(monkeypatch, b, unit_rows, dtype, tolerance, adapter):
    """peft keeps adapters in float32 over a base in half precision."""
    monkeypatch.setattr(lora_functional, "_COPIED", 12)  # the weight is widened part by part
    x, weight, down, up = operands(dtype=dtype)
    if adapter == "float32":
        down, up = down.detach().float().requires_grad_(), up.detach().float().requires_grad_()

    def layer(x, weight, down, up):
        return bcos_lora_linear(
            x, weight, LowRank(x.to(down.dtype) @ down.t(), down, up), b, normalize_weights=unit_rows
        )

    found = gradients(layer, (x, weight, down, up))
    wide = [tensor.detach().double().requires_grad_() for tensor in (x, weight, down, up)]
    y = naive(*wide, b, unit_rows)
    g = torch.randn(y.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64).to(dtype).double()
    exact = y, *torch.autograd.grad(y, wide, g)
    for value, expected, source in zip(found, exact, (x, x, weight, down, up), strict=True):
        assert value.dtype == source.dtype
        size = expected.detach().abs().max()
        torch.testing.assert_close(value.double() / size, expected.detach() / size, rtol=0, atol=2 * tolerance)


@exponents
@both_modes
def test_autocast(b, unit_rows):
    inputs = operands(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = updated(*inputs, b, normalize_weights=unit_rows)
    assert y.dtype == torch.bfloat16
    exact = naive(*inputs, b, unit_rows)
    torch.testing.assert_close(y.float(), exact, rtol=0.02, atol=0.1)
    grads = torch.autograd.grad(y.float().sum(), inputs), torch.autograd.grad(exact.sum(), inputs)
    for found, expected in zip(*grads, strict=True):
        assert found.dtype == torch.float32
        size = expected.abs().max()
        torch.testing.assert_close(found / size, expected / size, rtol=0, atol=0.05)


def test_a_frozen_weight_gets_no_gradient_and_the_rest_is_the_same():
    x, weight, down, up = operands()
    _, dx, _, ddown, dup = gradients(updated, (x, weight, down, up), 1.5)
    found = gradients(updated, (x, weight.requires_grad_(False), down, up), 1.5)
    torch.testing.assert_close(found[1:], (dx, ddown, dup))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_operands_and_gradient_are_not_overwritten(dtype):
    inputs = operands(dtype=dtype)
    before = [tensor.detach().clone() for tensor in inputs]
    y = updated(*inputs, 1.5)
    y_before, g = y.detach().clone(), torch.ones_like(y)
    torch.autograd.grad(y, inputs, g)
    assert all(torch.equal(now, then) for now, then in zip(inputs, before, strict=True))
    assert torch.equal(y, y_before)
    assert (g == 1).all()


@pytest.mark.parametrize("hold_scale", [False, True])
def test_no_gradient_of_the_gradient(hold_scale):
    x, *rest = operands()
    (grad,) = torch.autograd.grad(updated(x, *rest, 1.5, hold_scale=hold_scale).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiated twice"):
        torch.autograd.grad(x.sum() + grad.square().sum(), x)


def test_saves_no_more_than_its_operands_the_output_and_what_has_the_rank_as_a_dimension():
    leading, n_in, n_out, rank = (64,), 32, 48, 2
    x, weight, down, up = operands((leading, n_in, n_out, rank), torch.float32)
    weight.requires_grad_(False)
    saved = {}

    def pack(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = updated(x, weight, down, up, 1.5)
    own = {tensor.untyped_storage().data_ptr() for tensor in (x, weight, down, up, y)}
    assert own <= saved.keys()
    others = sum(tensor.numel() for pointer, tensor in saved.items() if pointer not in own)
    assert others == 64 * rank + n_out * rank + 64 + n_out  # hidden, V·Dᵀ and two norms


@both_modes
def test_compiles_without_graph_breaks(unit_rows):
    inputs = operands(dtype=torch.float32)
    compiled = torch.compile(updated, fullgraph=True, backend="aot_eager")
    expected = gradients(updated, inputs, 1.5, normalize_weights=unit_rows)
    torch.testing.assert_close(gradients(compiled, inputs, 1.5, normalize_weights=unit_rows), expected)


@pytest.mark.parametrize("shape", [(0, 6), (2, 0, 6)], ids=str)
def test_no_tokens(shape):
    _, weight, down, up = operands(dtype=torch.float32)
    x = torch.zeros(shape, requires_grad=True)
    y = updated(x, weight, down, up, 1.5)
    y.sum().backward()
    assert y.shape == (*shape[:-1], 4)
    assert (up.grad == 0).all()
