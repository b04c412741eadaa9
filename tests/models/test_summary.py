"""The summary of a conversion."""

import pytest
from helpers import tiny
from peft import LoraConfig, get_peft_model
from torch import nn

from bcos_peft import BcosConfig, get_bcos_model
from bcos_peft.nn import BcosLayer


@pytest.mark.parametrize("task", tiny.TASKS)
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_counts_cover_the_model(family, task):
    stock = tiny.model(family, task)
    linear = [name for name, module in stock.named_modules() if isinstance(module, nn.Linear)]
    norms = sum("LayerNorm" in type(module).__name__ for module in stock.modules())
    summary = get_bcos_model(stock, BcosConfig(b=1.5)).bcos_summary()
    assert summary.bcos_layers.keys() == {1.5}
    assert summary.bcos_layers[1.5] + summary.plain_layers == len(linear)
    assert summary.norms == norms > 0
    assert summary.activations >= 1
    assert summary.biases == 0
    assert 0 <= summary.probe_residual < 1e-4
    assert summary.architecture == type(stock).__name__


def test_layers_of_bert():
    model = get_bcos_model(tiny.model("bert"), BcosConfig(b=1.25, b_pattern={"classifier": 2.0}))
    summary = model.bcos_summary()
    assert summary.bcos_layers == {1.25: 7, 2.0: 1}  # 2 blocks of 3, the pooler; the classifier
    assert summary.plain_layers == 6
    assert sum(isinstance(module, BcosLayer) for module in model.modules()) == 8
    assert summary.parameters == summary.trainable_parameters == model.num_parameters()


def test_what_an_adapter_saves_is_counted_once():
    """The wrapper of a head keeps the original beside the adapter's copy."""
    model = get_bcos_model(tiny.model("bert"), BcosConfig())
    before = model.bcos_summary()
    config = LoraConfig(task_type="SEQ_CLS", target_modules=["intermediate.dense"], modules_to_save=["LayerNorm"])
    get_peft_model(model, config)
    after = model.bcos_summary()
    for count in ("bcos_layers", "plain_layers", "norms", "activations"):
        assert getattr(after, count) == getattr(before, count), count
    assert after.trainable_parameters > 3 * 32


def test_it_reads_well(capsys):
    model = tiny.model("bert")
    model.config._name_or_path = "google-bert/bert-base-uncased"
    model = get_bcos_model(model, BcosConfig(), verify=False)
    for parameter in model.bert.parameters():
        parameter.requires_grad_(False)
    text = repr(model.bcos_summary())
    assert text.splitlines()[0] == "BcosBertForSequenceClassification, converted from google-bert/bert-base-uncased"
    assert "8 with B = 1.25" in text
    assert "biases        none" in text
    assert f"of which {3 * 32} are trained" in text
    assert "not measured (converted with verify=False)" in text
    model.print_bcos_summary()
    assert capsys.readouterr().out == text + "\n"


def test_it_survives_saving(tmp_path):
    model = get_bcos_model(tiny.model("roberta", "MaskedLM"), BcosConfig())
    model.save_pretrained(tmp_path)
    assert type(model).from_pretrained(tmp_path).bcos_summary() == model.bcos_summary()
