"""The rule of every operation, by numbers: gradients at the input give back the value, `⟨Jᵀv, x⟩ = ⟨v, y⟩`."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from bcos_peft.operations import Constants, LinearMode, UnknownOperation, add_rule, is_linear
from bcos_peft.operations.table import _CASTS, _FILLED, _LINEAR, _RULES, _SHAPES


def live(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


def constant(*shape):
    return live(*shape, seed=7).detach()


def sums(function, *inputs, **options):
    """The value of a function in the mode, and what the gradients of its inputs make of it, for a random direction."""
    with LinearMode(**options):
        y = function(*inputs)
    direction = constant(*y.shape)
    gradients = torch.autograd.grad(y, inputs, direction, allow_unused=True)
    found = sum(((g * x.detach()).sum() for g, x in zip(gradients, inputs, strict=True) if g is not None), 0)
    return float((direction * y.detach()).sum()), float(found)


# An elementwise function that is 0 at 0, a product, a norm, attention: by itself each gives back its value.
EXACT = {
    "gelu": functional.gelu,
    "silu": functional.silu,
    "relu": torch.relu,
    "tanh": torch.tanh,
    "softsign": functional.softsign,
    "square": torch.square,
    "power": lambda x: x**3,
    "expm1": torch.expm1,
    "clamp": lambda x: x.clamp(-0.5, 0.5),
    "clip above": lambda x: x.clamp(max=0.3),
    "softcap": lambda x: 5 * torch.tanh(x / 5),
    "x·σ(x)": lambda x: x * torch.sigmoid(1.7 * x),
    "softmax times x": lambda x: x.softmax(-1) * x,
    "glu": functional.glu,
    "layer norm": lambda x: functional.layer_norm(x, (8,), constant(8)),
    "layer norm of two": lambda x: functional.layer_norm(x, (4, 8)),
    "rms norm": lambda x: functional.rms_norm(x, (8,), constant(8)),
    "rms norm by hand": lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6),
    "group norm": lambda x: functional.group_norm(x.unsqueeze(0), 2)[0],
    "normalize": lambda x: functional.normalize(x, dim=-1),
    "standardised": lambda x: (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True),
    "gated": lambda x: functional.gelu(x[:, :4]) * x[:, 4:],
    "attention by hand": lambda x: (x @ x.T).softmax(-1) @ x,
    "fused attention": lambda x: functional.scaled_dot_product_attention(x[None], x[None], x[None])[0],
    "einsum": lambda x: torch.einsum("ij,kj->ik", x, x),
    "batched products": lambda x: torch.bmm(x[None], x.T[None])[0],
    "baddbmm": lambda x: torch.baddbmm(x[None, :, :4], x[None], x.T[None])[0],
    "a difference": lambda x: x - functional.gelu(x),
    "linear": lambda x: functional.linear(x, constant(3, 8)),
    "convolution": lambda x: functional.conv1d(x[None], constant(5, 4, 3), padding=1)[0],
    "lerp": lambda x: torch.lerp(x, 2 * x, x.softmax(-1)),
    "interpolated": lambda x: x.lerp(x.relu(), x.sigmoid()),
    "scan": lambda x: torch.cumsum(x * torch.exp(x), 0),
    "in place": lambda x: x.clone().mul_(x.sigmoid()).add_(x),
    "written": lambda x: torch.zeros(4, 8, dtype=x.dtype).index_add_(0, torch.tensor([0, 2, 1, 3]), x.relu()),
    "masked": lambda x: x.masked_fill(torch.eye(4, 8).bool(), 0.0),
    "sorted": lambda x: x.topk(3).values,
    "solved": lambda x: torch.linalg.solve_triangular(torch.eye(4, dtype=x.dtype) + x[:, :4].tril(-1), x, upper=False),
    "complex": lambda x: torch.view_as_real(torch.view_as_complex(x.view(4, 4, 2)) * (0.5 + 0.5j)).flatten(1),
    "to float32": lambda x: x.float() * x.to(torch.float32).relu(),
    "factor with a constant": lambda x: (x + 1) * functional.gelu(x),
    "factor less a constant": lambda x: functional.gelu(x) * (2 - x).transpose(0, 1).transpose(0, 1),
}


@pytest.mark.parametrize("hold_gates", [False, True])
@pytest.mark.parametrize("name", EXACT)
def test_contributions_give_back_the_value(name, hold_gates):
    wanted, found = sums(EXACT[name], live(4, 8), hold_gates=hold_gates)
    assert found == pytest.approx(wanted, rel=1e-10, abs=1e-10)
    plain = EXACT[name](live(4, 8))
    with LinearMode(hold_gates=hold_gates):
        inside = EXACT[name](live(4, 8))
    torch.testing.assert_close(inside.double(), plain.double(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "function", [torch.sigmoid, torch.exp, functional.softplus, torch.cos, torch.rsqrt, torch.var]
)
def test_factors_are_held(function):
    with LinearMode():
        assert not function(live(4, 8).abs()).requires_grad


def test_a_product_is_shared():
    """Two functions of the input get half of it each; with `hold_gates` the activation is held."""
    x = live(1, 8)
    a, b = live(8, seed=1), live(8, seed=2)
    with LinearMode():
        (a * b).sum().backward()
    torch.testing.assert_close(a.grad, b.detach() / 2)
    torch.testing.assert_close(b.grad, a.detach() / 2)
    gate = live(1, 8, seed=3)
    with LinearMode(hold_gates=True):
        (functional.silu(gate) * x).sum().backward()
    assert gate.grad is None
    torch.testing.assert_close(x.grad, functional.silu(gate.detach()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128, torch.bfloat16])
@pytest.mark.parametrize("shapes", [((3, 5), (3, 5)), ((3, 5), (5,)), ((3, 1), (2, 1, 5)), ((1,), (4,))])
@pytest.mark.parametrize("constant_of", [None, 2.0])
def test_a_shared_product_gives_half_of_the_derivatives(dtype, shapes, constant_of):
    """Those of the product itself, halved; what a constant in a factor gives is the other factor's alone."""
    a, b = (live(*shape, seed=seed).detach().to(dtype).requires_grad_() for seed, shape in enumerate(shapes))
    with LinearMode():
        y = (a if constant_of is None else a + constant_of) * b
    direction = constant(*y.shape).to(dtype)
    found = torch.autograd.grad(y, [a, b], direction, retain_graph=True)
    of_a, of_b = torch.autograd.grad(a * b, [a, b], direction)
    if constant_of is not None:
        of_b = of_b + 2 * (constant_of * direction).sum_to_size(b.shape)
    close = {"rtol": 0.02, "atol": 0.02} if dtype == torch.bfloat16 else {}
    torch.testing.assert_close(found, (of_a / 2, of_b / 2), **close)
    many = torch.autograd.grad(y, [a, b], torch.stack([direction, 2 * direction]), is_grads_batched=True)
    torch.testing.assert_close([one[0] for one in many], list(found), **close)
    torch.testing.assert_close([one[1] for one in many], [2 * one for one in found], **close)


def test_the_left_factor_of_a_matrix_product_is_held():
    left, right = live(3, 4), live(4, 2, seed=1)
    with LinearMode():
        (left @ right).sum().backward()
    assert left.grad is None
    torch.testing.assert_close(right.grad, left.detach().T @ torch.ones(3, 2, dtype=torch.float64))


def test_constants_are_found_and_named():
    layer, norm, x = nn.Linear(8, 3).double(), nn.LayerNorm(3).double(), live(2, 8)
    nn.init.normal_(norm.bias)
    parameters = {"layer.bias": layer.bias, "norm.bias": norm.bias}
    for parameter in (*layer.parameters(), *norm.parameters()):
        parameter.requires_grad_(False)
    constants = Constants(parameters=parameters)
    with LinearMode(constants=constants):
        y = torch.cat([norm(layer(x)) + 2.0, torch.ones(2, 1, dtype=torch.float64)], -1)
    direction = constant(2, 4)
    leaves = [leaf for _, leaf in constants.leaves]
    of_x, *of_constants = torch.autograd.grad(y, [x, *leaves], direction, allow_unused=True)
    shares = [float((g * leaf.detach()).sum()) for g, leaf in zip(of_constants, leaves, strict=True) if g is not None]
    assert sum(shares) + float((of_x * x.detach()).sum()) == pytest.approx(float((direction * y.detach()).sum()))
    assert {"layer.bias", "norm.bias"} < {name for name, _ in constants.leaves}


def test_positions_are_inputs_and_no_constants():
    constants = Constants(frozenset([5]))
    x = live(2, 5, 8)
    with LinearMode(constants=constants):
        y = x + constant(5, 8)
    ((name, leaf),) = constants.leaves
    assert (name, leaf.shape) == ("position", x.shape)
    torch.testing.assert_close(y, x + constant(5, 8))


def test_what_has_no_rule_is_tried_by_numbers():
    x = live(4, 8)
    with LinearMode():
        assert torch.renorm(x, 2, 0, 1e9).requires_grad, "linear as it is, and so it passes"
        with pytest.raises(UnknownOperation, match=r"'lgamma', called at test_rules.py:\d+ in test_what.*add_rule"):
            torch.lgamma(x)
    assert is_linear(torch.cumsum, (x, 0), {})
    assert not is_linear(torch.lgamma, (x,), {})


def test_a_rule_can_be_added(monkeypatch):
    monkeypatch.setattr("bcos_peft.operations.mode._RULES", dict(_RULES))
    add_rule("erfcx", "hold")
    with pytest.raises(ValueError, match="has a rule already"):
        add_rule("cumsum", "hold")
    with pytest.raises(ValueError, match="rule must be 'hold', 'ratio' or 'linear', got 'no'"):
        add_rule("lgamma", "no")


def test_a_function_is_in_one_set():
    sets = [_LINEAR, _SHAPES, _CASTS, _FILLED, frozenset(_RULES)]
    assert sum(map(len, sets)) == len(frozenset.union(*sets))


def test_nothing_depends_on_what_is_constant():
    x = constant(4, 8)
    with LinearMode():
        y = functional.gelu(x) * x.softmax(-1)
    assert not y.requires_grad
    torch.testing.assert_close(y, functional.gelu(x) * x.softmax(-1))


def test_without_gradients_it_is_out_of_the_way():
    with torch.no_grad(), LinearMode():
        torch.testing.assert_close(torch.lgamma(live(3).abs()), torch.lgamma(live(3).abs()).detach())


def test_a_vector_that_reads_a_state_is_held():
    """Of `state @ query` the state is explained; of two matrices the right one; of a row and a column the column."""
    for left, right, explained in [((3, 4), (4, 1), 0), ((3, 4), (4,), 0), ((3, 4), (4, 2), 1), ((1, 4), (4, 1), 1)]:
        values = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in (left, right)]
        with LinearMode():
            y = torch.matmul(*values).sum()
        gradients = torch.autograd.grad(y, values, allow_unused=True)
        assert gradients[1 - explained] is None
        torch.testing.assert_close((gradients[explained] * values[explained]).sum(), y)
