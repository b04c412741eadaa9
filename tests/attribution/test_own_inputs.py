"""Inputs that are no token, and operations that cannot be explained."""

import copy

import pytest
import torch
from helpers import trials
from transformers import GraniteConfig, GraniteForCausalLM
from transformers.models.granite import modeling_granite

from bcos_peft import BcosConfig, attribute, get_bcos_model
from bcos_peft.operations import UnknownOperation


pytestmark = pytest.mark.newest


@pytest.mark.parametrize("model_type", ["cpmant", "pegasus_x"])
def test_learned_inputs_are_a_named_third_term(model_type):
    """Prompts of CPM-Ant, global tokens of Pegasus-X."""
    model = trials.converted(model_type, torch.float64)
    found = attribute(model, **trials.inputs_of(model))
    prefix = 0 if found.prefix_scores is None else found.prefix_scores.sum(-1)
    assert found.constants.abs().item() > 1e-6
    assert all(found.constant_parts), "each has a name"
    torch.testing.assert_close(sum(found.constant_parts.values()), found.constants)
    torch.testing.assert_close(found.scores.sum(-1) + prefix + found.constants, found.logit, rtol=1e-8, atol=1e-9)


class _Odd(modeling_granite.GraniteMLP):
    def forward(self, x):
        return super().forward(x) + torch.special.bessel_j1(x.detach()) * torch.lgamma(x.abs() + 1.5)


@pytest.mark.parametrize("converting", [True, False])
def test_an_operation_without_a_rule_is_named_with_its_line(converting):
    small = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2}
    model = GraniteForCausalLM(GraniteConfig(vocab_size=50, num_hidden_layers=1, **small)).eval()
    model.model.layers[0].mlp.__class__ = _Odd
    before = copy.deepcopy(model.state_dict())
    classes = [type(module) for module in model.modules()]
    ids = torch.tensor([[5, 6, 7]])
    call = (lambda: get_bcos_model(model, BcosConfig(b=1.5))) if converting else (lambda: attribute(model, ids))
    with pytest.raises(UnknownOperation, match=r"'lgamma', called at test_own_inputs.py:\d+.*add_rule"):
        call()
    assert [type(module) for module in model.modules()] == classes
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
