"""Fused attention: the gradient of its values is the kernel's own, and no other tensor has one."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from bcos_peft.operations import LinearMode, attention


def drawn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def tensors(texts=3, heads=4, length=7, keys=7, groups=1, dtype=torch.float64):
    query = drawn(texts, heads, length, 6, dtype=dtype)
    key, value = (drawn(texts, heads // groups, keys, 6, seed=seed, dtype=dtype) for seed in (1, 2))
    return query.requires_grad_(), key.requires_grad_(), value.requires_grad_()


def both(inputs, options):
    """Output and gradient of the values: as they are, and in the mode."""
    found = []
    for inside in (False, True):
        if inside:
            with LinearMode():
                y = scaled_dot_product_attention(*inputs, **options)
        else:
            y = scaled_dot_product_attention(*inputs, **options)
        found.append((y, torch.autograd.grad(y, inputs, torch.ones_like(y).cumsum(-2), allow_unused=True)))
    return found


EMPTY = torch.arange(7) < torch.tensor([[3], [0], [7], [7], [1], [2], [6]])
CASES = {
    "plain": ({}, {}),
    "causal": ({}, {"is_causal": True}),
    "causal, more keys": ({"keys": 9}, {"is_causal": True}),
    "causal, fewer keys": ({"keys": 4}, {"is_causal": True}),
    "scaled": ({}, {"scale": 0.3}),
    "queries that see nothing": ({}, {"attn_mask": EMPTY}),
    "mask of each text": ({}, {"attn_mask": drawn(3, 1, 1, 7, seed=3)}),
    "mask of each head": ({}, {"attn_mask": drawn(4, 7, 7, seed=3)}),
    "groups": ({"groups": 2}, {"is_causal": True, "enable_gqa": True}),
}


@pytest.mark.parametrize("pieces", [(10**6, 128), (60, 2), (1, 1)], ids=["whole", "few", "single"])
@pytest.mark.parametrize("name", CASES)
def test_the_gradient_of_values_is_the_kernels(name, pieces, monkeypatch):
    monkeypatch.setattr(attention, "_CACHED", pieces[0])
    monkeypatch.setattr(attention, "_FEWEST", pieces[1])
    sizes, options = CASES[name]
    (y, (_, _, wanted)), (inside, (of_query, of_key, found)) = both(tensors(**sizes), options)
    assert type(inside.grad_fn).__name__ == "_HeldAttentionBackward"
    assert of_query is None
    assert of_key is None
    torch.testing.assert_close(inside, y, rtol=0, atol=0)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_good_as_the_kernel(dtype):
    (_, (_, _, kernel)), (_, (_, _, found)) = both(tensors(dtype=dtype, length=40, keys=40), {})
    wide = [x.detach().double().requires_grad_() for x in tensors(dtype=dtype, length=40, keys=40)]
    _, (_, (_, _, exact)) = both(wide, {})
    assert found.dtype == dtype
    assert (found - exact).abs().max() <= 1.01 * (kernel - exact).abs().max()


def test_many_gradients_at_once_and_gradients_of_gradients():
    query, key, value = tensors()
    with LinearMode():
        y = scaled_dot_product_attention(query, key, value, is_causal=True)
    directions = drawn(5, *y.shape, seed=4).requires_grad_()
    each = [torch.autograd.grad(y, value, one, retain_graph=True)[0] for one in directions]
    (together,) = torch.autograd.grad(y, value, directions, retain_graph=True, is_grads_batched=True)
    torch.testing.assert_close(together, torch.stack(each))
    (once,) = torch.autograd.grad(y, value, directions[0], create_graph=True)
    (again,) = torch.autograd.grad(once, directions, value.detach())
    torch.testing.assert_close(again[0], y.detach())


def test_with_dropout_and_without_live_values_the_kernel_is_used():
    query, key, value = tensors()
    with LinearMode():
        dropped = scaled_dot_product_attention(query, key, value, dropout_p=0.5)
        held = scaled_dot_product_attention(query, key, value.detach())
        flat = scaled_dot_product_attention(query[0], key[0], value[0])
    assert not held.requires_grad
    assert {type(one.grad_fn).__name__ for one in (dropped, flat)}.isdisjoint({"_HeldAttentionBackward"})
