"""`attribute_sequence`: contributions to the logits of many places of one sequence, from one forward pass."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bcos_peft._utils.arguments import checked_arguments
from bcos_peft.attribution.checks import _check_adapters, _check_inputs, check_baseline
from bcos_peft.attribution.linear_map import (
    _contributions_of,
    _cut_head,
    _cut_inputs,
    _keeps_logits,
    _outside_inference_mode,
    _rest_of,
    frozen,
    named_outputs,
)
from bcos_peft.attribution.mode import explanation_mode
from bcos_peft.attribution.padding import _looks_ahead
from bcos_peft.models import find_bcos_model


# Tokens that go through one backward pass: more of them cost memory, and on a CPU no longer save time.
_TOKENS_AT_ONCE = {"cpu": 2048}
_TOKENS_AT_ONCE_ELSEWHERE = 16384


@dataclass(frozen=True)
class _SequenceAttribution:
    """What `attribute_sequence` returns, with one row for each explained place.

    Args:
        scores (`torch.Tensor`): `(places, sequence)`, in logit units; 0 for tokens after the place.
        logit (`torch.Tensor`): `(places,)`, the explained value.
        residual (`torch.Tensor`): `(places,)`, `logit − Σ scores − baseline`: zero to rounding.
        probability (`torch.Tensor`): `(places,)`, of the targets together, 0 to 1.
        predicted (`torch.Tensor`): `(places,)`, the token with the largest logit.
        targets (`list[list[int]]`): what was explained at each place.
        foils (`list[list[int]]`): what it was contrasted with; empty lists for no contrast.
        baseline (`torch.Tensor`, *optional*): `(places,)`, with `baseline="average"`: what average words would give.

    Example:
        >>> import torch
        >>> one = torch.ones(1)
        >>> _SequenceAttribution(torch.ones(1, 2), 2 * one, 0 * one, one, one.long(), [[3]], [[]]).scores.shape
        torch.Size([1, 2])
    """

    scores: Tensor
    logit: Tensor
    residual: Tensor
    probability: Tensor
    predicted: Tensor
    targets: list[list[int]]
    foils: list[list[int]]
    baseline: Tensor | None = None


@_outside_inference_mode
@checked_arguments
def attribute_sequence(
    model: nn.Module,
    input_ids: Tensor,
    positions: Sequence[int],
    targets: Sequence[Sequence[int] | None],
    foils: Sequence[Sequence[int]] | str | None = "runner_up",
    at_once: int = 16,
    baseline: str = "zero",
) -> _SequenceAttribution:
    r"""Contributions of every token to what a causal language model says after some of them.

    The explained value of a place is `Σ_t logit[t] − n·mean_f logit[f]` over its `n` targets and its foils: the
    contributions of several targets add, each compared with the mean of the foils.

    There is one forward pass. The head works on each token for itself, so a single backward pass through it gives
    the gradients of all explained values; they then go through the layers below in batches, which share what the
    forward pass kept. Memory is linear in the length of the sequence.

    Args:
        model (`torch.nn.Module`): a converted causal language model, or a wrapper around one.
        input_ids (`torch.Tensor`): `(sequence,)`, without padding.
        positions (`Sequence[int]`): places in `input_ids` whose *next* token is explained.
        targets (`Sequence[Sequence[int]]`): for each place one vocabulary id, or several; `None` for the largest
            logit.
        foils (`Sequence[Sequence[int]]` or `"runner_up"`, *optional*): for each place the ids to compare with; the
            largest logit that is no target; or `None` for no contrast.
        at_once (`int`, defaults to 16): at most how many places share a backward pass; fewer on long sequences.
        baseline (`"zero"` or `"average"`, defaults to `"zero"`): what words are compared with, as in `attribute`.

    Returns:
        [`_SequenceAttribution`]

    Raises:
        ValueError: the model is no converted causal language model, or an argument does not fit it.

    Example:
        >>> import torch
        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> from bcos_peft import BcosConfig, get_bcos_model
        >>> from bcos_peft.attribution import attribute_sequence
        >>> config = GPT2Config(vocab_size=50, n_embd=8, n_layer=1, n_head=2)
        >>> model = get_bcos_model(GPT2LMHeadModel(config), BcosConfig())
        >>> ids = torch.tensor([5, 6, 7, 8])
        >>> result = attribute_sequence(model, ids, positions=[1, 2], targets=[[7], [8]])
        >>> result.scores.shape, bool((result.residual.abs() < 1e-5).all())
        (torch.Size([2, 4]), True)

    Source: B-cos LM (arXiv 2502.12992), section 3; contrastive form: Yin & Neubig (arXiv 2202.10419).
    """
    bcos_model = find_bcos_model(model)
    _check_adapters(model)
    if not is_causal_lm(bcos_model):
        raise ValueError(f"{type(bcos_model).__name__} is no causal language model: it generates no text.")
    _check_inputs(bcos_model, input_ids[None], None)
    check_baseline(baseline)
    places = torch.tensor(list(positions))
    # A mask, or transformers takes some tokens for forgotten padding.
    inputs = {"input_ids": input_ids[None], "attention_mask": torch.ones_like(input_ids[None]), "use_cache": False}
    keeps = _keeps_logits(bcos_model)
    if keeps:
        inputs["logits_to_keep"] = places
    leaves: dict[str, Tensor] = {}
    references: dict[str, Tensor] | None = {} if baseline == "average" else None
    head: dict[str, Tensor] = {}
    with explanation_mode(model), frozen(model), named_outputs(bcos_model.config):
        with _cut_inputs(bcos_model, False, 1, leaves, references), _cut_head(bcos_model, head):
            logits = (model.module if isinstance(model, nn.DataParallel) else model)(**inputs).logits[0]
        logits = logits if keeps else logits[places]
        chosen = _Chosen(logits, targets, foils)
        (gradient,) = torch.autograd.grad(chosen.values.sum(), head["above"])
        # Which row of what enters the head belongs to which place.
        rows = torch.arange(len(places)) if keeps else places
        chunk = max(1, min(at_once, _tokens_at_once(gradient.device) // len(input_ids)))
        scores, average = _in_batches(head["below"], leaves, references or {}, gradient, rows, chunk)
    logit = chosen.values.detach().to(scores.dtype)
    return _SequenceAttribution(
        scores=scores,
        logit=logit,
        residual=_rest_of(logit, scores, average),
        probability=chosen.probability,
        predicted=chosen.predicted,
        targets=chosen.targets,
        foils=chosen.foils,
        baseline=average,
    )


def is_causal_lm(model) -> bool:
    """Whether a converted model predicts the next token of its vocabulary from those before it."""
    one_way = model.bcos_family.causal and not _looks_ahead(model.config)
    return one_way and model.get_output_embeddings() is not None


class _Chosen:
    """The explained values, `(places,)`, and what goes with them."""

    def __init__(self, logits: Tensor, targets, foils):
        known = logits.detach()
        size = logits.shape[-1]
        self.predicted = known.argmax(-1)
        best = self.predicted.tolist()
        targets = [[best[i]] if row is None else list(row) for i, row in enumerate(targets)]
        if foils is None:
            foils = [[] for _ in targets]
        elif isinstance(foils, str):
            # One of so many has to be something else than the targets.
            most = min(size, 1 + max(map(len, targets)))
            ranked = known.topk(most, dim=-1).indices.tolist()
            foils = [[next(i for i in row if i not in set(t))] for row, t in zip(ranked, targets, strict=True)]
        self.targets, self.foils = targets, [list(row) for row in foils]
        for wanted, others in zip(self.targets, self.foils, strict=True):
            if both := sorted({*wanted} & {*others}):
                raise ValueError(
                    f"foil equals target (both have token {both[0]}): their difference is zero and has nothing to "
                    "explain. Without target=..., the target is what the model predicts."
                )
        entries = []
        for place, (wanted, others) in enumerate(zip(self.targets, self.foils, strict=True)):
            entries += [(place, token, 1.0) for token in wanted]
            entries += [(place, token, -len(wanted) / len(others)) for token in others]
        rows, tokens, weights = (torch.tensor(column, device=logits.device) for column in zip(*entries, strict=True))
        dtype = torch.promote_types(logits.dtype, torch.float32)
        parts = logits[rows, tokens].to(dtype) * weights.to(dtype)
        self.values = torch.zeros(len(logits), dtype=dtype, device=logits.device).index_add(0, rows, parts)
        total = torch.logsumexp(known.to(dtype), -1)
        wanted = weights > 0
        shares = (known[rows, tokens].to(dtype) - total[rows]).exp() * wanted
        self.probability = torch.zeros_like(total).index_add(0, rows, shares).clamp(max=1.0)


def _tokens_at_once(device: torch.device) -> int:
    return _TOKENS_AT_ONCE.get(device.type, _TOKENS_AT_ONCE_ELSEWHERE)


def _in_batches(
    output: Tensor,
    leaves: dict[str, Tensor],
    references: dict[str, Tensor],
    gradient: Tensor,
    rows: Tensor,
    chunk: int,
) -> tuple[Tensor, Tensor | None]:
    """Contributions of the leaves, `(places, sequence)`, and what the references give, `(places,)`.

    `gradient` holds each place's own in its row.
    """
    found, averages = [], []
    for start in range(0, len(rows), chunk):
        some = rows[start : start + chunk]
        each = gradient.new_zeros(len(some), *gradient.shape)
        each[torch.arange(len(some)), 0, some] = gradient[0, some]
        # The last backward pass frees the graph as it goes.
        maps = _backward(output, list(leaves.values()), each, retain_graph=start + chunk < len(rows))
        parts, average = _contributions_of(leaves, maps, references)
        found.append(sum(parts.values())[:, 0])
        averages.append(average)
    return torch.cat(found), torch.cat(averages)[:, 0] if references else None


def _backward(output: Tensor, leaves: list[Tensor], gradients: Tensor, retain_graph: bool) -> list[Tensor]:
    """Gradients of the leaves for each of `gradients`, all in one pass where every layer can."""
    if len(gradients) > 1:
        try:
            with warnings.catch_warnings():
                # The attention of some devices goes through its batch one by one: slower, and just as right.
                warnings.filterwarnings("ignore", message="There is a performance drop")
                return list(
                    torch.vmap(lambda one: torch.autograd.grad(output, leaves, one, retain_graph=True))(gradients)
                )
        except RuntimeError as error:
            # A layer whose backward pass is closed to torch.vmap (some kernels of other packages).
            if "vmap" not in str(error) and "atching rule" not in str(error):
                raise
    last = len(gradients) - 1
    maps = [
        torch.autograd.grad(output, leaves, one, retain_graph=retain_graph or index < last)
        for index, one in enumerate(gradients)
    ]
    return [torch.stack(of_leaf) for of_leaf in zip(*maps, strict=True)]
