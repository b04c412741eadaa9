"""The certificate on a short probe: do the contributions of a converted model sum to its logits?"""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch

from bcos_peft.attribution.checks import _padding_token, max_tokens
from bcos_peft.attribution.contributions import attribute
from bcos_peft.attribution.leaves import _Leaves
from bcos_peft.attribution.linear_map import frozen, named_outputs
from bcos_peft.attribution.mode import explanation_mode
from bcos_peft.attribution.result import Attribution
from bcos_peft.attribution.rounding import ResidualWarning, _tolerance
from bcos_peft.discovery import is_headless, needs_prefix, ordinary_ids, outputs_of, vocabulary_of
from bcos_peft.models import BcosModel, family_of
from bcos_peft.nn import precision_of


def certify(model: BcosModel) -> float:
    """Explain a short probe, and refuse a model whose contributions do not sum to its logits.

    Args:
        model ([`BcosModel`]): a converted model; it may be on any device and in any precision.

    Returns:
        `float`: the residual as a share of the contributions, zero to rounding.

    Raises:
        ValueError: the contributions miss the logit, or the logits are not finite.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> from bcos_peft import BcosConfig, get_bcos_model
        >>> from bcos_peft.attribution import certify
        >>> config = BertConfig(num_hidden_layers=1, hidden_size=16, num_attention_heads=2, intermediate_size=32)
        >>> certify(get_bcos_model(BertForSequenceClassification(config), BcosConfig())) < 1e-4
        True

    Source: completeness, B-cos LM (arXiv 2502.12992), section 3.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResidualWarning)  # it is an error here
        residual = _probe_residual(model)
    precision = precision_of(model)
    limit = _tolerance(precision)
    if not math.isfinite(residual):
        raise ValueError(
            f"The converted {type(model).__name__} gives no finite logits on a probe in {precision}: a weight is "
            "not finite, or activations overflow (then convert it in torch.bfloat16 or torch.float32). The model was "
            "put back as it was."
        )
    if residual > limit:
        raise ValueError(
            f"The converted {type(model).__name__} is not linear in its input: on a probe the contributions miss "
            f"the logit by {residual:.2g} of their sum (allowed: {limit:.0e} in {precision}). {_suspect(model)} The "
            "model was put back as it was. See 'Troubleshooting' in the docs."
        )
    return residual


def certify_adapter(model: BcosModel, adapter: str) -> float:
    """Explain a short probe with an adapter, and refuse one with which contributions do not sum to the logits.

    Args:
        model ([`BcosModel`]): with the adapter active. One that is as it was made often does nothing yet, and so
            proves nothing: its numbers should be others for the time being.
        adapter (`str`): what to call it in the error.

    Returns:
        `float`: the residual as a share of the contributions, zero to rounding.

    Raises:
        ValueError: the contributions miss the logit.
        RuntimeError: the model cannot be explained as it is.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> from bcos_peft import BcosConfig, get_bcos_model
        >>> from bcos_peft.attribution import certify_adapter
        >>> config = BertConfig(num_hidden_layers=1, hidden_size=16, num_attention_heads=2, intermediate_size=32)
        >>> certify_adapter(get_bcos_model(BertForSequenceClassification(config), BcosConfig()), "LORA") < 1e-4
        True

    Source: completeness, B-cos LM (arXiv 2502.12992), section 3.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResidualWarning)  # it is an error here
        try:
            residual = _relative_residual(attribute(model, **_probe(model)))
        except Exception as error:
            raise RuntimeError(f"The probe cannot be explained: {error}") from error
    precision = precision_of(model)
    limit = max(map(_tolerance, (precision, torch.float32)))  # many adapters compute in float32 in any model
    if residual > limit:
        raise ValueError(
            f"{adapter} is not linear in its input where it was put on this {type(model).__name__}, or has a wrong "
            f"gradient: on a probe, with other numbers in the adapter, contributions miss the logit by {residual:.2g} "
            f"of their sum (allowed: {limit:.0e} in {precision}). The model was not changed. Use "
            "peft.LoraConfig, or other target_modules."
        )
    return residual


def _suspect(model: BcosModel) -> str:
    """What may be wrong: code whose operations cannot be seen, or a part of the input that was not."""
    inputs = _probe(model)
    inputs.pop("output", None)
    leaves = _Leaves({"source": inputs["input_ids"]})
    with explanation_mode(model), frozen(model), named_outputs(model.config), leaves.cut(model, model.bcos_family):
        waiting = [y.grad_fn for y in outputs_of(model(**inputs))]
    seen, opaque = set(), set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        waiting += [before for before, _ in node.next_functions]
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            function = node._forward_cls
            if not function.__module__.startswith(("bcos_peft.", "torch.", "bitsandbytes.")):
                opaque.add(f"{function.__module__}.{function.__qualname__}")
    if opaque:
        names = ", ".join(sorted(opaque))
        return (
            f"It calls {names}: an autograd.Function, whose operations cannot be seen. Call what it computes instead."
        )
    return "It runs a kernel whose operations cannot be seen, or reads an input that its family does not name."


def _probe_residual(model: BcosModel) -> float:
    """The largest `|logit − Σ contributions| / Σ |contributions|` over two short rows, one of them padded, with the
    input as a whole and split into its parts.

    Args:
        model: a converted model; it may be on any device and in any precision.

    Returns:
        `float`: zero to rounding when the model is dynamic-linear.
    """
    inputs = _probe(model)
    try:
        found = max(_relative_residual(attribute(model, **inputs, split=s)) for s in (False, True))
        if math.isfinite(found):
            return found
    except RuntimeError:
        pass
    # Some stock models cannot read a padded batch at all, or give what is no number.
    alone = {name: value[:1] if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}
    del alone["attention_mask"]
    return max(_relative_residual(attribute(model, **alone, split=s)) for s in (False, True))


def _probe(model: BcosModel) -> dict[str, Any]:
    """What the certificate explains of a model: of one without a head its hidden states, in some direction."""
    inputs: dict[str, Any] = probe_inputs(model)
    if is_headless(model):
        inputs["output"] = _some_direction
    return inputs


def _some_direction(output) -> torch.Tensor:
    states = outputs_of(output)[0]
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(states.shape[1:], generator=generator).to(states)
    return (states * direction).flatten(1).sum(1)


def probe_inputs(model: BcosModel) -> dict[str, torch.Tensor]:
    """Token ids and attention mask, `(2, 8)` each, that suit any model, as a forward pass takes them.

    There is one row for a model without padding. Encoder-decoders that write get `decoder_input_ids`, `(2, 4)`, too.
    """
    family = family_of(model)
    vocabulary, block = vocabulary_of(model), family.block
    known, length = _padding_token(model), max(block, min(8, max_tokens(model) or 8))
    padding = known or 0
    ids = ordinary_ids(model, 2 * length)
    ids[ids == padding] = (padding + 1) % vocabulary
    ids, mask = ids.view(2, length), torch.ones(2, length, dtype=torch.long)
    ids[1, length - 2 :], mask[1, length - 2 :] = padding, 0
    if known is None:  # classifiers refuse a batch then
        ids, mask = ids[:1], mask[:1]
    inputs = {"input_ids": ids, "attention_mask": mask}
    if family.seq2seq and needs_prefix(model):
        start = getattr(model.config, "decoder_start_token_id", None)
        inputs["decoder_input_ids"] = ids[:, :4].flip(1)
        inputs["decoder_input_ids"][:, 0] = start if isinstance(start, int) else 0
    end = getattr(model.config, "eos_token_id", None)
    if family.seq2seq and isinstance(end, int):  # classifiers read the end of a text
        ids[torch.arange(len(ids)), mask.sum(-1) - 1] = end
    device = "cpu" if model.device.type == "meta" else model.device  # offloaded: the hooks move what they are given
    return {name: value.to(device) for name, value in inputs.items()}


def _relative_residual(result: Attribution) -> float:
    scale = result.scores.abs().sum(-1).clamp_min(torch.finfo(result.scores.dtype).tiny)
    if result.prefix_scores is not None:
        scale = scale + result.prefix_scores.abs().sum(-1)
    return float((result.residual.abs() / scale).max())
