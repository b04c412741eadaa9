"""Passes over matrices that the closed-form functions share: norms, powers, scales, in pieces that stay in cache.

Nothing here knows B-cos layers; only torch is needed. `functional` has the formulas.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.autograd import forward_ad


# Older releases of torch do not tell an export from a compilation.
_is_exporting = getattr(torch.compiler, "is_exporting", lambda: False)

# Sums of squares stay accurate in float32 while norms stay in this range; outside, they are taken again in float64.
_SAFE_NORMS = (1e-16, 1e16)

# Elements for each thread that stay in its cache while several passes go over them. (Fewer would be as good for the
# cache, but threads wait for each other after each piece, and long when something else runs on their cores.)
_CACHED = 262144


def _first_order(grads, origins):
    """The same gradients, such that asking for their own gradient is an error, and not silently zero."""
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():  # it is enabled when create_graph=True
        return grads
    origins = [origin for origin in origins if origin is not None]
    return tuple(grad if grad is None else _FirstOrder.apply(grad, *origins) for grad in grads)


class _FirstOrder(torch.autograd.Function):
    @staticmethod
    def forward(ctx, grad, *origins):
        return grad.view_as(grad)

    @staticmethod
    def backward(ctx, *grads):
        raise RuntimeError(
            "The B-cos transform has a first derivative only: it cannot be differentiated twice (gradient penalties, "
            "Hessians). Write it with plain torch operations for that."
        )


def _is_differentiated(grad: Tensor) -> bool:
    """Whether the backward pass of a held function is itself differentiated (`create_graph=True`): it is linear in the
    gradient, and nothing else of it counts, so plain operations on constants are right."""
    return torch.is_grad_enabled() and not torch.compiler.is_compiling() and grad.requires_grad


def _as_autocast(x: Tensor, weight: Tensor, w_norm: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """The operands in the dtype of autocast, if it is on. The norms of rows that it has rounded are not known."""
    if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:  # which autocast leaves alone
        dtype = torch.get_autocast_dtype(x.device.type)
        return x.to(dtype), weight.to(dtype), None
    return x, weight, w_norm


def _refuse_foreign(weight: Tensor) -> None:
    """An error for weights of a class that has its own arithmetic, such as those that torchao has quantised."""
    kind = type(weight)
    if kind is Tensor or kind is torch.nn.Parameter or torch.compiler.is_compiling():
        return
    if kind.__torch_dispatch__ is not Tensor.__torch_dispatch__ and not kind.__module__.startswith("torch."):
        raise TypeError(
            f"weight is a {kind.__module__}.{kind.__name__}, from which the norms of its rows cannot be taken. "
            "Convert the model in float; for fewer bits load it quantised by bitsandbytes, then convert it."
        )


def _state_of(weight: Tensor) -> tuple:
    """What tells a weight from another, and from itself before a change in place (one through `.data` goes unseen)."""
    version = -1 if weight.is_inference() else weight._version
    return id(weight), weight.data_ptr(), weight.device, weight.dtype, version


def _count_writes(y: Tensor) -> tuple[Tensor, int] | None:
    """How often an output has been written into, now and, by what shares its count but not its memory, later on."""
    if torch.compiler.is_compiling():  # which lets no write reach what is saved
        return None
    counter = y.detach()
    counter.data = y.new_empty(0)
    return counter, counter._version


def _is_written(writes: tuple[Tensor, int] | None) -> bool:
    return writes is not None and writes[0]._version != writes[1]


def _unwritten(writes: tuple[Tensor, int] | None) -> None:
    """An error where an output has been written into, and cannot be computed again."""
    if _is_written(writes):
        raise RuntimeError(
            "The output of a B-cos layer was changed in place (as by `y += ...` or `relu_`), and this backward pass "
            "needs it as it was. Write `y = y + ...`, or set `copied = True` on that layer, which then gives a copy."
        )


def _is_batched(grad: Tensor) -> bool:
    """Whether this is many gradients at once, under `torch.vmap`, which has no room for buffers written in place."""
    return not torch.compiler.is_compiling() and torch._C._functorch.is_batchedtensor(grad)


def _is_traced() -> bool:
    """Whether something follows operations one by one, into no `autograd.Function` and no look at values:
    `torch.export`, `torch.jit.trace`, the transforms of `torch.func`, forward-mode derivatives. (`torch.compile` can.)
    """
    if torch.compiler.is_compiling():
        return not torch.compiler.is_dynamo_compiling() or _is_exporting()
    return torch.jit.is_tracing() or torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def _wants_gradient(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def _row_norms(x: Tensor) -> Tensor:
    """Norms over the last dimension, ``(...)``, accumulated in float32 at least and right for huge and tiny values."""
    if x.dtype == torch.float64:
        return torch.linalg.vector_norm(x, dim=-1)
    if _eager_on_cpu(x) and x.numel():
        norms = torch.linalg.vector_norm(x, dim=-1, dtype=torch.float32)
        if _are_safe(norms):
            return norms
    # Elsewhere a look at the values would wait for the device or break the graph; a wide sum costs next to nothing.
    return torch.linalg.vector_norm(x, dim=-1, dtype=widest(x)).to(torch.float32)


def _are_safe(norms: Tensor) -> bool:
    smallest, largest = _SAFE_NORMS
    if norms.numel() <= 16:  # one call instead of three, where a call takes longer than the work
        return all(smallest <= norm <= largest for norm in norms.flatten().tolist())
    low, high = norms.aminmax()
    return low.item() >= smallest and high.item() <= largest


def widest(x: Tensor) -> torch.dtype:
    """The widest floating type of a tensor's device: Apple's GPUs have no float64."""
    return torch.float32 if x.device.type == "mps" else torch.float64


def _eager_on_cpu(x: Tensor) -> bool:
    """Whether values can be looked at for nothing, and buffers written in place."""
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    return not torch.jit.is_tracing() and not torch._C._functorch.is_functorch_wrapped_tensor(x)


def _pieces(*tensors: Tensor) -> Iterable[tuple[Tensor, ...]]:
    """The rows of some matrices, in pieces that stay in each thread's cache while several passes go over them."""
    if not _eager_on_cpu(tensors[0]):
        return [tensors]
    rows = max(1, _CACHED * torch.get_num_threads() // max(1, tensors[0].shape[1]))
    if len(tensors[0]) <= rows:
        return [tensors]
    return zip(*(tensor.split(rows) for tensor in tensors), strict=True)


def _scales(x_norm: Tensor, w_norm: Tensor, b: float, unit_rows: bool) -> tuple[Tensor, Tensor]:
    """`‖x‖^((1-b)/b)` for every token, as a column, and `‖w‖^((1-b)/b)` (unit rows: `1/‖w‖`) for every row."""
    sx = x_norm.clamp_min(torch.finfo(x_norm.dtype).tiny).pow((1 - b) / b).unsqueeze(-1)
    if torch.compiler.is_compiling():
        return sx, _scale_of_rows(w_norm, b, unit_rows)
    kept = w_norm.__dict__.get("_bcos_kept")
    if kept is None:
        return sx, _scale_of_rows(w_norm, b, unit_rows)
    if (b, unit_rows) not in kept:
        kept.clear()
        with torch.inference_mode(False), torch.no_grad():
            kept[b, unit_rows] = _scale_of_rows(w_norm, b, unit_rows)
    return sx, kept[b, unit_rows]


def _scale_of_rows(w_norm: Tensor, b: float, unit_rows: bool) -> Tensor:
    sw = w_norm.clamp_min(torch.finfo(w_norm.dtype).tiny).pow(-1.0 if unit_rows else (1 - b) / b)
    # A zero row has no direction; 1/tiny times a gradient would overflow.
    return sw.masked_fill(w_norm == 0, 0) if unit_rows else sw


def _keep_scales(w_norm: Tensor) -> Tensor:
    """The same norms, which will not change: the powers that are taken of them stay with them."""
    w_norm._bcos_kept = {}
    return w_norm


def _take_part_along_(t: Tensor, vectors: Tensor, norms: Tensor, share: float) -> None:
    """``t − share·(v·t)·v/‖v‖²``, row by row, in place."""
    inverse = norms.clamp_min(torch.finfo(norms.dtype).tiny).reciprocal().unsqueeze(-1)
    for rows, vector, scale in _pieces(t, vectors, inverse):
        unit = vector * scale
        part = (unit * rows).sum(-1, keepdim=True)
        rows.sub_(unit.mul_(part), alpha=share)


def _power_(t: Tensor, exponent: float) -> Tensor:
    """``t ** exponent`` for ``t >= 0``, in place; on a CPU most powers have forms that take half the time or less."""
    if exponent == 0:
        return t.fill_(1.0)
    if exponent == 1:
        return t
    if exponent == 0.5:
        return t.pow_(-0.5).reciprocal_()  # one instruction each, where sqrt goes through a library
    if exponent == 0.25:
        return t.pow_(-0.5).pow_(-0.5)
    if _eager_on_cpu(t):
        return t.log2_().mul_(exponent).exp2_()
    return t.pow_(exponent)


def _matrix(t: Tensor) -> Tensor:
    """All leading dimensions as one: the rows of a matrix."""
    return t.flatten(0, -2) if t.dim() > 1 else torch.atleast_2d(t)
