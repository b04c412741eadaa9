"""`attribute_span`: contributions to a stretch of an answer in one backward pass, and hops over what is before it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from bcos_peft.attribution.answers import _answer_logits, writes_answers
from bcos_peft.attribution.checks import _check_adapters, _check_inputs, check_baseline
from bcos_peft.attribution.leaves import _gradients, _Leaves, _Read
from bcos_peft.attribution.linear_map import _outside_inference_mode, _rest_of, called_part, frozen, named_outputs
from bcos_peft.attribution.mode import explanation_mode
from bcos_peft.attribution.rounding import _warn_of_residual
from bcos_peft.attribution.sequence import _logits_at, _SequenceAttribution, is_causal_lm
from bcos_peft.attribution.target import _ChosenTokens
from bcos_peft.models import BcosModel, family_of, find_model
from bcos_peft.nn import widest


@_outside_inference_mode
def attribute_span(
    model: nn.Module,
    input_ids: Tensor,
    span: tuple[int, int],
    foils: Sequence[Sequence[int]] | str | None = "runner_up",
    hops: int = 0,
    answer_start: int | None = None,
    source: int | None = None,
    baseline: str = "zero",
) -> _SequenceAttribution:
    r"""Contributions to several tokens that follow each other: of the sum of their logits, in one backward pass.

    The sum of the explained values, `V = Σ_i (logit_i − foil_i)`, is one number, so its contributions are those of
    `attribute_sequence` added over the span, for the price of one of them.

    **Hops** pass on what tokens of the answer *before* the span received: a reasoning, of which the span is the
    conclusion. Let `r_j` be the share of such a token, `L_j = Σ_k c_jk` its own explained value (its logit less that
    of its runner-up) and `c_jk` the contributions to it. A hop replaces each `r_j` by

    `r_k += w_j·c_jk` for all `k`, `r_j −= w_j·L_j`, `w_j = r_j / L_j`,

    which leaves the sum as it is, whatever the `w_j` are. That is the sum of contributions with one weight for each
    token, so a hop is one backward pass, and all of it takes `hops + 1`. Baselines and constants are passed on alike.

    Where `L_j` is small beside the contributions that cancel in it, `r_j / L_j` would blow them up. So the weights of
    a token, over all hops together, stay between `−n` and `n` for `n` explained tokens: each of these takes from `j`
    at most what `j` itself was said for, and the rest stays where it is. All of it stays with a token that was not
    the largest logit (`L_j ≤ 0`): it came about by sampling, and its sources spoke for another one.

    Args:
        model (`torch.nn.Module`): a converted language model, or a wrapper around one.
        input_ids (`torch.Tensor`): `(sequence,)`, without padding: the prompt and the answer, at least to the end of
            the span; of an encoder-decoder the source, the token that starts an answer, and the answer.
        span (`tuple[int, int]`): the first of the explained tokens in `input_ids`, and one past the last.
        foils (`Sequence[Sequence[int]]` or `"runner_up"`, *optional*): for each explained token the ids that it is
            compared with; the largest logit of another token; or `None` for no contrast.
        hops (`int`, defaults to 0): how often shares are passed on.
        answer_start (`int`, *optional*): the first token of the answer in `input_ids`; for hops.
        source (`int`, *optional*): of an encoder-decoder, how many tokens of `input_ids` are its source.
        baseline (`"zero"` or `"average"`, defaults to `"zero"`): what words are compared with, as in `attribute`.

    Returns:
        [`_SequenceAttribution`]: one row, the sum; `probability`, `predicted`, `targets` and `foils` have one entry
        for each explained token.

    Raises:
        ValueError: the model is no language model, or an argument does not fit it.

    Example:
        >>> import torch
        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> from bcos_peft import BcosConfig, get_bcos_model
        >>> from bcos_peft.attribution import attribute_span
        >>> config = GPT2Config(vocab_size=50, n_embd=8, n_layer=1, n_head=2)
        >>> model = get_bcos_model(GPT2LMHeadModel(config), BcosConfig())
        >>> result = attribute_span(model, torch.tensor([5, 6, 7, 8, 9]), span=(3, 5), hops=1, answer_start=2)
        >>> result.scores.shape, bool((result.residual.abs() < 1e-5).all())
        (torch.Size([1, 4]), True)

    Source: B-cos LM (arXiv 2502.12992), section 3; hops over the tokens of a reasoning: FlashTrace (arXiv 2602.01914).
    """
    inner, called = find_model(model), called_part(model)
    family = family_of(inner)
    _check_adapters(model)
    encoder = writes_answers(inner)
    if not encoder and not is_causal_lm(inner):
        raise ValueError(f"{type(inner).__name__} is no causal language model: it generates no text.")
    check_baseline(baseline)
    first = _first_place(span, hops, answer_start, source if encoder else None, len(input_ids))
    start, stop = span
    # The first part of the sequence is read by the encoder, the rest (or all of it) by the decoder.
    cut = source if encoder else 0
    read, prefix = input_ids[None, :cut], input_ids[None, cut : stop - 1]
    _check_inputs(inner, read if encoder else prefix, None)
    constants = not isinstance(inner, BcosModel) or family.learned
    ids = {"source": read, "prefix": prefix} if encoder else {"source": prefix}
    leaves = _Leaves(ids, baseline == "average", constants=constants)
    places = torch.arange(first - 1, stop - 1) - cut
    targets = [[token] for token in input_ids[first:stop].tolist()]
    own = list(foils) if isinstance(foils, (list, tuple)) else [foils] * (stop - start)
    against = ["runner_up"] * (start - first) + own
    with explanation_mode(model), frozen(model), named_outputs(inner.config):
        with leaves.cut(inner, family):
            if encoder:
                logits, rows = _answer_logits(called, read, prefix), places
            else:
                logits, rows, head = _logits_at(inner, called, prefix, places)
        chosen = _ChosenTokens(logits[0, rows], targets, against)
        values = chosen.values
        if not encoder:  # once through the head, which works on each token for itself
            (gradient,) = torch.autograd.grad(values.sum(), head["above"])

        def pull(weights: Tensor, last: bool) -> _Read:
            """Contributions to the sum of all values, each with its weight, from one backward pass."""
            if encoder:
                return leaves.read(_gradients((values * weights).sum(), leaves.tensors, not last))
            at = weights.new_zeros(gradient.shape[1]).index_copy(0, rows.to(weights.device), weights)
            weighted = gradient * at.to(gradient.dtype)[:, None]
            return leaves.read(
                torch.autograd.grad(head["below"], leaves.tensors, weighted, retain_graph=not last, allow_unused=True)
            )

        found = _pass_on(pull, values.detach(), start - first, first, hops, leaves)
    scores, average, given, stayed = found
    logit = values.detach()[start - first :].sum()[None].to(scores.dtype)
    residual = _rest_of(logit, scores, average, given)
    _warn_of_residual(inner, scores, logit, residual)
    return _SequenceAttribution(
        scores=scores,
        logit=logit,
        residual=residual,
        probability=chosen.probability[start - first :],
        predicted=chosen.predicted[start - first :],
        targets=chosen.targets[start - first :],
        foils=chosen.foils[start - first :],
        baseline=average,
        constants=given,
        stayed=stayed,
        note=family.note,
    )


def _first_place(span, hops: int, answer_start: int | None, source: int | None, length: int) -> int:
    """The first token that takes part as an explained one: of the span, or of the answer before it."""
    start, stop = span
    least = 1 if source is None else source + 1  # what starts an answer was not said
    if not least <= start < stop <= length:
        raise ValueError(f"span={span} must hold at least one of the tokens {least} to {length - 1} that were said.")
    if hops < 0:
        raise ValueError(f"hops must be 0 or more, got {hops}.")
    if not hops:
        return start
    if answer_start is None or not least <= answer_start < start:
        raise ValueError(
            f"hops={hops} passes on what the answer before the span received, so answer_start must lie between "
            f"{least} and {start - 1}, got {answer_start!r}. Without an answer before the span leave hops out."
        )
    return answer_start


def _pass_on(
    pull: Callable[[Tensor, bool], _Read], values: Tensor, before: int, first: int, hops: int, leaves: _Leaves
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Scores, `(1, sequence)`, baseline, constants and what stayed, `(1,)`.

    Args:
        pull: contributions to a weighted sum of the values.
        values: `(places,)`, of the tokens before the span and in it.
        before: how many are before it.
        first: the place of the first of them in the sequence.
        hops: how often to pass on.
        leaves: what `pull` reads.
    """
    weights = torch.zeros_like(values)
    weights[before:] = 1
    scores, average, constants = _parts_of(pull(weights, not hops), leaves)
    if not hops:
        return scores, average, constants, None
    reasoning, worth = slice(first, first + before), values[:before].to(scores.dtype)
    most, given = float(len(values) - before), torch.zeros_like(worth)
    for hop in range(hops):
        share = torch.where(worth > 0, scores[0, reasoning] / worth, 0)
        now = (given + share).clamp(-most, most) - given
        if not now.any():
            break
        given, weights = given + now, torch.zeros_like(values)
        weights[:before] = now
        more, more_average, more_constants = _parts_of(pull(weights, hop + 1 == hops), leaves)
        scores = scores + more
        scores[0, reasoning] -= now * worth
        average = None if average is None else average + more_average
        constants = None if constants is None else constants + more_constants
    stayed = scores[0, reasoning].abs().sum()[None]
    return scores, average, constants, stayed


def _parts_of(read: _Read, leaves: _Leaves) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Scores of the whole sequence, `(1, sequence)`, what the references give, and what belongs to no token."""
    stages = []
    for stage, ids in leaves.ids.items():
        empty = torch.zeros(1, ids.shape[1], device=ids.device)
        stages.append(sum(read.parts.get(stage, {}).values(), empty))
    scores = torch.cat(stages, -1)
    scores = scores.to(widest(scores))
    rest = [torch.as_tensor(value).reshape(1) for value in (*read.constants.values(), *read.others.values())]
    given = sum(rest, scores.new_zeros(1)) if leaves.constants or read.others else None
    average = None if read.baseline is None else read.baseline.reshape(1).to(scores.dtype)
    return scores, average, given
