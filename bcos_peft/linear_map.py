"""Where the input of the linear map enters a model: the graph is cut there, and gradient × input is read off."""

from __future__ import annotations

import inspect
from contextlib import ExitStack, contextmanager
from functools import lru_cache

import torch
from torch import Tensor, nn

from bcos_peft.numerics import widest


__all__ = [
    "contributions",
    "cut_head",
    "cut_inputs",
    "forward_parameters",
    "frozen",
    "keeps_logits",
    "named_outputs",
]


@contextmanager
def frozen(model: nn.Module):
    """No gradient for any parameter; gradients can be taken inside, whatever the caller's context."""
    # By their places: where weights are offloaded, each forward puts new objects there, with the flag of the old.
    trainable = [
        (module._parameters, name)
        for module in model.modules()
        for name, parameter in module._parameters.items()
        if parameter is not None and parameter.requires_grad
    ]
    with torch.inference_mode(False), torch.enable_grad():
        try:
            for parameters, name in trainable:
                parameters[name].requires_grad_(False)
            yield
        finally:
            for parameters, name in trainable:
                parameters[name].requires_grad_(True)


@contextmanager
def named_outputs(config):
    """Outputs by name, also from a model whose config asks for tuples."""
    before = config.return_dict
    config.return_dict = True
    try:
        yield
    finally:
        config.return_dict = before


@contextmanager
def cut_inputs(model, split: bool, batch: int, leaves: dict[str, Tensor]):
    """Cut the graph where the input enters, and collect the tensors there."""
    family, base = model.bcos_family, model.base_model
    present = dict(base.named_modules())
    paths = {name: path for name, path in family.parts.items() if path in present}
    if family.embeddings is not None and not split:
        paths = {"": family.embeddings}

    def cut(name: str):
        def hook(module, args, output):
            # Position embeddings come once for the whole batch; each row needs its own gradient.
            leaf = output.detach().expand(batch, *output.shape[1:]).requires_grad_()
            leaves[name] = leaf
            return leaf

        return hook

    with ExitStack() as stack:
        for name, path in paths.items():
            stack.callback(present[path].register_forward_hook(cut(name)).remove)
        yield


@contextmanager
def cut_head(model, found: dict[str, Tensor]):
    """Cut the graph at the language-modelling head: `found` gets what enters it, `above` and `below` the cut."""

    def hook(module, args):
        found["below"] = args[0]
        found["above"] = args[0].detach().requires_grad_()
        return (found["above"], *args[1:])

    handle = model.get_output_embeddings().register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def keeps_logits(model) -> bool:
    """Whether a causal language model can be asked for the logits of some tokens only."""
    if not model.bcos_family.causal or model.get_output_embeddings() is None:
        return False
    return "logits_to_keep" in forward_parameters(type(model))


@lru_cache(maxsize=256)  # reading signatures takes as long as a layer of a small model
def forward_parameters(model_class: type) -> frozenset[str]:
    """The names that the forward of a class takes, and those of its base classes: it may just pass everything on."""
    forwards = (vars(cls)["forward"] for cls in model_class.__mro__ if "forward" in vars(cls))
    return frozenset(name for forward in forwards for name in inspect.signature(forward).parameters)


def contributions(gradient: Tensor, leaf: Tensor) -> Tensor:
    """Gradient × input, summed over the embedding dimensions: `(..., sequence)`, in float32 at least."""
    wide = widest(leaf)
    scores = (gradient.to(wide) * leaf.detach().to(wide)).sum(-1)
    return scores.to(torch.promote_types(leaf.dtype, torch.float32))
