"""Gated MLPs, `down(act(gate(x)) · up(x))`: how `BcosConfig.gates` shares the product between its factors."""

import copy

import pytest
import torch
from helpers import tiny
from transformers import AutoModelForCausalLM

from bcos_peft import BcosConfig, attribute, get_bcos_model


DECODERS = ["llama", "qwen3", "gemma2", "phi3", "mixtral", "qwen3_moe"]
GATED = [*((family, "CausalLM") for family in DECODERS), ("modernbert", "MaskedLM")]


def explain(stock, **config):
    model = get_bcos_model(copy.deepcopy(stock), BcosConfig(b=1.5, **config))
    return attribute(model, **tiny.inputs(family=stock.config.model_type.removesuffix("_text")), target=11)


@pytest.mark.parametrize(("family", "task"), GATED)
def test_both_are_exact_and_differ(family, task):
    stock = tiny.model(family, task, dtype=torch.float64)
    split, held = explain(stock), explain(stock, gates="hold")
    torch.testing.assert_close(split.logits, held.logits, atol=0, rtol=0)
    for result in (split, held):
        assert result.residual.abs().max() < 1e-10
    assert (split.scores - held.scores).abs().max() > 1e-5 * held.scores.abs().max()


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_split_is_the_shapley_value_of_the_product(family):
    """The mean over both orders of holding one factor: so it is for a model with one product in it."""
    stock = tiny.model(family, "CausalLM", dtype=torch.float64, num_hidden_layers=1, layer_types=None)
    by_up = explain(stock, gates="hold")
    model = get_bcos_model(copy.deepcopy(stock), BcosConfig(b=1.5))
    for layer in model.model.layers:  # the other factor held
        layer.mlp.up_proj.register_forward_hook(lambda module, args, output: output.detach())
    by_gate = attribute(model, **tiny.inputs(family=stock.config.model_type), target=11)
    torch.testing.assert_close(explain(stock).scores, (by_up.scores + by_gate.scores) / 2, atol=1e-12, rtol=1e-9)


def test_a_gate_that_is_open_at_zero_is_held():
    stock = tiny.model("llama", "CausalLM", dtype=torch.float64, hidden_act="sigmoid")
    split, held = explain(stock), explain(stock, gates="hold")
    assert split.residual.abs().max() < 1e-10
    torch.testing.assert_close(split.scores, held.scores, atol=0, rtol=0)


def test_it_is_saved(tmp_path):
    stock = tiny.model("llama", "CausalLM")
    model = get_bcos_model(stock, BcosConfig(gates="hold"))
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.bcos_config.gates == "hold"
    inputs = tiny.inputs(family="llama")
    expected = attribute(model, **inputs, target=11).scores
    torch.testing.assert_close(attribute(loaded, **inputs, target=11).scores, expected, atol=0, rtol=0)


def test_bad_values_are_refused():
    with pytest.raises(ValueError, match="gates must be 'split' or 'hold', got 'up'"):
        BcosConfig(gates="up")
