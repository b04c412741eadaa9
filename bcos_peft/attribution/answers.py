"""Contributions to an answer of an encoder-decoder: of each token of the source, and of the answer before it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bcos_peft.attribution.checks import _check_adapters, _check_inputs, check_baseline
from bcos_peft.attribution.leaves import _gradients, _Leaves
from bcos_peft.attribution.linear_map import _outside_inference_mode, _rest_of, called_part, frozen, named_outputs
from bcos_peft.attribution.mode import explanation_mode
from bcos_peft.attribution.rounding import _warn_of_residual
from bcos_peft.attribution.sequence import _SequenceAttribution
from bcos_peft.attribution.target import _ChosenTokens
from bcos_peft.models import BcosModel, family_of, find_model


@_outside_inference_mode
def attribute_answer(
    model: nn.Module,
    input_ids: Tensor,
    decoder_input_ids: Tensor,
    targets: Sequence[Sequence[int] | None],
    foils: Sequence[Sequence[int]] | str | None = "runner_up",
    baseline: str = "zero",
) -> _SequenceAttribution:
    r"""Contributions of the source, and of the answer so far, to each of the last tokens of an answer.

    Args:
        model (`torch.nn.Module`): an encoder-decoder that writes, or a wrapper around one.
        input_ids (`torch.Tensor`): `(source,)`, the source, without padding.
        decoder_input_ids (`torch.Tensor`): `(prefix,)`, the token that starts an answer, and the answer but for its
            last token.
        targets (`Sequence`): what comes next after each of the last tokens of `decoder_input_ids`, as in
            `attribute_sequence`.
        foils: as in `attribute_sequence`.
        baseline (`"zero"` or `"average"`, defaults to `"zero"`): what words are compared with, as in `attribute`.

    Returns:
        [`_SequenceAttribution`]: its `scores` are `(places, source + prefix)`.

    Raises:
        ValueError: the model is no encoder-decoder that writes, or an argument does not fit it.

    Example:
        >>> import torch
        >>> from transformers import T5Config, T5ForConditionalGeneration
        >>> from bcos_peft import BcosConfig, get_bcos_model
        >>> from bcos_peft.attribution import attribute_answer
        >>> small = T5Config(vocab_size=99, num_layers=1, d_model=16, d_kv=8, d_ff=32, num_heads=2)
        >>> model = get_bcos_model(T5ForConditionalGeneration(small), BcosConfig())
        >>> result = attribute_answer(model, torch.tensor([5, 6, 7]), torch.tensor([0, 8]), [[8], [9]])
        >>> result.scores.shape, bool((result.residual.abs() < 1e-5).all())
        (torch.Size([2, 5]), True)

    Source: B-cos LM (arXiv 2502.12992), section 3.
    """
    inner, called = find_model(model), called_part(model)
    family = family_of(inner)
    _check_adapters(model)
    if not writes_answers(inner):
        raise ValueError(f"{type(inner).__name__} is no encoder-decoder that writes.")
    source, prefix = input_ids[None], decoder_input_ids[None]
    _check_inputs(inner, source, None)
    check_baseline(baseline)
    constants = not isinstance(inner, BcosModel) or family.learned
    leaves = _Leaves({"source": source, "prefix": prefix}, baseline == "average", constants=constants)
    with explanation_mode(model), frozen(model), named_outputs(inner.config):
        with leaves.cut(inner, family):
            logits = _answer_logits(called, source, prefix)
        chosen = _ChosenTokens(logits[0, -len(targets) :], targets, _for_each(foils, len(targets)))
        last = len(targets) - 1
        reads = [
            leaves.read(_gradients(value, leaves.tensors, place < last)) for place, value in enumerate(chosen.values)
        ]
    empty = torch.zeros(1, prefix.shape[1], device=chosen.values.device)
    scores = torch.cat(
        [
            torch.cat([sum(read.parts["source"].values()), sum(read.parts.get("prefix", {}).values(), empty)], -1)
            for read in reads
        ]
    )
    logit = chosen.values.detach().to(scores.dtype)
    shares = [sum((*read.constants.values(), *read.others.values()), torch.zeros_like(logit[:1])) for read in reads]
    given = torch.cat([share.reshape(1) for share in shares]) if constants or any(r.others for r in reads) else None
    average = None if reads[0].baseline is None else torch.cat([read.baseline for read in reads])
    residual = _rest_of(logit, scores, average, given)
    _warn_of_residual(inner, scores, logit, residual)
    return _SequenceAttribution(
        scores=scores,
        logit=logit,
        residual=residual,
        probability=chosen.probability,
        predicted=chosen.predicted,
        targets=chosen.targets,
        foils=chosen.foils,
        baseline=average,
        constants=given,
        note=family.note,
    )


def writes_answers(model) -> bool:
    """Whether a model reads a source with an encoder, and writes with a decoder.

    Example:
        >>> from transformers import BertConfig, BertForMaskedLM
        >>> from bcos_peft.attribution import writes_answers
        >>> small = BertConfig(num_hidden_layers=1, hidden_size=16, num_attention_heads=2, intermediate_size=32)
        >>> writes_answers(BertForMaskedLM(small))
        False
    """
    return family_of(model).seq2seq and model.get_output_embeddings() is not None


def _answer_logits(called: nn.Module, source: Tensor, prefix: Tensor) -> Tensor:
    mask = torch.ones_like(source)
    return called(input_ids=source, attention_mask=mask, decoder_input_ids=prefix, use_cache=False).logits


def _for_each(foils, count: int) -> list:
    return [foils] * count if foils is None or isinstance(foils, str) else list(foils)
