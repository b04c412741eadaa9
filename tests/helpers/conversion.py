"""What a conversion changes of a model, and that a refusal changes nothing."""

import copy

import pytest
import torch

from bcos_peft import get_bcos_model
from helpers import tiny


every_family = pytest.mark.parametrize("family", tiny.FAMILIES)


def snapshot(model):
    """Everything that a conversion could change, objects by identity."""
    return {
        "weights": {name: value.clone() for name, value in model.state_dict().items()},
        "parameters": [(name, id(p), p.requires_grad) for name, p in model.named_parameters(remove_duplicate=False)],
        "modules": [
            (name, id(module), type(module), module.training, sorted(vars(module)), list(module._forward_hooks))
            for name, module in model.named_modules()
        ],
        "forwards": {name: id(vars(module).get("forward")) for name, module in model.named_modules()},
        "config": (id(model.config), type(model.config), copy.deepcopy(model.config.to_dict())),
        "owners": [id(module.config) for module in model.modules() if "config" in vars(module)],
        "tied": dict(model.all_tied_weights_keys),
        "gradients": [p.grad for p in model.parameters()],
    }


def assert_same(model, before):
    after = snapshot(model)
    weights = before.pop("weights"), after.pop("weights")
    assert list(weights[0]) == list(weights[1])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    for key, value in before.items():
        assert after[key] == value, key


def run(model, family="bert", **changes):
    with torch.no_grad():
        return model(**(tiny.inputs(3, 9, "right", family) | changes))


def assert_refused(model, config=None, match=None, error=ValueError, **arguments):
    before = snapshot(model)
    with pytest.raises(error, match=match):
        get_bcos_model(model, config, **arguments)
    assert_same(model, before)
