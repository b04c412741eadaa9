"""Constants that are added to what depends on the input.

A constant that reaches a logit belongs to no token. It is given a leaf of its own where one asks for it, so that its
share is read off like a token's. A constant in a *factor*, `(u + c)·v`, is another matter: `c·v` is linear in `v`
alone, so it stays with the other factor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bcos_peft.operations.lines import _calling_line


class Constants:
    """The constants that a forward pass adds, each as a leaf whose gradient says what reached the output.

    Args:
        lengths (`frozenset[int]`): the lengths of the input: a constant whose last dimension but one has one of these
            is an input of its own for each token, as sinusoidal positions are, and is called `"position"`.
        parameters (`dict[str, torch.Tensor]`, *optional*): parameters by their names, which their leaves get.
        trace (`bool`, defaults to `False`): remember the lines of code that added them, in `lines`, by their `id`.

    Attributes:
        leaves (`list[tuple[str, torch.Tensor]]`): names and leaves, in the order of the pass.

    Example:
        >>> from bcos_peft.operations import Constants
        >>> Constants().leaves
        []
    """

    def __init__(
        self, lengths: frozenset[int] = frozenset(), parameters: dict[str, Tensor] | None = None, trace: bool = False
    ):
        self.lengths = lengths
        self.leaves: list[tuple[str, Tensor]] = []
        parameters = parameters or {}
        self._names = {id(parameter): name for name, parameter in parameters.items()}
        # Of some, such as the biases of experts, only a part is added.
        ordinary = {n: p for n, p in parameters.items() if not p.is_meta and type(p) is torch.nn.Parameter}
        self._storages = {p.untyped_storage().data_ptr(): name for name, p in ordinary.items()}
        self.lines: dict[int, str] | None = {} if trace else None

    def leaf(self, constant: Any, like: Tensor) -> Tensor:
        """A leaf with the values of a constant that is added to `like`."""
        name = self._name_of(constant)
        if not isinstance(constant, Tensor):
            constant = torch.as_tensor(constant, dtype=like.dtype, device=like.device)
        if not (constant.is_floating_point() or constant.is_complex()):
            constant = constant.to(like.dtype)
        if self._is_of_tokens(constant, like):
            name, constant = "position", constant.expand(like.shape)
        self.last = constant.detach().clone().requires_grad_(), name
        self.keep(name, self.last[0])
        return self.last[0]

    def _name_of(self, constant: Any) -> str:
        if id(constant) in self._names:
            return self._names[id(constant)]
        known = (
            isinstance(constant, Tensor) and not constant.is_meta and type(constant) in (Tensor, torch.nn.Parameter)
        )
        return self._storages.get(constant.untyped_storage().data_ptr(), "") if known else ""

    def keep(self, name: str, leaf: Tensor) -> None:
        """Remember a leaf."""
        self.leaves.append((name, leaf))
        if self.lines is not None:
            self.lines[id(leaf)] = _calling_line()

    def _is_of_tokens(self, constant: Tensor, like: Tensor) -> bool:
        same = constant.dim() > 1 and like.dim() > 1 and constant.shape[-2:] == like.shape[-2:]
        return same and constant.shape[-2] in self.lengths and constant.shape[-2] != constant.shape[-1]


def _mark(y: Tensor, live: Tensor, constant: Any) -> None:
    """Remember that `y = live + constant`."""
    y._bcos_affine = live, constant


def _marked(value: Any) -> tuple[Tensor, Any] | None:
    """The live part and the constant of a sum, if that is what a tensor is."""
    return getattr(value, "_bcos_affine", None)


def _reshaped(func: Callable, y: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Pass the mark of `args[0]` on to what a change of shape made of it."""
    mark = getattr(args[0], "_bcos_affine", None) if args else None
    if mark is not None and isinstance(y, Tensor) and y.requires_grad:
        live, constant = mark
        if isinstance(constant, Tensor):
            constant = constant.detach().expand(live.shape)
            constant = constant.contiguous() if func.__name__ == "view" else constant
            constant = func(constant, *args[1:], **kwargs)
        y._bcos_affine = func(live, *args[1:], **kwargs), constant
    if args and getattr(args[0], "_bcos_gate", False) and isinstance(y, Tensor):
        y._bcos_gate = True
    return y


def _product_with_constant(live: Tensor, constant: Any, other: Tensor) -> Tensor:
    """`(u + c)·v`: the product `u·v` is shared, `c·v` is the other factor's."""
    if not isinstance(constant, Tensor):
        constant = torch.as_tensor(constant, dtype=live.dtype, device=live.device)
    return _SharedProduct.apply(live, constant.detach(), other)


class _SharedProduct(torch.autograd.Function):
    # One pass less over a wide product, each way, than a product of which half the gradient is passed on.

    @staticmethod
    def forward(ctx, live, constant, other):
        ctx.save_for_backward(live, constant, other)
        return (live if constant is None else live + constant) * other

    @staticmethod
    def backward(ctx, grad):
        live, constant, other = ctx.saved_tensors
        half = 0.5 * grad
        to_live, to_other = half * other.detach().conj(), half * live.detach().conj()
        if constant is not None:
            to_other = to_other + grad * constant.conj()
        return to_live.sum_to_size(live.shape), None, to_other.sum_to_size(other.shape)
