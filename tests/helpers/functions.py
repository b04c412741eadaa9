"""Reference values and gradients for functions of tensors."""

import pytest
import torch


EXPONENTS = (1.0, 1.25, 1.5, 2.0, 3.0)


# (leading dimensions, in, out)
SHAPES = {
    "wide input": ((2, 3), 6, 4),
    "wide output": ((3,), 4, 6),
    "many tokens": ((4, 5), 3, 5),
}


exponents = pytest.mark.parametrize("b", EXPONENTS)


both_modes = pytest.mark.parametrize("unit_rows", [False, True], ids=["as is", "unit rows"])


def reference(x, weight, b, unit_rows=False, hold_scale=False):
    """The definition, written down with autograd."""
    plain = x @ weight.t()
    w_norm = weight.norm(dim=-1)
    cos = plain / (x.norm(dim=-1, keepdim=True) * w_norm)
    scale = cos.abs() ** (b - 1)
    if unit_rows:
        scale = scale / w_norm
    return (scale.detach() if hold_scale else scale) * plain


def operands(shape="wide output", dtype=torch.float64, seed=0, scale=(1.0, 1.0)):
    leading, n_in, n_out = SHAPES[shape]
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*leading, n_in, generator=generator, dtype=torch.float64) * scale[0]
    weight = torch.randn(n_out, n_in, generator=generator, dtype=torch.float64) * scale[1]
    return x.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_()


def gradients(function, x, weight, *args, **kwargs):
    """The output and the gradients of a fixed random combination of it."""
    y = function(x, weight, *args, **kwargs)
    g = torch.randn(y.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64).to(y.dtype)
    return y.detach(), *torch.autograd.grad(y, (x, weight), g)
