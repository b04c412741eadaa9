"""Models with a B-cos adapter, `peft.get_peft_model(model, BcosConfig(...))`, that has learnt something."""

import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from bcos_peft import BcosConfig
from helpers import tiny
from helpers.adapters import task_of


def task_type(family):
    return "CAUSAL_LM" if family in tiny.DECODERS else "SEQ_CLS"


def stock(family="bert", **changes):
    return tiny.model(family, task_of(family), **changes).eval()


def learnt(model, seed=0):
    """Other values for everything that is trained."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator).to(parameter))
    return model.eval()


def made(model, family="bert", seed=0, **config):
    return learnt(get_peft_model(model, BcosConfig(**{"b": 1.5, "task_type": task_type(family)} | config)), seed)


def from_disk(folder, family="bert", **changes):
    """A plain checkpoint, which is made once, and the model loaded from it."""
    if not folder.exists():
        stock(family, **changes).save_pretrained(folder)
    auto = AutoModelForCausalLM if family in tiny.DECODERS else AutoModelForSequenceClassification
    return auto.from_pretrained(folder).eval()


def state(model):
    """What a model is made of: classes, attributes, values, what is trained."""
    modules = {name: (type(module), sorted(vars(module))) for name, module in model.named_modules()}
    weights = {name: (one.dtype, one.tolist(), one.requires_grad) for name, one in model.named_parameters()}
    return modules, weights, [name for name, _ in model.named_parameters()], type(model.config).__name__
