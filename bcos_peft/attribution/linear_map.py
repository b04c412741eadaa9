"""Where the input of the linear map enters a model: the graph is cut there, and gradient × input is read off."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache, wraps
from threading import get_ident

import torch
from torch import Tensor, nn

from bcos_peft.nn import widest


_TOKENS_AT_ONCE = 512  # of the vocabulary: a cache holds their embeddings, which are summed in float32


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
def _cut_inputs(
    model, split: bool, batch: int, leaves: dict[str, Tensor], references: dict[str, Tensor] | None = None
):
    """Cut the graph where the input enters, and collect the tensors there (in `references` the average word's)."""
    family, base = model.bcos_family, model.base_model
    vocabulary = model.get_input_embeddings().weight.shape[0]
    present = dict(base.named_modules())
    paths = {name: path for name, path in family.parts.items() if path in present}
    if references is not None and "word" not in paths:
        raise ValueError(
            f"baseline='average' needs the word embedding, and the table of {family.model_type!r} names none: its "
            "parts lack the entry 'word'."
        )
    if family.embeddings is not None and not split and references is None:
        paths = {"": family.embeddings}

    thread = get_ident()

    def cut(name: str):
        def hook(module, args, output):
            if get_ident() != thread:  # that of another, which only predicts
                return output
            # GPT-2 looks token types up among the words, after these.
            first = name not in leaves
            # Position embeddings come once for the whole batch; each row needs its own gradient.
            leaf = output.detach().expand(batch, *output.shape[1:]).requires_grad_()
            leaves[name if first else "token_type"] = leaf
            if references is not None and name == "word" and first:
                # Here, where sharded weights are whole and offloaded ones can be called for.
                references[name] = average_embedding(module, vocabulary, output.device)
            return leaf

        return hook

    with ExitStack() as stack:
        for name, path in paths.items():
            stack.callback(present[path].register_forward_hook(cut(name)).remove)
        yield


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
    if not model.bcos_family.causal or model.get_output_embeddings() is None:
        return False
    return "logits_to_keep" in forward_parameters(type(model))


@lru_cache(maxsize=256)  # reading signatures takes as long as a layer of a small model
def forward_parameters(model_class: type) -> frozenset[str]:
    """The names that the forward of a class takes, and those of its base classes: it may just pass everything on."""
    forwards = (vars(cls)["forward"] for cls in model_class.__mro__ if "forward" in vars(cls))
    return frozenset(name for forward in forwards for name in inspect.signature(forward).parameters)


@torch.no_grad()
def average_embedding(embedding: nn.Module, vocabulary: int, device: torch.device) -> Tensor:
    """The mean of what an embedding gives for the tokens of a vocabulary, `(features,)`, in the widest type."""
    total = 0
    for start in range(0, vocabulary, _TOKENS_AT_ONCE):
        tokens = torch.arange(start, min(start + _TOKENS_AT_ONCE, vocabulary), device=device)
        found = embedding.forward(tokens[None])[0]  # a call would run the hooks that ask for this
        part = found.sum(0, dtype=torch.promote_types(found.dtype, torch.float32))
        total = total + part.to(widest(found))
    return total / vocabulary


def _contributions_of(
    leaves: dict[str, Tensor], gradients: Sequence[Tensor], references: dict[str, Tensor]
) -> tuple[dict[str, Tensor], Tensor | None]:
    """Contributions of each leaf, `(..., sequence)`, and what its reference gives in all tokens' places, `(...)`."""
    parts, baseline = {}, None
    for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True):
        reference = references.get(name)
        parts[name] = _contributions(gradient, leaf, reference)
        if reference is not None:
            baseline = (gradient.to(reference) @ reference).sum(-1).to(parts[name].dtype)
    return parts, baseline


def _rest_of(logit: Tensor, scores: Tensor, baseline: Tensor | None) -> Tensor:
    """The residual, `logit − Σ scores − baseline`, in the type of the scores."""
    wide = widest(scores)
    rest = logit.to(wide) - scores.to(wide).sum(-1)
    return (rest if baseline is None else rest - baseline.to(wide)).to(scores.dtype)


def _contributions(gradient: Tensor, leaf: Tensor, reference: Tensor | None = None) -> Tensor:
    """Gradient × (input − reference), summed over the embedding dimensions: `(..., sequence)`, in float32 at least."""
    wide = widest(leaf)
    value = leaf.detach().to(wide)
    scores = (gradient.to(wide) * (value if reference is None else value - reference)).sum(-1)
    return scores.to(torch.promote_types(leaf.dtype, torch.float32))
