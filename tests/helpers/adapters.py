"""Models with LoRA inside, and how far their logits are apart."""

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer

from bcos_peft import BcosConfig, attribute, get_bcos_model
from helpers import tiny


def task_of(family):
    return "CausalLM" if family in tiny.DECODERS else "SequenceClassification"


def converted(family="llama", dtype=torch.float32, b=1.5, **options):
    return get_bcos_model(tiny.model(family, task_of(family), dtype=dtype), BcosConfig(b=b, **options))


def randomize(model, seed=0):
    """Adapters that do something: B is zero to begin with."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter)
    return model


def adapted(model, seed=0, **options):
    config = LoraConfig(**({"r": 4, "target_modules": "all-linear"} | options))
    return randomize(get_peft_model(model, config), seed).eval()


@torch.no_grad()
def logits(model, family="llama"):
    return model(**tiny.inputs(family=family)).logits


def distance(found, expected):
    return float(((found - expected).abs().max() / expected.abs().max()).detach())


def residual(model, family="llama"):
    result = attribute(model, **tiny.inputs(family=family), split=True)
    return float((result.residual.abs() / result.scores.abs().sum(-1)).max())


def layer_types(model):
    return {name: type(module) for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)}
