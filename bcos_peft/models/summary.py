"""What a conversion made of a model, in a few lines."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from bcos_peft.models.plan import is_activation
from bcos_peft.nn import BcosLayer, BcosNorm, count_of


@dataclass(frozen=True)
class ConversionSummary:
    """What a converted model consists of. Printing it gives a readable overview.

    Args:
        architecture (`str`): the model's class.
        base_model (`str`, *optional*): what was converted.
        bcos_layers (`dict[float, int]`): the number of B-cos layers for each B.
        plain_layers (`int`): linear layers that stay plain: query, key, value, language-modelling heads.
        norms (`int`): norms whose statistics are held constant while explaining.
        activations (`int`): activations whose slopes are held constant.
        biases (`int`): bias tensors that the model still has.
        parameters (`int`): numbers in the weights; those of tied weights count once.
        trainable_parameters (`int`): of these, how many are trained.
        found (`dict`, *optional*): what was found out about an architecture without a table: `Family.to_dict()`.
        calibration (`dict`, *optional*): `BcosConfig.calibration_report`; `None` without calibration.
        probe_residual (`float`, *optional*): the certificate: the largest `|logit − Σ contributions|` on the probe of
            the conversion, as a share of `Σ |contributions|`; `None` if the conversion did not verify.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> from bcos_peft import BcosConfig, get_bcos_model
        >>> tiny = BertConfig(num_hidden_layers=1, hidden_size=16, num_attention_heads=2, intermediate_size=32)
        >>> model = get_bcos_model(BertForSequenceClassification(tiny), BcosConfig(b_pattern={"classifier": 2}))
        >>> model.bcos_summary()
        BcosBertForSequenceClassification
          B-cos layers  4 with B = 1.25, 1 with B = 2
          plain layers  3
          held linear   3 norms, 1 activation, and every operation that needs it
          biases        none
          parameters    498,960, of which 498,960 are trained (100 %)
          residual      ... of the contributions, on a probe
    """

    architecture: str
    base_model: str | None
    bcos_layers: dict[float, int]
    plain_layers: int
    norms: int
    activations: int
    biases: int
    parameters: int
    trainable_parameters: int
    probe_residual: float | None
    calibration: dict[str, Any] | None = None
    found: dict[str, Any] | None = None

    def __repr__(self) -> str:
        by_b = ", ".join(f"{count} with B = {b:g}" for b, count in sorted(self.bcos_layers.items()))
        share = 100 * self.trainable_parameters / max(1, self.parameters)
        if self.probe_residual is None:
            residual = "not measured (converted with verify=False)"
        else:
            residual = f"{self.probe_residual:.1e} of the contributions, on a probe"
        lines = {
            "B-cos layers": by_b or "none",
            "plain layers": str(self.plain_layers),
            "held linear": f"{_count(self.norms, 'norm')}, {_count(self.activations, 'activation')}, and every "
            "operation that needs it",
            "biases": str(self.biases) if self.biases else "none",
            "parameters": f"{self.parameters:,}, of which {self.trainable_parameters:,} are trained ({share:.3g} %)",
            "residual": residual,
        }
        if self.found is not None:
            lines["found"] = _found(self.found)
        if self.calibration is not None:
            lines["calibration"] = _told(self.calibration)
        base = f", converted from {self.base_model}" if self.base_model else ""
        return "\n".join([self.architecture + base, *(f"  {name:<12}  {text}" for name, text in lines.items())])


def _summarize(model: PreTrainedModel) -> ConversionSummary:
    """Count what a converted model consists of.

    Args:
        model ([`~transformers.PreTrainedModel`]): a converted model.

    Returns:
        [`ConversionSummary`]
    """
    layers: Counter[float] = Counter()
    plain = norms = activations = 0
    for name, module in model.named_modules():
        if ".lora_" in name or ".modules_to_save" in name:
            continue  # an adapter's own matrices are layers of no model, and its copy of a head is the head again
        if isinstance(module, BcosLayer) and module.b is not None:
            layers[module.b] += 1
        elif isinstance(module, (nn.Linear, Conv1D, BcosLayer)):
            plain += 1
        elif isinstance(module, BcosNorm):
            norms += 1
        elif is_activation(module):
            activations += 1
    parameters = dict(model.named_parameters())
    config = model.bcos_config
    return ConversionSummary(
        architecture=type(model).__name__,
        base_model=config.base_model_name_or_path,
        bcos_layers=dict(layers),
        plain_layers=plain,
        norms=norms,
        activations=activations,
        biases=sum(name.endswith("bias") for name in parameters),
        parameters=sum(map(count_of, parameters.values())),
        trainable_parameters=sum(count_of(p) for p in parameters.values() if p.requires_grad),
        probe_residual=config.probe_residual,
        calibration=config.calibration_report,
        found=config.family,
    )


def _found(family: dict[str, Any]) -> str:
    """What was found out, in a line: the parts of the input, and how many names of layers stay plain."""
    parts = f"input {', '.join(sorted(family['parts']))}; {_count(len(family.get('plain', ())), 'plain name')}"
    more = {"zeroed": "constants set to zero", "replacements": "classes replaced", "note": "experimental"}
    return "; ".join([parts, *(text for name, text in more.items() if family.get(name))])


def _told(report: dict[str, Any]) -> str:
    parts = [f"{report['texts']:,} texts, {report['tokens']:,} tokens; on texts held out: "]
    if "agreement" in report:
        parts.append(f"{100 * report['agreement']:.3g} % of the predictions are the original's")
    if "embedding_cosine" in report:
        parts.append(f"embeddings have a cosine of {report['embedding_cosine']:.4f} with the original's")
    elif "mean_difference" in report:
        parts.append(f"{report['mean_difference']:.3g} off the original's value")
    if "loss_before" in report:
        parts.append(f", loss {report['loss_before']:.3f} before, {report['loss_after']:.3f} after")
    return "".join(parts)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
