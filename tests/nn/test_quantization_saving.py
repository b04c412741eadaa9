"""Saving, loading and calibrating quantised B-cos models, and what travels with an adapter."""

import functools

import pytest
import torch
from helpers import tiny
from helpers.adapters import adapted, distance, logits, residual
from helpers.quantised import WIDTHS, both, checkpoint, layers, quantisation, quantised
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import bcos_peft
from bcos_peft import BcosConfig, get_bcos_model


pytestmark = pytest.mark.newest  # bitsandbytes is not among the oldest dependencies


@both
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_loading_a_saved_b_cos_model_quantised(tmp_path, bits, family):
    """The same as quantising the plain model and converting it."""
    folder = checkpoint(tmp_path / "base", family)
    get_bcos_model(
        AutoModelForCausalLM.from_pretrained(folder),
        BcosConfig(b=1.5, b_pattern={"c_proj": 2.0} if family == "gpt2" else {}),
    ).save_pretrained(tmp_path / "bcos")
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path / "bcos", quantization_config=quantisation(bits), dtype=torch.float32
    )
    other = quantised(folder, bits, b_pattern={"c_proj": 2.0} if family == "gpt2" else {})
    assert [(name, type(m), m.b) for name, m in layers(model).items() if not name.endswith("head")] == [
        (name, type(m), m.b) for name, m in layers(other).items() if not name.endswith("head")
    ]
    assert distance(logits(model, family), logits(other, family)) < 1e-6
    assert residual(model, family) < 1e-5


@both
def test_save_and_load(tmp_path, bits):
    model = quantised(checkpoint(tmp_path / "base"), bits)
    gained = model.model.layers[0].mlp.up_proj
    before = logits(model)
    gained.scale_rows(torch.linspace(0.5, 2, gained.out_features))
    after = logits(model)
    assert distance(after, before) > 0.01
    assert residual(model) < 1e-5
    model.save_pretrained(tmp_path / "bcos")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "bcos")
    assert distance(logits(again), after) < 1e-6
    assert residual(again) < 1e-5
    assert again.model.layers[1].mlp.up_proj.__dict__.get("gain") is None


@both
def test_a_head_that_was_quantised_is_loaded_so(tmp_path, bits):
    """transformers quantises BERT's classifier, which has a bias, and would not quantise it without."""
    tiny.model("bert", **WIDTHS).save_pretrained(tmp_path / "base")
    load = AutoModelForSequenceClassification.from_pretrained
    model = load(tmp_path / "base", quantization_config=quantisation(bits), dtype=torch.float32)
    model = get_bcos_model(model, BcosConfig(b=1.5))
    assert hasattr(model.classifier, "dequantized")
    model.save_pretrained(tmp_path / "bcos")
    assert distance(logits(load(tmp_path / "bcos"), "bert"), logits(model, "bert")) < 1e-6


@both
def test_an_adapter_travels_with_the_quantisation_of_its_base(tmp_path, bits, caplog):
    model = adapted(quantised(checkpoint(tmp_path / "base"), bits), task_type="CAUSAL_LM")
    model.get_base_model().model.layers[0].mlp.up_proj.get_base_layer().scale_rows(torch.linspace(0.5, 2, 128))
    before = logits(model)
    model.save_pretrained(tmp_path / "adapter")
    assert (tmp_path / "adapter" / "bcos_weights.safetensors").exists()
    loaded = bcos_peft.load(tmp_path / "adapter")
    assert distance(logits(loaded), before) < 1e-5
    with pytest.raises(ValueError, match="trained on a quantised base with calibrated rows"):
        bcos_peft.load(tmp_path / "adapter", quantization_config=None)


def test_an_adapter_of_a_float_base_on_a_quantised_one(tmp_path, caplog):
    model = get_bcos_model(AutoModelForCausalLM.from_pretrained(checkpoint(tmp_path / "base")), BcosConfig(b=1.5))
    adapted(model, task_type="CAUSAL_LM").save_pretrained(tmp_path / "adapter")
    loaded = bcos_peft.load(tmp_path / "adapter", quantization_config=quantisation("4 bits"))
    assert "float32, quantised, where it was float32" in caplog.text
    assert residual(loaded) < 1e-5


@both
def test_calibration_makes_gains(tmp_path, bits):
    """The quantised weights stay; the predictions come closer to those of the stock model."""
    folder = checkpoint(tmp_path / "base")
    load = functools.partial(AutoModelForCausalLM.from_pretrained, folder, dtype=torch.float32)
    stock, plain = load(quantization_config=quantisation(bits)), quantised(folder, bits)
    texts = torch.randint(10, tiny.VOCAB_SIZE, (40, 16), generator=torch.Generator().manual_seed(1)).tolist()
    config = BcosConfig(b=1.5, calibration_replay=0)
    model = get_bcos_model(
        load(quantization_config=quantisation(bits)), config, calibration_data=texts, progress=False
    )
    before = {name: module.dequantized() for name, module in layers(plain).items() if hasattr(module, "dequantized")}
    for name, weight in before.items():
        assert torch.equal(model.get_submodule(name).dequantized(), weight), name
    gained = [name for name, module in layers(model).items() if getattr(module, "gain", None) is not None]
    assert len(gained) == 8
    exact = logits(stock)
    assert (logits(model) - exact).norm() < 0.9 * (logits(plain) - exact).norm()
    assert residual(model) < 1e-5
    model = adapted(model, task_type="CAUSAL_LM")
    after = logits(model)
    model.save_pretrained(tmp_path / "adapter")
    assert distance(logits(bcos_peft.load(tmp_path / "adapter")), after) < 1e-5


def test_a_calibration_that_fails_leaves_no_gains(tmp_path, monkeypatch):
    from bcos_peft import convert

    options = {"quantization_config": quantisation("4 bits"), "dtype": torch.float32}
    model, other = (AutoModelForCausalLM.from_pretrained(folder, **options) for folder in [checkpoint(tmp_path)] * 2)
    names = set(model.state_dict())
    monkeypatch.setattr(convert, "certify", lambda model: 1 / 0)
    texts = torch.randint(10, tiny.VOCAB_SIZE, (20, 8), generator=torch.Generator().manual_seed(1)).tolist()
    with pytest.raises(ZeroDivisionError):
        get_bcos_model(model, BcosConfig(b=1.5, calibration_replay=0), calibration_data=texts, progress=False)
    assert set(model.state_dict()) == names
    assert distance(logits(model), logits(other)) < 1e-6
