"""`attribute`: token contributions as tensors, from one forward and one backward pass."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bcos_peft._utils.arguments import checked_arguments
from bcos_peft.attribution.checks import (
    _check_adapters,
    _check_inputs,
    _check_names,
    _padding_token,
    _reads_last_token,
    _spread,
    check_baseline,
    refuses_padding,
)
from bcos_peft.attribution.leaves import _Leaves
from bcos_peft.attribution.linear_map import (
    _keeps_logits,
    _outside_inference_mode,
    called_part,
    frozen,
    named_outputs,
)
from bcos_peft.attribution.mode import explanation_mode
from bcos_peft.attribution.padding import _arrange, _looks_ahead, _roll
from bcos_peft.attribution.result import Attribution, _result
from bcos_peft.attribution.rounding import _warn_of_residual
from bcos_peft.attribution.spans import _ANSWER, _AnswerChoice, _check_span, _join
from bcos_peft.attribution.target import _Choice, _next_token_position, _read_logits
from bcos_peft.discovery import needs_prefix
from bcos_peft.families import Family
from bcos_peft.models import BcosModel, family_of, find_model


_OWN = ("target", "foil", "position", "span", "among", "split", "baseline", "output", "return_dict")
_OF_TRAINING = ("labels", "start_positions", "end_positions", "next_sentence_label")


@_outside_inference_mode
@checked_arguments
def attribute(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    target: int | Tensor | str | None = None,
    foil: int | Tensor | None = None,
    position: int | Tensor | None = None,
    span: tuple[int, int] | Tensor | None = None,
    among: Tensor | None = None,
    split: bool = False,
    baseline: str = "zero",
    output: Callable | None = None,
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
        target (`int`, `torch.Tensor`, `"all"` or `"answer"`, *optional*):
            The output to explain: an int for every row, a tensor `(batch,)`, or `"all"` for each output in turn.
                Default: the largest logit.
            For question answering 0 is the start and 1 the end of the answer, and `"answer"` both together: the best
            that does not end before it starts, or that at `span`. For language models it is a token id.
        foil (`int` or `torch.Tensor`, *optional*): explain `logit[target] − logit[foil]` instead.
        position (`int` or `torch.Tensor`, *optional*):
            For outputs per token, the token whose output is explained, counted in `input_ids`. Default: where the
            target's logit (or, without a target, any logit) is largest among the tokens; for causal language
            models the last token.
        span (`(int, int)` or `torch.Tensor`, *optional*):
            Instead of a position several tokens, the first and one past the last, as `(2,)` or `(batch, 2)`: the
            target's logits of all of them are explained together, by their sum; of an answer its start and its end.
        among (`torch.Tensor`, *optional*): `(batch, sequence)`, not 0 for the tokens of which a position or an answer
            is chosen, where none is given: the context of a question, say. Default: all but padding.
        split (`bool`, defaults to `False`): also give the contributions of word, position and token-type
            embeddings apart.
        baseline (`"zero"` or `"average"`, defaults to `"zero"`):
            What a word's embedding is compared with. `"average"` compares it with the mean embedding of the
            vocabulary, and gives what that makes in the place of every word as `Attribution.baseline`: `Σ scores +
            baseline = logit`. What any word would get in that place is then no contribution of *this* word. That
            matters where one place gets much for nothing, as the first token of a language model's text does.
        output (*optional*): a function of the model's output, such as `lambda out: out.last_hidden_state[:, 0] @
            direction`, that gives the number to explain, `(batch,)`, or several, `(batch, targets)`: for models
            without a head, probes and concept vectors. It must be linear.
        **inputs: further inputs of the model, such as `token_type_ids`, `(batch, sequence)` or one row for all; of an
            encoder-decoder `decoder_input_ids`, `(batch, prefix)`, the answer so far. Labels of a batch for training
            are not looked at.

    Returns:
        [`Attribution`]

    Raises:
        TypeError: `input_ids` is not a tensor of integers, or there is no such argument.
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
    inner, called = find_model(model), called_part(model)
    _check_adapters(model)
    _check_inputs(inner, input_ids, attention_mask)
    _check_names(inner, inputs, _OWN)
    check_baseline(baseline)
    inputs = _spread(inputs, input_ids.shape)
    # Outputs are read by name, and no loss is: with one, stock models also change their config.
    inputs = {name: value for name, value in inputs.items() if name not in ("return_dict", *_OF_TRAINING)}
    family, stock = family_of(inner), not isinstance(inner, BcosModel)
    causal = family.causal
    answers = type(inner).__name__.endswith("ForQuestionAnswering")
    tagged = answers or type(inner).__name__.endswith("ForTokenClassification")
    _check_span(span, target, position, foil, answers, tagged)
    _check_prefix(family, inner, inputs, input_ids)
    if causal or (family.seq2seq and needs_prefix(inner)):
        inputs.setdefault("use_cache", False)
    if inputs.get("past_key_values") is not None:
        raise ValueError(
            "past_key_values stands for tokens that are not in input_ids, whose contributions would be missing. Pass "
            "the whole text as input_ids, and no cache."
        )
    at = None
    if _keeps_logits(inner) and output is None:
        if inputs.get("logits_to_keep") is not None:
            raise ValueError("logits_to_keep is chosen by attribute itself; say with position=... what to explain.")
        at = _next_token_position(torch.ones_like(input_ids) if attention_mask is None else attention_mask, position)
    one_way = causal and not _looks_ahead(inner.config)
    if attention_mask is not None and refuses_padding(inner) and bool((attention_mask == 0).any()):
        raise ValueError(
            f"{type(inner).__name__} looks for the last token that is not padding, and there is padding but no "
            "token for it: set model.config.pad_token_id, or pass each text alone."
        )
    padding = _padding_token(inner) if _reads_last_token(inner) else None
    arranged, shift = _arrange({"input_ids": input_ids, "attention_mask": attention_mask, **inputs}, one_way, padding)
    if at is not None:
        # A whole vocabulary for every token of a long prompt would take more memory than all the rest.
        kept, place = (at if shift is None else at - shift).unique(return_inverse=True)
        arranged["logits_to_keep"] = kept
    ids = {"source": arranged["input_ids"]}
    if "decoder_input_ids" in arranged:
        ids["prefix"] = arranged["decoder_input_ids"]
    leaves = _Leaves(ids, baseline == "average", constants=stock or family.learned)
    with explanation_mode(model), frozen(model), named_outputs(inner.config):
        with leaves.cut(inner, family):
            found = called(**arranged)
        _check_found(leaves, inner)
        if output is not None:
            logits, probabilities = _output_of(output, found, len(input_ids)), None
        else:
            logits, probabilities = _read_logits(found, arranged.get("attention_mask"))
        if at is not None:
            logits = logits[torch.arange(len(logits)), place.to(logits.device)]
        elif shift is not None and logits.dim() == 3 and "prefix" not in ids:
            logits = _roll(logits, shift)
            probabilities = None if probabilities is None else _roll(probabilities, shift)
        independent = inner.config.problem_type == "multi_label_classification"
        together = None
        if span is not None or (isinstance(target, str) and target == _ANSWER):
            together = _join(logits, probabilities, attention_mask, span, among, independent)
        if together is not None and answers:
            chosen = _AnswerChoice(together)
        elif together is not None:
            chosen = _Choice(together.logits, None, False, target, foil, None, together.probabilities)
        else:
            predicts = (causal and not tagged) or "prefix" in ids  # its next token; labels are of any
            mask = inputs.get("decoder_attention_mask") if "prefix" in ids else attention_mask
            chosen = _Choice(logits, mask, predicts, target, foil, position, probabilities, independent, at, among)
        reads = leaves.read_all(chosen.values())
    if "decoder_input_ids" not in inputs and leaves.reads_twice():
        for read in reads:
            read.join_stages()
    result = _result(chosen, reads, split, shift, together, stock, family.note)
    _warn_of_residual(inner, result.scores, result.logit, result.residual)
    return result


def _check_prefix(family: Family, model: PreTrainedModel, inputs: dict, input_ids: Tensor) -> None:
    """Raises `ValueError` where an encoder-decoder lacks the answer so far, or another model is given one."""
    given = inputs.get("decoder_input_ids")
    if family.seq2seq and ((given is None and needs_prefix(model)) or "encoder_outputs" in inputs):
        raise ValueError(
            f"{type(model).__name__} is an encoder-decoder: pass input_ids, the source, and decoder_input_ids, the "
            "answer so far, whose next token is explained; encoder_outputs are computed from input_ids."
        )
    if given is not None and (not isinstance(given, Tensor) or given.dim() != 2 or len(given) != len(input_ids)):
        raise ValueError(f"decoder_input_ids must be a tensor, (batch, prefix) with {len(input_ids)} rows.")


def _check_found(leaves: _Leaves, model: PreTrainedModel) -> None:
    """Raises `ValueError` for a model in which nothing was looked up for the token ids."""
    if not leaves.found:
        raise ValueError(
            f"no input of {type(model).__name__} was found: none of the parts that its family names was called, "
            f"{dict(family_of(model).parts)}."
        )


def _output_of(output: Callable, found, batch: int) -> Tensor:
    """What `output` gives, as logits."""
    value = output(found)
    if not isinstance(value, Tensor) or value.shape[:1] != (batch,) or value.dim() > 2 or not value.requires_grad:
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(
            f"output must be a function of the model's output that gives a tensor of {batch} numbers, (batch,) or "
            f"(batch, targets), computed from it; got {got}."
        )
    return value.unsqueeze(1) if value.dim() == 1 else value
