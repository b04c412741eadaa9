"""What `attribute` returns, and how it is put together from the contributions to each value."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bcos_peft.attribution.leaves import _Read
from bcos_peft.attribution.linear_map import _rest_of
from bcos_peft.attribution.padding import _roll
from bcos_peft.attribution.spans import _Together
from bcos_peft.attribution.target import _Choice


@dataclass(frozen=True)
class Attribution:
    """What `attribute` returns. With `target="all"`, `scores`, `logit`, `residual` and `parts` have a dimension
    for the targets after the batch.

    Args:
        scores (`torch.Tensor`): `(batch, sequence)`, each token's contribution to the logit, in logit units; 0 for
            padding.
        logit (`torch.Tensor`): `(batch,)`, the target's logit, or target minus foil.
        residual (`torch.Tensor`): `(batch,)`, what is left of the logit when all contributions are taken away,
            `logit − Σ scores − Σ prefix_scores − constants − baseline`: zero to rounding.
        target (`torch.Tensor`): `(batch,)`, the output that was explained.
        foil (`torch.Tensor`, *optional*): `(batch,)`, the output it was contrasted with.
        position (`torch.Tensor`, *optional*): `(batch,)`, the token whose output was explained, for token-level tasks;
            `(batch, 2)` with `target="all"` for question answering: start and end have their own.
        probability (`torch.Tensor`): `(batch,)`, the target's probability, 0 to 1: softmax over the classes, over
            the tokens for question answering, sigmoid for a single or for several independent labels.
        logits (`torch.Tensor`): `(batch, classes)`, all logits (at `position`).
        parts (`dict[str, torch.Tensor]`, *optional*): with `split=True`, the scores of word, position and
            token-type embeddings; they sum to `scores`.
        baseline (`torch.Tensor`, *optional*): `(batch,)`, with `baseline="average"`: what average words would give.
        span (`torch.Tensor`, *optional*): `(batch, 2)`, of tokens that were explained together the first, and one past
            the last: an answer, or with `span=` an entity.
        best_span (`torch.Tensor`, *optional*): `(batch, 2)`, for an answer: the one that the model gives.
        prefix_scores (`torch.Tensor`, *optional*): `(batch, prefix)`, of an encoder-decoder: the contribution of each
            token of `decoder_input_ids`, the answer so far; `scores` are those of the source. Classifiers whose
            decoder reads the source again (BART, T5) have none: `scores` are what a token contributes in both places.
        constants (`torch.Tensor`, *optional*): `(batch,)`, what belongs to no token: of a stock model its biases, of
            some architectures learned inputs (global tokens, prompts), of a classifier that has a decoder the token
            that starts it. None of a converted model without such.
        constant_parts (`dict[str, torch.Tensor]`, *optional*): the same by name.
        note (`str`, *optional*): of experimental architectures (scans, linear attention): what is held.

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
    baseline: Tensor | None = None
    span: Tensor | None = None
    best_span: Tensor | None = None
    prefix_scores: Tensor | None = None
    constants: Tensor | None = None
    constant_parts: dict[str, Tensor] | None = None
    note: str | None = None


def _result(
    chosen: _Choice,
    reads: list[_Read],
    split: bool,
    shift: Tensor | None,
    together: _Together | None,
    with_constants: bool,
    note: str | None = None,
) -> Attribution:
    def stacked(of_each: list) -> Tensor:
        value = torch.stack(of_each, dim=1)
        return value if chosen.all else value[:, 0]

    first = reads[0]
    parts = {name: torch.stack([read.parts["source"][name] for read in reads], 1) for name in first.parts["source"]}
    if shift is not None:
        parts = {name: _roll(scores, shift[:, None]) for name, scores in parts.items()}
    parts = {name: value if chosen.all else value[:, 0] for name, value in parts.items()}
    scores = sum(parts.values())
    logit = stacked([value.detach().to(scores.dtype) for value in chosen.values()])
    prefix = None
    if "prefix" in first.parts:
        prefix = stacked([sum(read.parts["prefix"].values()) for read in reads])
    names = {name: None for read in reads for name in (*read.constants, *read.others)}
    nothing = torch.zeros_like(first.parts["source"][next(iter(parts))][:, 0])
    constant_parts = {
        name: stacked([read.constants.get(name, nothing) + read.others.get(name, nothing) for read in reads])
        for name in names
    }
    constants = sum(constant_parts.values()).to(scores.dtype) if constant_parts else None
    if constants is None and with_constants:  # a stock model may have no biases
        constants = torch.zeros_like(logit)
    baseline = None if first.baseline is None else stacked([read.baseline for read in reads])
    before = None if prefix is None else prefix.sum(-1)

    def select(value: Tensor) -> Tensor:
        return value if chosen.all else value[:, 0]

    return Attribution(
        scores=scores,
        logit=logit,
        residual=_rest_of(logit, scores, baseline, before, constants),
        target=select(chosen.target),
        probability=select(chosen.probability),
        logits=chosen.logits.detach(),
        foil=chosen.foil,
        position=chosen.position,
        parts=parts if split else None,
        baseline=baseline,
        span=None if together is None else together.span,
        best_span=None if together is None else together.best,
        prefix_scores=prefix,
        constants=constants,
        constant_parts=constant_parts or None,
        note=note,
    )
