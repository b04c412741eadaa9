"""Outputs of several tokens explained together: an answer by its start and its end, an entity by all of its tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from bcos_peft.attribution.target import _candidates, _Choice, _index
from bcos_peft.nn import widest


_ANSWER = "answer"  # the target that is start and end together


@dataclass(frozen=True)
class _Together:
    """Outputs of several tokens, read as those of one.

    Attributes:
        logits, probabilities: `(batch, classes)`: each class summed over the tokens, and the product; of an answer
            the start where it starts, and the end where it ends.
        span: `(batch, 2)`: the first token, and one past the last.
        best: the same of the best answer; None for entities.
    """

    logits: Tensor
    probabilities: Tensor
    span: Tensor
    best: Tensor | None = None


class _AnswerChoice(_Choice):
    """Start and end together: one target, whose logit is the sum of both."""

    def __init__(self, together: _Together):
        self.all, self.foil, self.position = False, None, None
        self.logits, self.probabilities = together.logits, together.probabilities
        self.target = torch.zeros(len(self.logits), 1, dtype=torch.long, device=self.logits.device)

    def values(self) -> list[Tensor]:
        return [self.logits.sum(-1)]

    @property
    def probability(self) -> Tensor:
        return self.probabilities.prod(-1, keepdim=True)


def _check_span(span, target, position, foil, of_answers: bool, per_token: bool) -> None:
    """Raises `ValueError` for a span, or an answer, that a model does not have."""
    if isinstance(target, str) and target == _ANSWER:
        if not of_answers:
            raise ValueError("target='answer' is for question answering; this model has no start and end.")
        if position is not None:
            raise ValueError("position cannot go with target='answer', which has two; say where it is with span=...")
        if foil is not None:
            raise ValueError("foil cannot go with target='answer'; it goes with the start (0) or the end (1).")
    if span is None:
        return
    if not per_token:
        raise ValueError(
            f"span={span!r} given, but it is for models that label tokens or answer questions; leave it out."
        )
    if position is not None:
        raise ValueError("Give either position=... for one token or span=... for several, not both.")
    if of_answers and target != _ANSWER:
        raise ValueError("span goes with target='answer': start and end are outputs of one token each.")


def _join(
    logits: Tensor,
    probabilities: Tensor | None,
    mask: Tensor | None,
    span,
    among: Tensor | None,
    independent: bool,
) -> _Together:
    """The outputs of the tokens of a span; of an answer (which has `probabilities` over the tokens) at its ends.

    Args:
        logits: `(batch, sequence, classes)`.
        probabilities: the same, over the tokens, of an answer; None else.
        mask: `(batch, sequence)`, 0 for padding.
        span: `(2,)` or `(batch, 2)`, or for an answer None: the best.
        among: `(batch, sequence)`, the tokens that an answer may have.
        independent: several classes may hold at once.

    Raises:
        ValueError: the span holds no token, or padding, or `among` leaves none.
    """
    mask = torch.ones(logits.shape[:2], device=logits.device) if mask is None else mask.to(logits.device)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    given = None if span is None else _given_span(span, mask)
    if probabilities is None:
        inside = _inside(given, mask)[..., None]
        one_each = independent or logits.shape[-1] == 1
        logs = logsigmoid(logits.detach()) if one_each else logits.detach().log_softmax(-1)
        return _Together((logits * inside).sum(1), (logs * inside).sum(1).exp(), given)
    best = _best_answer(logits.detach(), _candidates(mask, among))
    chosen = best if given is None else given
    ends = torch.stack([chosen[:, 0], chosen[:, 1] - 1], dim=1)[:, None]
    return _Together(logits.gather(1, ends)[:, 0], probabilities.gather(1, ends)[:, 0], chosen, best)


def _best_answer(logits: Tensor, candidates: Tensor) -> Tensor:
    """The span, `(batch, 2)`, with the largest sum of start and end, of those that do not end before they start."""
    start, end = logits.to(widest(logits)).masked_fill(~candidates[..., None], float("-inf")).unbind(-1)
    before, first = start.cummax(1)
    last = (before + end).argmax(1, keepdim=True)
    return torch.cat([first.gather(1, last), last + 1], dim=1)


def _given_span(span, mask: Tensor) -> Tensor:
    value = torch.as_tensor(span, device=mask.device)
    if value.shape not in ((2,), (len(mask), 2)):
        raise ValueError(
            f"span must be (first, stop) or one for each of the {len(mask)} rows, got shape {tuple(value.shape)}."
        )
    rows, length = mask.shape
    first = _index("span[0]", value[..., 0], rows, length, mask.device)
    last = _index("span[1] - 1", value[..., 1] - 1, rows, length, mask.device)
    if bool((first > last).any()):
        raise ValueError(f"span={span!r} holds no token: it must end behind its start.")
    found = torch.stack([first, last + 1], dim=1)
    if bool((_inside(found, mask) & (mask == 0)).any()):
        raise ValueError(f"span={span!r} holds padding in at least one row.")
    return found


def _inside(span: Tensor, mask: Tensor) -> Tensor:
    places = torch.arange(mask.shape[1], device=mask.device)
    return (places >= span[:, :1]) & (places < span[:, 1:])
