"""Taking gradients of a model: what is called, contexts, the cut at the head, what a forward takes."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from functools import lru_cache, wraps
from threading import get_ident

import torch
from torch import Tensor, nn

from bcos_peft._utils.sentence_models import is_sentence_model
from bcos_peft.models import family_of, find_model
from bcos_peft.nn import widest


def called_part(model: nn.Module) -> nn.Module:
    """What to call in the place of `model`, with the inputs of a transformers model, while it is explained.

    Args:
        model (`torch.nn.Module`): a converted model, or a wrapper around one.

    Returns:
        `torch.nn.Module`: `model`, or what is inside: of data parallelism, of a `CrossEncoder`.

    Raises:
        ValueError: `model` takes other inputs, and computes more than the converted model in it.

    Example:
        >>> from torch import nn
        >>> from bcos_peft.attribution import called_part
        >>> layer = nn.Linear(2, 2)
        >>> called_part(layer) is layer
        True
    """
    if isinstance(model, nn.DataParallel):  # it would scatter the batch over copies, out of reach of hooks
        return called_part(model.module)
    if not is_sentence_model(model):
        return model
    inner = find_model(model)
    # A cross-encoder of one part gives that part's logits, through an activation that no logit needs.
    if len(model) == 1 and type(inner).__name__.endswith("ForSequenceClassification"):
        return inner
    parts = " and ".join(type(part).__name__ for part in model)
    raise ValueError(
        f"A {type(model).__name__} of {parts} around a {type(inner).__name__} gives other outputs than the logits of "
        "the converted model in it. Convert and explain the transformers model itself, such as "
        "CrossEncoder(...).model."
    )


@contextmanager
def _constant_parameters(model: nn.Module):
    """No parameter needs a gradient: what needs one depends on the input."""
    # By their places: where weights are offloaded, each forward puts new objects there, with the flag of the old.
    trainable = [
        (module._parameters, name)
        for module in model.modules()
        for name, parameter in module._parameters.items()
        if parameter is not None and parameter.requires_grad
    ]
    try:
        for parameters, name in trainable:
            parameters[name].requires_grad_(False)
        yield
    finally:
        for parameters, name in trainable:
            parameters[name].requires_grad_(True)


@contextmanager
def frozen(model: nn.Module):
    """No gradient for any parameter; gradients can be taken inside, whatever the caller's context."""
    with torch.inference_mode(False), torch.enable_grad(), _constant_parameters(model):
        yield


def _outside_inference_mode(function: Callable) -> Callable:
    """A function that takes gradients, whatever its caller's context: tensors that were made in inference mode cannot
    be kept for a backward pass, but their copies can."""

    def usable(value):
        return value.clone() if isinstance(value, Tensor) and value.is_inference() else value

    @wraps(function)
    def call(*args, **kwargs):
        with torch.inference_mode(False):
            return function(*map(usable, args), **{name: usable(value) for name, value in kwargs.items()})

    return call


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
def _cut_head(model, found: dict[str, Tensor]):
    """Cut the graph at the language-modelling head: `found` gets what enters it, `above` and `below` the cut."""
    thread = get_ident()

    def hook(module, args):
        if get_ident() != thread:
            return None
        found["below"] = args[0]
        found["above"] = args[0].detach().requires_grad_()
        return (found["above"], *args[1:])

    handle = model.get_output_embeddings().register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _keeps_logits(model) -> bool:
    """Whether a causal language model can be asked for the logits of some tokens only."""
    if not family_of(model).causal or model.get_output_embeddings() is None:
        return False
    return "logits_to_keep" in forward_parameters(type(model))


@lru_cache(maxsize=256)  # reading signatures takes as long as a layer of a small model
def forward_parameters(model_class: type) -> frozenset[str]:
    """The names that the forward of a class takes, and those of its base classes: it may just pass everything on."""
    forwards = (vars(cls)["forward"] for cls in model_class.__mro__ if "forward" in vars(cls))
    return frozenset(name for forward in forwards for name in inspect.signature(forward).parameters)


def _rest_of(logit: Tensor, scores: Tensor, *others: Tensor | None) -> Tensor:
    """The residual, `logit − Σ scores − baseline − constants`, in the type of the scores."""
    wide = widest(scores)
    rest = logit.to(wide) - scores.to(wide).sum(-1)
    for other in others:
        rest = rest if other is None else rest - other.to(wide)
    return rest.to(scores.dtype)


def _backward(output: Tensor, leaves: list[Tensor], gradients: Tensor, retain_graph: bool) -> list[Tensor]:
    """Gradients of the leaves for each of `gradients`, all in one pass where every layer can."""
    if len(gradients) > 1:
        try:
            with warnings.catch_warnings():
                # The attention of some devices goes through its batch one by one: slower, and just as right.
                warnings.filterwarnings("ignore", message="There is a performance drop")
                return list(
                    torch.vmap(
                        lambda one: torch.autograd.grad(
                            output, leaves, one, retain_graph=True, allow_unused=True, materialize_grads=True
                        )
                    )(gradients)
                )
        except RuntimeError as error:
            # A layer whose backward pass is closed to torch.vmap (some kernels of other packages).
            if "vmap" not in str(error) and "atching rule" not in str(error):
                raise
    last = len(gradients) - 1
    maps = [
        torch.autograd.grad(
            output,
            leaves,
            one,
            retain_graph=retain_graph or index < last,
            allow_unused=True,
            materialize_grads=True,
        )
        for index, one in enumerate(gradients)
    ]
    return [torch.stack(of_leaf) for of_leaf in zip(*maps, strict=True)]
