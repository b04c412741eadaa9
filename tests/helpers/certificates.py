"""Families, tasks and exponents, and the check that contributions sum to the logit."""

import pytest
import torch

from bcos_peft import BcosConfig, get_bcos_model
from bcos_peft.nn import DynamicLinear
from helpers import tiny


every_task = pytest.mark.parametrize("task", tiny.TASKS)


every_family = pytest.mark.parametrize("family", tiny.FAMILIES)


EXPONENTS = (1.0, 1.25, 2.0)


def converted(family="bert", task="SequenceClassification", dtype=torch.float64, seed=0, **config):
    config.setdefault("b", 1.25)
    return get_bcos_model(tiny.model(family, task, dtype, seed), BcosConfig(**config), verify=False)


def check(model, result, inputs):
    """The scores sum to the logit; where they cancel out tenfold, rounding counts against their size."""
    size = result.scores.abs().sum(-1)
    limit = 1e-10 if model.dtype == torch.float64 else 1e-4
    assert (result.residual.abs() <= limit * torch.maximum(result.logit.abs(), size / 10)).all()
    torch.testing.assert_close(result.scores.sum(-1) + result.residual, result.logit)
    assert (result.scores[inputs["attention_mask"] == 0] == 0).all()
    assert (size > 1e-6).all(), "not because everything is zero"


def outputs_of(task):
    """Two outputs to explain; the first ids of a vocabulary are padding, whose tied weights are zero."""
    return (76, 77) if task == "MaskedLM" else (0, 1)


def hooks(model):
    return {
        name: (list(module._forward_hooks), list(module._forward_pre_hooks)) for name, module in model.named_modules()
    }


def assert_unchanged(model, weights=None, training=False):
    assert all(module.training == training for module in model.modules())
    assert not any(module.explaining for module in model.modules() if isinstance(module, DynamicLinear))
    assert "_explaining" not in model.__dict__
    if weights is not None:
        found = model.state_dict()
        assert list(found) == list(weights)
        assert all(torch.equal(found[name], weights[name]) for name in weights)
