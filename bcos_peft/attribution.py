"""`attribute`: token contributions as tensors, from one forward and one backward pass."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bcos_peft.alignment import left_padding, roll
from bcos_peft.mode import explanation_mode
from bcos_peft.models import find_bcos_model

__all__ = ["Attribution", "attribute"]


@dataclass(frozen=True)
class Attribution:
    """What `attribute` returns. With `target="all"`, `scores`, `logit`, `residual` and `parts` have a dimension for the targets after the batch.

    Args:
        scores (`torch.Tensor`): `(batch, sequence)`, each token's contribution to the logit, in logit units; 0 for padding.
        logit (`torch.Tensor`): `(batch,)`, the target's logit, or target minus foil.
        residual (`torch.Tensor`): `(batch,)`, `logit − Σ scores`: zero to rounding.
        target (`torch.Tensor`): `(batch,)`, the output that was explained.
        foil (`torch.Tensor`, *optional*): `(batch,)`, the output it was contrasted with.
        position (`torch.Tensor`, *optional*): `(batch,)`, the token whose output was explained, for token-level tasks.
        logits (`torch.Tensor`): `(batch, classes)`, all logits (at `position`).
        parts (`dict[str, torch.Tensor]`, *optional*): with `split=True`, the scores of word, position and token-type embeddings; they sum to `scores`.

    Example:
        >>> import torch
        >>> from bcos_peft.attribution import Attribution
        >>> zeros = torch.zeros(1)
        >>> Attribution(scores=torch.zeros(1, 3), logit=zeros, residual=zeros, target=zeros, logits=torch.zeros(1, 2)).foil is None
        True
    """

    scores: Tensor
    logit: Tensor
    residual: Tensor
    target: Tensor
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

    In explanation mode `logits(x) = W(x)·x`, so gradient × input, summed over the embedding dimensions, is exact: the scores
    sum to the logit. One forward and one backward pass; parameters are frozen meanwhile and get no gradient. The model
    may be in training mode and comes back as it was.

    Encoders are read from their first token on, so left padding is moved to the right before the model sees it, and the scores are moved
    back: a text has the same scores alone and in a batch, padded on either side. (The stock model would take the padding for the
    first token.)

    Args:
        model (`torch.nn.Module`): a converted model, or a wrapper around one.
        input_ids (`torch.Tensor`): `(batch, sequence)`, token ids.
        attention_mask (`torch.Tensor`, *optional*): `(batch, sequence)`, 1 for tokens, 0 for padding.
        target (`int`, `torch.Tensor` or `"all"`, *optional*):
            The output to explain: an int for every row, a tensor `(batch,)`, or `"all"` for each output in turn. Default: the largest logit.
            For question answering 0 is the start and 1 the end of the answer; for language models it is a token id.
        foil (`int` or `torch.Tensor`, *optional*): explain `logit[target] − logit[foil]` instead.
        position (`int` or `torch.Tensor`, *optional*):
            For outputs per token, the token whose output is explained, counted in `input_ids`. Default: where the target's
            logit (or, without a target, any logit) is largest among the tokens; for causal language models the last token.
        split (`bool`, defaults to `False`): also give the contributions of word, position and token-type embeddings apart.
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
    _check_inputs(bcos_model, input_ids, attention_mask)
    causal = bcos_model.bcos_family.causal
    shift = None if causal else left_padding(attention_mask)
    per_token = {"input_ids": input_ids, "attention_mask": attention_mask, **inputs}
    if shift is not None:
        shape = input_ids.shape
        per_token = {k: roll(v, -shift) if isinstance(v, Tensor) and v.shape == shape else v for k, v in per_token.items()}
    with _frozen(model), explanation_mode(model):
        leaves: dict[str, Tensor] = {}
        with _leaves(bcos_model, split, len(input_ids), leaves):
            output = model(**{key: value for key, value in per_token.items() if value is not None})
        logits = _logits(output)
        if shift is not None and logits.dim() == 3:
            logits = roll(logits, shift)
        chosen = _Choice(logits, attention_mask, causal, target, foil, position)
        maps = [torch.autograd.grad(value.sum(), list(leaves.values()), retain_graph=True) for value in chosen.values()]
    parts = {}
    for index, (name, leaf) in enumerate(leaves.items()):
        scores = torch.stack([_contributions(gradients[index], leaf) for gradients in maps], dim=1)
        parts[name] = scores if shift is None else roll(scores, shift[:, None])
    return chosen.result(parts if split else None, sum(parts.values()))


def _check_inputs(model, input_ids: Tensor, attention_mask: Tensor | None) -> None:
    if not isinstance(input_ids, Tensor) or input_ids.is_floating_point() or input_ids.dtype == torch.bool:
        raise TypeError(f"input_ids must be a tensor of integers, (batch, sequence), got {_describe(input_ids)}.")
    if input_ids.dim() != 2 or 0 in input_ids.shape:
        raise ValueError(
            f"input_ids must have shape (batch, sequence) with at least one row and one token, got {tuple(input_ids.shape)}."
        )
    if attention_mask is not None:
        if attention_mask.shape != input_ids.shape:
            raise ValueError(
                f"attention_mask must have the shape of input_ids, {tuple(input_ids.shape)}, got {tuple(attention_mask.shape)}."
            )
        empty = (attention_mask.sum(-1) == 0).nonzero().flatten().tolist()
        if empty:
            raise ValueError(f"attention_mask leaves no token in row {empty[0]}: there is nothing to explain.")
    vocabulary = model.get_input_embeddings().weight.shape[0]
    if input_ids.min() < 0 or input_ids.max() >= vocabulary:
        wrong = int(input_ids.min() if input_ids.min() < 0 else input_ids.max())
        raise ValueError(f"input_ids has the id {wrong}, outside the vocabulary of {vocabulary} tokens.")


def _describe(value) -> str:
    return f"a tensor of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__


@contextmanager
def _frozen(model: nn.Module):
    """No gradient for any parameter; gradients can be taken inside, whatever the caller's context."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with torch.inference_mode(False), torch.enable_grad():
        try:
            for parameter in trainable:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter in trainable:
                parameter.requires_grad_(True)


@contextmanager
def _leaves(model, split: bool, batch: int, leaves: dict[str, Tensor]):
    """Cut the graph where the input enters, and collect the tensors there."""
    family, base = model.bcos_family, model.base_model
    present = dict(base.named_modules())
    paths = {name: path for name, path in family.parts.items() if path in present} if split else {"": family.embeddings}

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
    scores = (gradient.double() * leaf.detach().double()).sum(-1)
    return scores.to(torch.promote_types(leaf.dtype, torch.float32))


def _logits(output) -> Tensor:
    if "start_logits" in output:
        return torch.stack([output.start_logits, output.end_logits], dim=-1)
    return output.logits


class _Choice:
    """Which numbers of the logits are explained."""

    def __init__(self, logits: Tensor, mask: Tensor | None, causal: bool, target, foil, position):
        if isinstance(target, str) and target != "all":
            raise ValueError(f"target must be an int, a tensor or 'all', got {target!r}.")
        self.all = isinstance(target, str)
        if self.all and foil is not None:
            raise ValueError("foil cannot go with target='all': contrast two targets at a time.")
        batch, classes = logits.shape[0], logits.shape[-1]
        device = logits.device
        target = None if self.all else _index("target", target, batch, classes, device)
        self.foil = _index("foil", foil, batch, classes, device)
        self.position = None
        if logits.dim() == 3:
            self.position = _position(logits, mask, causal, target, position)
            logits = logits[torch.arange(batch, device=device), self.position]
        elif position is not None:
            raise ValueError(f"position={position!r} given, but this model has one output for the whole text. Leave it out.")
        self.logits = logits
        if self.all:
            self.target = torch.arange(classes, device=device).expand(batch, classes)
        else:
            self.target = (logits.argmax(-1) if target is None else target).unsqueeze(1)
        if self.foil is not None and bool((self.foil == self.target[:, 0]).any()):
            raise ValueError("foil equals target: their difference is zero and has nothing to explain.")

    def values(self) -> list[Tensor]:
        """For each target, the explained numbers of the batch, `(batch,)`."""
        values = self.logits.gather(1, self.target)
        if self.foil is not None:
            values = values - self.logits.gather(1, self.foil.unsqueeze(1))
        return list(values.unbind(1))

    def result(self, parts: dict[str, Tensor] | None, scores: Tensor) -> Attribution:
        logit = torch.stack(self.values(), dim=1).detach().to(scores.dtype)
        residual = (logit.double() - scores.double().sum(-1)).to(scores.dtype)
        select = (lambda value: value) if self.all else (lambda value: value[:, 0])
        return Attribution(
            scores=select(scores),
            logit=select(logit),
            residual=select(residual),
            target=select(self.target),
            logits=self.logits.detach(),
            foil=self.foil,
            position=self.position,
            parts=None if parts is None else {name: select(value) for name, value in parts.items()},
        )


def _index(name: str, value, batch: int, size: int, device) -> Tensor | None:
    if value is None:
        return None
    index = torch.as_tensor(value, device=device)
    if index.is_floating_point() or index.dtype == torch.bool:
        raise ValueError(f"{name} must be an integer or a tensor of integers, got {value!r}.")
    if index.dim() > 1 or (index.dim() == 1 and len(index) != batch):
        raise ValueError(f"{name} must be one integer or one for each of the {batch} rows, got shape {tuple(index.shape)}.")
    if bool(((index < 0) | (index >= size)).any()):
        raise ValueError(f"{name} must be between 0 and {size - 1}, got {value!r}.")
    return index.long().expand(batch)


def _position(logits: Tensor, mask: Tensor | None, causal: bool, target: Tensor | None, position) -> Tensor:
    batch, length, _ = logits.shape
    mask = torch.ones(batch, length, device=logits.device) if mask is None else mask.to(logits.device)
    if position is not None:
        index = _index("position", position, batch, length, logits.device)
        if bool((mask.gather(1, index.unsqueeze(1)) == 0).any()):
            raise ValueError(f"position={position!r} is padding in at least one row.")
        return index
    if causal:
        return length - 1 - mask.flip(1).long().argmax(1)
    best = logits.amax(-1) if target is None else logits.gather(2, target[:, None, None].expand(-1, length, 1))[..., 0]
    return best.masked_fill(mask == 0, float("-inf")).argmax(1)
