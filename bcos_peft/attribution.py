"""`attribute`: token contributions as tensors, from one forward and one backward pass."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bcos_peft.alignment import arrange, roll
from bcos_peft.choice import Choice, read_logits
from bcos_peft.mode import explanation_mode
from bcos_peft.models import find_bcos_model
from bcos_peft.numerics import widest


__all__ = ["Attribution", "attribute"]


@dataclass(frozen=True)
class Attribution:
    """What `attribute` returns. With `target="all"`, `scores`, `logit`, `residual` and `parts` have a dimension
    for the targets after the batch.

    Args:
        scores (`torch.Tensor`): `(batch, sequence)`, each token's contribution to the logit, in logit units; 0 for
            padding.
        logit (`torch.Tensor`): `(batch,)`, the target's logit, or target minus foil.
        residual (`torch.Tensor`): `(batch,)`, `logit − Σ scores`: zero to rounding.
        target (`torch.Tensor`): `(batch,)`, the output that was explained.
        foil (`torch.Tensor`, *optional*): `(batch,)`, the output it was contrasted with.
        position (`torch.Tensor`, *optional*): `(batch,)`, the token whose output was explained, for token-level tasks.
        probability (`torch.Tensor`): `(batch,)`, the target's probability, 0 to 1: softmax over the classes, over
            the tokens for question answering, sigmoid for a single or for several independent labels.
        logits (`torch.Tensor`): `(batch, classes)`, all logits (at `position`).
        parts (`dict[str, torch.Tensor]`, *optional*): with `split=True`, the scores of word, position and
            token-type embeddings; they sum to `scores`.

    Example:
        >>> import torch
        >>> from bcos_peft.attribution import Attribution
        >>> zeros = torch.zeros(1)
        >>> Attribution(torch.zeros(1, 3), zeros, zeros, zeros, probability=zeros, logits=zeros).foil is None
        True
    """

    scores: Tensor
    logit: Tensor
    residual: Tensor
    target: Tensor
    probability: Tensor
    logits: Tensor
    foil: Tensor | None = None
    position: Tensor | None = None
    parts: dict[str, Tensor] | None = None


def attribute(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    target: int | Tensor | str | None = None,
    foil: int | Tensor | None = None,
    position: int | Tensor | None = None,
    split: bool = False,
    **inputs,
) -> Attribution:
    r"""Contribution of every input token to a logit of a B-cos model.

    In explanation mode `logits(x) = W(x)·x`, so gradient × input, summed over the embedding dimensions, is exact:
    the scores sum to the logit. One forward and one backward pass; parameters are frozen meanwhile and get no
    gradient. The model may be in training mode and comes back as it was.

    Left padding is moved to the right before the model sees it, and the scores are moved back: a text has the same
    scores alone and in a batch, padded on either side. (A stock encoder would take left padding for the first
    token.)

    Args:
        model (`torch.nn.Module`): a converted model, or a wrapper around one.
        input_ids (`torch.Tensor`): `(batch, sequence)`, token ids.
        attention_mask (`torch.Tensor`, *optional*): `(batch, sequence)`, 1 for tokens, 0 for padding.
        target (`int`, `torch.Tensor` or `"all"`, *optional*):
            The output to explain: an int for every row, a tensor `(batch,)`, or `"all"` for each output in turn.
                Default: the largest logit.
            For question answering 0 is the start and 1 the end of the answer; for language models it is a token id.
        foil (`int` or `torch.Tensor`, *optional*): explain `logit[target] − logit[foil]` instead.
        position (`int` or `torch.Tensor`, *optional*):
            For outputs per token, the token whose output is explained, counted in `input_ids`. Default: where the
            target's logit (or, without a target, any logit) is largest among the tokens; for causal language
            models the last token.
        split (`bool`, defaults to `False`): also give the contributions of word, position and token-type
            embeddings apart.
        **inputs: further inputs of the model, such as `token_type_ids`.

    Returns:
        [`Attribution`]

    Raises:
        TypeError: `input_ids` is not a tensor of integers.
        ValueError: the model is not converted, or an argument does not fit it; nothing was computed.

    Example:
        >>> import torch
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> from bcos_peft import BcosConfig, attribute, get_bcos_model
        >>> config = BertConfig(num_hidden_layers=1, hidden_size=16, num_attention_heads=2, intermediate_size=32)
        >>> model = get_bcos_model(BertForSequenceClassification(config), BcosConfig())
        >>> result = attribute(model, torch.tensor([[101, 7592, 2088, 102]]), target=1)
        >>> result.scores.shape, bool(torch.allclose(result.scores.sum(1), result.logit, atol=1e-6))
        (torch.Size([1, 4]), True)

    Source: B-cos LM (arXiv 2502.12992), section 3 (explanations); contrastive form: Yin & Neubig (arXiv 2202.10419).
    """
    bcos_model = find_bcos_model(model)
    _check_adapters(model)
    _check_inputs(bcos_model, input_ids, attention_mask)
    causal = bcos_model.bcos_family.causal
    if causal:
        inputs.setdefault("use_cache", False)
    per_token, shift = arrange({"input_ids": input_ids, "attention_mask": attention_mask, **inputs}, causal)
    with _frozen(model), explanation_mode(model), _named_outputs(bcos_model.config):
        leaves: dict[str, Tensor] = {}
        with _leaves(bcos_model, split, len(input_ids), leaves):
            # Data parallelism would scatter the batch over copies of the model, out of reach of the hooks.
            output = (model.module if isinstance(model, nn.DataParallel) else model)(**per_token)
        logits, probabilities = read_logits(output, per_token.get("attention_mask"))
        if shift is not None and logits.dim() == 3:
            logits = roll(logits, shift)
            probabilities = None if probabilities is None else roll(probabilities, shift)
        independent = bcos_model.config.problem_type == "multi_label_classification"
        chosen = Choice(logits, attention_mask, causal, target, foil, position, probabilities, independent)
        # The last backward pass frees the graph as it goes.
        values = chosen.values()
        last = len(values) - 1
        maps = [
            torch.autograd.grad(value.sum(), list(leaves.values()), retain_graph=index < last)
            for index, value in enumerate(values)
        ]
    parts = {}
    for index, (name, leaf) in enumerate(leaves.items()):
        scores = torch.stack([_contributions(gradients[index], leaf) for gradients in maps], dim=1)
        parts[name] = scores if shift is None else roll(scores, shift[:, None])
    return _result(chosen, sum(parts.values()), parts if split else None)


def _check_adapters(model: nn.Module) -> None:
    """peft's wrapper may put virtual tokens in front of the input."""
    configs = getattr(model, "peft_config", None)
    for config in configs.values() if isinstance(configs, dict) else ():
        if getattr(config, "is_prompt_learning", False):
            raise ValueError(
                f"{config.peft_type.value} puts virtual tokens in front of the input. They contribute to the logit "
                "and belong to no token, so contributions would not sum to it. Tune with peft.LoraConfig instead, or "
                "pass the model inside: attribute(model.get_base_model(), ...) explains it without its prompt."
            )


def _check_inputs(model, input_ids: Tensor, attention_mask: Tensor | None) -> None:
    if not isinstance(input_ids, Tensor) or input_ids.is_floating_point() or input_ids.dtype == torch.bool:
        raise TypeError(f"input_ids must be a tensor of integers, (batch, sequence), got {_describe(input_ids)}.")
    if input_ids.dim() != 2 or 0 in input_ids.shape:
        raise ValueError(
            "input_ids must have shape (batch, sequence) with at least one row and one token, got "
            f"{tuple(input_ids.shape)}."
        )
    if attention_mask is not None:
        if attention_mask.shape != input_ids.shape:
            raise ValueError(
                f"attention_mask must have the shape of input_ids, {tuple(input_ids.shape)}, got "
                f"{tuple(attention_mask.shape)}."
            )
        empty = (attention_mask.sum(-1) == 0).nonzero().flatten().tolist()
        if empty:
            raise ValueError(f"attention_mask leaves no token in row {empty[0]}: there is nothing to explain.")
    vocabulary = model.get_input_embeddings().weight.shape[0]
    if input_ids.min() < 0 or input_ids.max() >= vocabulary:
        wrong = int(input_ids.min() if input_ids.min() < 0 else input_ids.max())
        raise ValueError(f"input_ids has the id {wrong}, outside the vocabulary of {vocabulary} tokens.")
    limit = max_tokens(model)
    if limit is not None and input_ids.shape[1] > limit:
        raise ValueError(
            f"input_ids has {input_ids.shape[1]} tokens, but the model has position embeddings for {limit}. "
            "Truncate the text, or explain it in pieces."
        )


def max_tokens(model) -> int | None:
    """How many tokens a model has position embeddings for; None when its positions are relative."""
    path = model.bcos_family.parts.get("position")
    table = dict(model.base_model.named_modules()).get(path)
    if table is None:
        return None
    # RoBERTa counts positions from behind the padding index; OPT's table is two rows longer than its config says.
    rows = table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
    return min(rows, model.config.max_position_embeddings)


def _describe(value) -> str:
    return f"a tensor of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__


@contextmanager
def _frozen(model: nn.Module):
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
def _named_outputs(config):
    """Outputs by name, also from a model whose config asks for tuples."""
    before = config.return_dict
    config.return_dict = True
    try:
        yield
    finally:
        config.return_dict = before


@contextmanager
def _leaves(model, split: bool, batch: int, leaves: dict[str, Tensor]):
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


def _contributions(gradient: Tensor, leaf: Tensor) -> Tensor:
    wide = widest(leaf)
    scores = (gradient.to(wide) * leaf.detach().to(wide)).sum(-1)
    return scores.to(torch.promote_types(leaf.dtype, torch.float32))


def _result(chosen: Choice, scores: Tensor, parts: dict[str, Tensor] | None) -> Attribution:
    logit = torch.stack(chosen.values(), dim=1).detach().to(scores.dtype)
    wide = widest(scores)
    residual = (logit.to(wide) - scores.to(wide).sum(-1)).to(scores.dtype)

    def select(value: Tensor) -> Tensor:
        return value if chosen.all else value[:, 0]

    return Attribution(
        scores=select(scores),
        logit=select(logit),
        residual=select(residual),
        target=select(chosen.target),
        probability=select(chosen.probabilities.gather(1, chosen.target)),
        logits=chosen.logits.detach(),
        foil=chosen.foil,
        position=chosen.position,
        parts=None if parts is None else {name: select(value) for name, value in parts.items()},
    )
