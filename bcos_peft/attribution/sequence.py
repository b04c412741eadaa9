"""`attribute_sequence`: contributions to the logits of many places of one sequence, from one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from bcos_peft._utils.arguments import checked_arguments
from bcos_peft.attribution.checks import _check_adapters, _check_inputs, check_baseline
from bcos_peft.attribution.leaves import _Leaves
from bcos_peft.attribution.linear_map import (
    _backward,
    _cut_head,
    _keeps_logits,
    _outside_inference_mode,
    _rest_of,
    called_part,
    frozen,
    named_outputs,
)
from bcos_peft.attribution.mode import explanation_mode
from bcos_peft.attribution.padding import _looks_ahead
from bcos_peft.attribution.rounding import _warn_of_residual
from bcos_peft.attribution.target import _ChosenTokens
from bcos_peft.models import BcosModel, family_of, find_model


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
        constants (`torch.Tensor`, *optional*): `(places,)`, of a stock model: what its biases give.
        note (`str`, *optional*): of experimental architectures: what is held.
        stayed (`torch.Tensor`, *optional*): `(1,)`, with hops over a span: what the answer before it holds after them,
            `Σ |score|`.

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
    constants: Tensor | None = None
    note: str | None = None
    stayed: Tensor | None = None


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
    return attribute_sequences(model, [input_ids], [positions], [targets], [foils], at_once, baseline)[0]


@_outside_inference_mode
def attribute_sequences(
    model: nn.Module,
    sequences: Sequence[Tensor],
    positions: Sequence[Sequence[int]],
    targets: Sequence[Sequence[Sequence[int] | None]],
    foils: Sequence[Sequence[Sequence[int]] | str | None],
    at_once: int = 16,
    baseline: str = "zero",
) -> list[_SequenceAttribution]:
    r"""`attribute_sequence` of several sequences, which share the forward pass and the backward passes.

    A decoder never sees what comes after a token, so shorter sequences are filled up on the right, and each has the
    scores that it has alone.

    Args:
        model (`torch.nn.Module`): as for `attribute_sequence`.
        sequences (`Sequence[torch.Tensor]`): `input_ids` of each.
        positions (`Sequence[Sequence[int]]`): of each its places, none of them twice.
        targets (`Sequence`): of each what `attribute_sequence` takes.
        foils (`Sequence`): of each what `attribute_sequence` takes.
        at_once (`int`, defaults to 16): at most how many places of all sequences share a backward pass.
        baseline (`"zero"` or `"average"`, defaults to `"zero"`): as for `attribute_sequence`.

    Returns:
        `list[_SequenceAttribution]`: one for each sequence.

    Raises:
        ValueError: the model is no converted causal language model, or an argument does not fit it.

    Example:
        >>> import torch
        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> from bcos_peft import BcosConfig, get_bcos_model
        >>> from bcos_peft.attribution import attribute_sequences
        >>> config = GPT2Config(vocab_size=50, n_embd=8, n_layer=1, n_head=2)
        >>> model = get_bcos_model(GPT2LMHeadModel(config), BcosConfig())
        >>> texts = [torch.tensor([5, 6, 7, 8]), torch.tensor([9])]
        >>> found = attribute_sequences(model, texts, [[1, 2], [0]], [[[7], [8]], [None]], ["runner_up", None])
        >>> [tuple(one.scores.shape) for one in found]
        [(2, 4), (1, 1)]
    """
    bcos_model, called = find_model(model), called_part(model)
    stock = not isinstance(bcos_model, BcosModel)
    if (stock or family_of(bcos_model).learned) and len(sequences) > 1:  # constants are those of all rows together
        each = zip(sequences, positions, targets, foils, strict=True)
        return [
            one for row in each for one in attribute_sequences(model, *([value] for value in row), at_once, baseline)
        ]
    _check_adapters(model)
    if not is_causal_lm(bcos_model):
        raise ValueError(f"{type(bcos_model).__name__} is no causal language model: it generates no text.")
    input_ids = torch.nn.utils.rnn.pad_sequence(list(sequences), batch_first=True)
    _check_inputs(bcos_model, input_ids, None)
    check_baseline(baseline)
    counts = [len(row) for row in positions]
    if twice := [row for row in positions if len({*row}) < len(row)]:
        raise ValueError(f"positions {list(twice[0])} has a place twice; give each its targets at once.")
    places = torch.tensor(list(chain.from_iterable(positions)))
    owners = torch.tensor([i for i, count in enumerate(counts) for _ in range(count)])
    turns = torch.tensor([turn for count in counts for turn in range(count)])
    family = family_of(bcos_model)
    leaves = _Leaves({"source": input_ids}, baseline == "average", constants=stock or family.learned)
    with explanation_mode(model), frozen(model), named_outputs(bcos_model.config):
        with leaves.cut(bcos_model, family):
            logits, rows, head = _logits_at(bcos_model, called, input_ids, places)
        against = [
            [row] * n if row is None or isinstance(row, str) else row for row, n in zip(foils, counts, strict=True)
        ]
        wanted, others = (list(chain.from_iterable(given)) for given in (targets, against))
        chosen = _ChosenTokens(logits[owners, rows], wanted, others)
        (gradient,) = torch.autograd.grad(chosen.values.sum(), head["above"])
        chunk = max(1, min(at_once, _tokens_at_once(gradient.device) // input_ids.shape[1]) // len(input_ids))
        scores, average, constants = _in_batches(head["below"], leaves, gradient, (turns, owners, rows), chunk)
    logit = chosen.values.detach().to(scores.dtype)
    residual = _rest_of(logit, scores, average, constants)
    _warn_of_residual(bcos_model, scores, logit, residual)
    found, start = [], 0
    for ids, count in zip(sequences, counts, strict=True):
        own = slice(start, start + count)
        found.append(
            _SequenceAttribution(
                scores=scores[own, : len(ids)],
                logit=logit[own],
                residual=residual[own],
                probability=chosen.probability[own],
                predicted=chosen.predicted[own],
                targets=chosen.targets[own],
                foils=chosen.foils[own],
                baseline=None if average is None else average[own],
                constants=None if constants is None else constants[own],
                note=family.note,
            )
        )
        start += count
    return found


def _logits_at(
    model: BcosModel, called: nn.Module, input_ids: Tensor, places: Tensor
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """One forward pass: logits, the row of them that belongs to each place, and what enters the head, cut there."""
    # A mask, or transformers takes some tokens for forgotten padding.
    inputs = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids), "use_cache": False}
    rows = places  # of what enters the head, and of the logits
    if _keeps_logits(model):
        inputs["logits_to_keep"], rows = places.unique(return_inverse=True)
    head: dict[str, Tensor] = {}
    with _cut_head(model, head):
        return called(**inputs).logits, rows, head


def is_causal_lm(model) -> bool:
    """Whether a converted model predicts the next token of its vocabulary from those before it."""
    one_way = family_of(model).causal and not _looks_ahead(model.config)
    return one_way and model.get_output_embeddings() is not None


def _tokens_at_once(device: torch.device) -> int:
    return _TOKENS_AT_ONCE.get(device.type, _TOKENS_AT_ONCE_ELSEWHERE)


def _in_batches(
    output: Tensor, leaves: _Leaves, gradient: Tensor, places: tuple[Tensor, Tensor, Tensor], chunk: int
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Contributions of the leaves, `(places, sequence)`, what the references give, and what constants give,
    `(places,)`.

    `gradient`, `(sequences, rows, features)`, holds each place's own in its sequence and row. At each turn every
    sequence has one place: what belongs to different sequences goes through the layers together anyway.
    """
    turns, owners, rows = places
    count = int(turns.max()) + 1
    found, averages, constants = [], [], []
    for start in range(0, count, chunk):
        size = min(chunk, count - start)
        now = (turns >= start) & (turns < start + size)
        each = gradient.new_zeros(size, *gradient.shape)
        each[turns[now] - start, owners[now], rows[now]] = gradient[owners[now], rows[now]]
        # The last backward pass frees the graph as it goes.
        read = leaves.read(_backward(output, leaves.tensors, each, retain_graph=start + chunk < count))
        at = turns[now] - start, owners[now]
        found.append(sum(read.parts["source"].values())[at])
        averages.append(None if read.baseline is None else read.baseline[at])
        constants.append(sum(read.constants.values(), gradient.new_zeros(size))[at[0]] if leaves.constants else None)
    # Chunks hold places of all sequences; back to the order in which they were given.
    order = torch.cat([((turns >= s) & (turns < s + chunk)).nonzero().flatten() for s in range(0, count, chunk)])
    back = order.argsort()
    return tuple(None if parts[0] is None else torch.cat(parts)[back] for parts in (found, averages, constants))
