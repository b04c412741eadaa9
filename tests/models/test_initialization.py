"""Weights that a checkpoint lacks: those of the stock class, number for number."""

import pytest
import torch
from helpers import tiny
from helpers.adapters import task_of
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoModelForTokenClassification
from transformers.models.llama import modeling_llama

from bcos_peft import BcosConfig, get_bcos_model
from bcos_peft.models.apply import _swap
from bcos_peft.nn import BcosLinear, BcosNorm, rms_norm


LOADERS = {"CausalLM": AutoModelForCausalLM, "SequenceClassification": AutoModelForSequenceClassification}


def lose(folder, *kept):
    """Take all weights out of a checkpoint whose names do not have one of these in them."""
    path = folder / "model.safetensors"
    weights = {name: value for name, value in load_file(path).items() if any(part in name for part in kept)}
    save_file(weights, path, {"format": "pt"})
    return folder


def loaded(folder, task, **options):
    torch.manual_seed(0)
    return LOADERS[task].from_pretrained(folder, **options)


@pytest.mark.parametrize("family", tiny.FAMILIES + tiny.DECODERS)
def test_every_weight_is_that_of_the_stock_class(tmp_path, family):
    task = task_of(family)
    tiny.model(family, task).save_pretrained(tmp_path / "stock")
    get_bcos_model(tiny.model(family, task), BcosConfig()).save_pretrained(tmp_path / "bcos")
    stock, bcos = (loaded(lose(tmp_path / name, "embed", "wte"), task) for name in ("stock", "bcos"))
    expected = dict(stock.named_parameters())
    for name, parameter in bcos.named_parameters():
        torch.testing.assert_close(parameter, expected[name], rtol=0, atol=0, msg=name)


def test_classes_are_those_of_before(tmp_path):
    model = get_bcos_model(tiny.model("deberta"), BcosConfig())
    model.save_pretrained(tmp_path)
    again = loaded(lose(tmp_path, "embed"), "SequenceClassification")
    assert {name: type(module) for name, module in again.named_modules()} == {
        name: type(module) for name, module in model.named_modules()
    }
    assert {name for name, _ in again.named_parameters()} == {name for name, _ in model.named_parameters()}


class Scaled(BcosNorm, nn.Module):
    """A norm of somebody's table, whose name says nothing."""

    def forward(self, x):
        return rms_norm(x, self.weight, self.variance_epsilon, hold_scale=self.explaining)


def test_the_norm_of_a_table_of_ones_own():
    norm = modeling_llama.LlamaRMSNorm(4)
    norm.weight.data.fill_(float("nan"))
    _swap(norm, Scaled, None, BcosConfig())
    get_bcos_model(tiny.model("llama", "CausalLM"), BcosConfig())._init_weights(norm)
    assert isinstance(norm, Scaled)
    assert torch.equal(norm.weight, torch.ones(4))


def test_new_heads_and_gains(tmp_path):
    """A head of another size, with a gain, of which the checkpoint has another number; gains in memory stay."""
    model = get_bcos_model(tiny.model("bert"), BcosConfig())
    for layer in (model.classifier, model.bert.encoder.layer[0].output.dense):
        layer.add_gain()
        layer.gain.weight.data.fill_(3.0)
    model.init_weights()
    assert model.classifier.gain.weight.tolist() == [3.0] * 3
    model.save_pretrained(tmp_path)
    again = AutoModelForTokenClassification.from_pretrained(tmp_path, num_labels=7, ignore_mismatched_sizes=True)
    assert isinstance(again.classifier, BcosLinear)
    assert torch.equal(again.classifier.gain.weight, torch.ones(7))
    assert torch.equal(again.bert.encoder.layer[0].output.dense.gain.weight, torch.full((32,), 3.0))
    assert 0.1 < float(again.classifier.weight.detach().std()) < 0.3
