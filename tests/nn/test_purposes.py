"""What else torch does with a model: exports, traces, transforms of `torch.func`, one gradient for each example."""

import copy
import io
from contextlib import nullcontext

import pytest
import torch
from helpers import tiny
from helpers.functions import both_modes, gradients, operands
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jvp, vmap

from bcos_peft import BcosConfig, get_bcos_model
from bcos_peft.nn import (
    BcosLinear,
    LowRank,
    bcos_linear,
    bcos_lora_linear,
    bcos_scale,
    hold_ratio,
    layer_norm,
    numerics,
    rms_norm,
    steady_weights,
)


EXPONENTS = pytest.mark.parametrize("b", [1.0, 1.25, 2.0])
held_or_not = pytest.mark.parametrize("hold", [False, True], ids=["", "held"])


def perceptron(dtype=torch.float64, **options):
    torch.manual_seed(0)
    layers = BcosLinear(5, 7, b=1.5, dtype=dtype, **options), nn.GELU(), BcosLinear(7, 3, b=1.25, dtype=dtype)
    return nn.Sequential(*layers)


def loss_of(model, parameters, x):
    return functional_call(model, parameters, (x,)).square().sum()


@pytest.fixture
def plain(monkeypatch):
    """The function in plain torch operations, as what traces it sees it."""

    def call(function, *args, **options):
        with monkeypatch.context() as patched:
            for name in ("functional", "low_rank", "dynamic_linear", "numerics"):
                patched.setattr(f"bcos_peft.nn.{name}._is_traced", lambda: True)
            return function(*args, **options)

    return call


@EXPONENTS
@both_modes
@held_or_not
def test_plain_operations_give_the_closed_form(plain, b, unit_rows, hold):
    x, weight = operands()
    with torch.no_grad():
        x[1], weight[1] = 0, 0
    options = {"normalize_weights": unit_rows, "hold_scale": hold}
    found = plain(gradients, bcos_linear, x, weight, b, **options)
    torch.testing.assert_close(found, gradients(bcos_linear, x, weight, b, **options), rtol=1e-12, atol=1e-12)

    def scaled(x, weight):
        return bcos_scale(x, x @ weight.t(), weight.norm(dim=-1), b, **options)

    expected = gradients(scaled, x, weight)
    torch.testing.assert_close(plain(gradients, scaled, x, weight), expected, rtol=1e-12, atol=1e-12)


@both_modes
@held_or_not
def test_plain_operations_of_an_update(plain, unit_rows, hold):
    x, weight = operands()
    down, up = torch.randn(2, 4, dtype=torch.float64), torch.randn(6, 2, dtype=torch.float64)

    def updated(x, weight):
        update = LowRank(x @ down.t(), down, up)
        return bcos_lora_linear(x, weight, update, 1.5, normalize_weights=unit_rows, hold_scale=hold)

    expected = gradients(updated, x, weight)
    torch.testing.assert_close(plain(gradients, updated, x, weight), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("scale", [(1e8, 1.0), (1e-8, 1.0), (1.0, 1e-8), (1e-8, 1e8)], ids=str)
def test_plain_operations_on_large_and_small_numbers(plain, scale):
    x, weight = operands(dtype=torch.float32, scale=scale)
    expected = gradients(bcos_linear, x, weight, 2.0)
    for value, exact in zip(plain(gradients, bcos_linear, x, weight, 2.0), expected, strict=True):
        size = exact.abs().max()
        torch.testing.assert_close(value / size, exact / size, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@both_modes
def test_without_gradients_nothing_else_is_computed(dtype, unit_rows):
    """The cheap path gives what training gives, bit for bit."""
    x, weight = operands("many tokens", dtype)
    for b in (1.0, 1.25, 1.5, 1.7, 2.0, 3.0):
        wanted = bcos_linear(x, weight, b, normalize_weights=unit_rows)
        with torch.no_grad():
            assert torch.equal(bcos_linear(x, weight, b, normalize_weights=unit_rows), wanted)
        assert torch.equal(bcos_linear(x.detach(), weight.detach(), b, normalize_weights=unit_rows), wanted)


@pytest.mark.parametrize("rows", [1, 16, 17])
@pytest.mark.parametrize("odd", [0.0, 1e-30, 1e30, float("inf"), float("nan")], ids=str)
def test_norms_of_few_rows(rows, odd):
    x = torch.randn(rows, 4)
    x[-1] = odd
    expected = torch.linalg.vector_norm(x, dim=-1, dtype=torch.float64).float()
    torch.testing.assert_close(numerics._row_norms(x), expected, rtol=1e-6, atol=0, equal_nan=True)


@pytest.mark.parametrize("strict", [False, True])
def test_an_exported_model_is_trained(strict):
    model, x = perceptron(), torch.randn(4, 5, dtype=torch.float64)
    batch = torch.export.Dim("batch", min=2, max=64)
    exported = torch.export.export(model, (x,), dynamic_shapes=({0: batch},), strict=strict).module()
    x = torch.randn(9, 5, dtype=torch.float64)
    torch.testing.assert_close(exported(x), model(x))
    expected = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
    found = torch.autograd.grad(exported(x).square().sum(), list(exported.parameters()))
    torch.testing.assert_close(found, expected)


def test_an_exported_transformer_gets_every_gradient():
    model = get_bcos_model(tiny.model("bert", dtype=torch.float64, num_hidden_layers=1), BcosConfig(b=1.25)).eval()
    inputs = tiny.inputs(2, 8, "right", "bert")
    exported = torch.export.export(model, (), dict(inputs)).module()
    expected, found = model(**inputs).logits, exported(**inputs).logits
    torch.testing.assert_close(found, expected)
    slopes, own = torch.randn_like(expected), dict(exported.named_parameters())
    wanted = torch.autograd.grad(expected, list(model.parameters()), slopes, allow_unused=True)
    names = [name for name, _ in model.named_parameters()]
    assert sum(gradient is not None for gradient in wanted) >= 14
    given = torch.autograd.grad(found, [own[name] for name in names], slopes, allow_unused=True)
    for name, gradient, exact in zip(names, given, wanted, strict=True):
        assert (gradient is None) == (exact is None), name
        if exact is not None:
            torch.testing.assert_close(gradient, exact, msg=name)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_traced_model_is_saved_and_trained():
    model, x = perceptron(), torch.randn(4, 5, dtype=torch.float64)
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(model, (x,)), file)
    file.seek(0)
    traced, x = torch.jit.load(file), torch.randn(9, 5, dtype=torch.float64) * 1e20
    torch.testing.assert_close(traced(x), model(x))
    expected = torch.autograd.grad(model(x).sum(), list(model.parameters()))
    torch.testing.assert_close(torch.autograd.grad(traced(x).sum(), list(traced.parameters())), tuple(expected))


@both_modes
def test_one_gradient_for_each_example(unit_rows):
    model, x = perceptron(normalize_weights=unit_rows), torch.randn(6, 5, dtype=torch.float64)
    parameters = dict(model.named_parameters())
    each = vmap(grad(lambda p, one: loss_of(model, p, one)), (None, 0))(parameters, x)
    for row, one in enumerate(x):
        expected = torch.autograd.grad(model(one).square().sum(), list(model.parameters()))
        torch.testing.assert_close([each[name][row] for name in parameters], list(expected))


def test_one_gradient_for_each_text():
    model = get_bcos_model(tiny.model("bert", dtype=torch.float64, num_hidden_layers=1), BcosConfig(b=1.25)).eval()
    ids = tiny.inputs(2, 8)["input_ids"]
    parameters = dict(model.named_parameters())

    def loss(parameters, ids):  # without a mask, at whose values transformers looks
        return functional_call(model, parameters, (), {"input_ids": ids[None]}).logits[0, 0]

    each = vmap(grad(loss), (None, 0))(parameters, ids)
    for row in range(2):
        one = loss(parameters, ids[row])
        expected = torch.autograd.grad(one, list(parameters.values()), allow_unused=True)
        for name, gradient in zip(parameters, expected, strict=True):
            if gradient is not None:
                torch.testing.assert_close(each[name][row], gradient, msg=name)


def test_an_ensemble_of_models():
    models, x = [perceptron(), copy.deepcopy(perceptron())], torch.randn(4, 5, dtype=torch.float64)
    with torch.no_grad():
        models[1][0].weight.mul_(-0.5)
    parameters, buffers = torch.func.stack_module_state(models)
    found = vmap(lambda p, b: functional_call(models[0], (p, b), (x,)))(parameters, buffers)
    torch.testing.assert_close(found, torch.stack([model(x) for model in models]))


def test_forward_mode_and_second_derivatives():
    x, weight = (t.detach() for t in operands())
    direction = torch.randn_like(x)
    step = 1e-6
    above, below = (bcos_linear(x + sign * step * direction, weight, 1.5) for sign in (1, -1))
    _, tangent = jvp(lambda x: bcos_linear(x, weight, 1.5), (x,), (direction,))
    torch.testing.assert_close(tangent, (above - below) / (2 * step), rtol=1e-6, atol=1e-6)
    with forward_ad.dual_level():
        dual = bcos_linear(forward_ad.make_dual(x, direction), weight, 1.5)
        torch.testing.assert_close(forward_ad.unpack_dual(dual).tangent, tangent)
    second = hessian(lambda x: bcos_linear(x, weight, 1.5).square().sum())(x[0])
    slope = grad(lambda x: bcos_linear(x, weight, 1.5).square().sum())
    columns = [(slope(x[0] + step * unit) - slope(x[0] - step * unit)) / (2 * step) for unit in torch.eye(4).double()]
    torch.testing.assert_close(second, torch.stack(columns), rtol=1e-5, atol=1e-5)


def test_second_derivatives_of_autograd_are_refused():
    x, weight = operands()
    (gradient,) = torch.autograd.grad(bcos_linear(x, weight, 1.5).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="cannot be differentiated twice"):
        gradient.sum().backward()


def test_what_is_held_is_differentiated_by_torch_func():
    """An explaining network is linear: its gradient times its input is its output."""
    x, weight = (t.detach() for t in operands("many tokens"))
    scale = torch.rand(5, dtype=torch.float64)

    def network(x):
        y = bcos_linear(x, weight, 1.5, hold_scale=True)
        y = hold_ratio(y, torch.nn.functional.gelu(y))
        return layer_norm(rms_norm(y, scale, 1e-6), scale, 1e-5)[..., 0]

    live = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(network(live).sum(), live)
    found = grad(lambda x: network(x).sum())(x)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close((found * x).sum(-1), network(x))


class _Codes(torch.Tensor):
    """As a weight of torchao: numbers of another kind, with the few operations that a plain layer needs."""

    @staticmethod
    def __new__(cls, codes):
        return torch.Tensor._make_wrapper_subclass(cls, codes.shape, dtype=torch.float32)

    def __init__(self, codes):
        self.codes = codes

    def __repr__(self, **options):
        return "_Codes"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.detach.default:
            return cls(args[0].codes)
        return NotImplemented


@pytest.mark.parametrize("steady", [False, True])
def test_weights_with_their_own_arithmetic_are_refused_by_their_class(steady):
    layer = BcosLinear(4, 6)
    layer.weight = nn.Parameter(_Codes(torch.ones(6, 4, dtype=torch.int8)), requires_grad=False)
    assert isinstance(layer.weight, nn.Parameter)
    with steady_weights(layer) if steady else nullcontext(), pytest.raises(TypeError, match="is a .*_Codes.*bitsandb"):
        layer(torch.ones(1, 4))
    with pytest.raises(TypeError, match="is a .*_Codes"):
        layer(torch.ones(1, 4), LowRank(torch.ones(1, 2), torch.ones(2, 4), torch.ones(6, 2)))


def test_subclasses_of_torch_and_plain_ones_are_taken():
    class Named(nn.Parameter):
        pass

    x, weight = operands()
    expected = bcos_linear(x, weight, 1.5)
    assert torch.equal(bcos_linear(x, Named(weight.detach()), 1.5), expected)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = bcos_linear(mode.from_tensor(x), mode.from_tensor(weight), 1.5)
    assert fake.shape == expected.shape
