"""Adapters that travel alone: what is written, what loads it again, and what is said when that cannot be."""

import json
import logging
import shutil

import peft
import pytest
import torch
from helpers import tiny
from helpers.adapters import adapted, distance, logits, randomize, residual
from helpers.launching import start
from peft import AutoPeftModelForCausalLM, AutoPeftModelForSequenceClassification, LoraConfig, PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import bcos_peft
from bcos_peft import BcosConfig, get_bcos_model


def stock_base(folder, family="llama", task="CausalLM", **changes):
    """A plain checkpoint on disk, and the model loaded from it."""
    tiny.model(family, task, **changes).save_pretrained(folder)
    auto = AutoModelForCausalLM if task == "CausalLM" else AutoModelForSequenceClassification
    return auto.from_pretrained(folder)


def trained(tmp_path, b=1.5, **options):
    """An adapter on a model converted from the plain checkpoint `tmp_path/base`, saved in `tmp_path/adapter`."""
    model = get_bcos_model(stock_base(tmp_path / "base"), BcosConfig(b=b))
    model = adapted(model, task_type="CAUSAL_LM", **options)
    model.save_pretrained(tmp_path / "adapter")
    return model, logits(model)


def adapter_config(tmp_path):
    return json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())


def test_what_is_written(tmp_path):
    model, _ = trained(tmp_path)
    assert {path.name for path in (tmp_path / "adapter").iterdir()} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert all("lora_" in name for name in load_file(tmp_path / "adapter" / "adapter_model.safetensors"))
    config = adapter_config(tmp_path)
    assert config["peft_type"] == "BCOS_LORA"
    assert config["base_model_name_or_path"] == str(tmp_path / "base")
    assert config["bcos"]["config"]["b"] == 1.5
    assert config["bcos"]["architecture"] == "LlamaForCausalLM"
    assert config["bcos"]["missing"] is None
    card = (tmp_path / "adapter" / "README.md").read_text()
    assert "bcos_peft.load(" in card
    assert "- bcos\n" in card
    model.save_pretrained(tmp_path / "adapter")
    assert (tmp_path / "adapter" / "README.md").read_text().count("bcos_peft.load(") == 1


@pytest.mark.parametrize("load", [bcos_peft.load, AutoPeftModelForCausalLM.from_pretrained])
def test_the_same_logits_as_before_saving(tmp_path, load):
    _, before = trained(tmp_path)
    model = load(tmp_path / "adapter")
    assert isinstance(model, PeftModel)
    assert type(model.get_base_model()).__name__ == "BcosLlamaForCausalLM"
    assert distance(logits(model), before) < 1e-6
    assert residual(model) < 1e-5
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_to_go_on_training(tmp_path):
    trained(tmp_path)
    model = bcos_peft.load(tmp_path / "adapter", is_trainable=True)
    assert model.training
    assert all(("lora_" in name) == parameter.requires_grad for name, parameter in model.named_parameters())


def test_a_classifier_with_labels_of_its_own(tmp_path):
    names = {"id2label": {0: "bad", 1: "fair", 2: "good"}, "label2id": {"bad": 0, "fair": 1, "good": 2}}
    tiny.model("bert").bert.save_pretrained(tmp_path / "base")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=3, **names)
    model = adapted(get_bcos_model(model, BcosConfig(b=1.25)), task_type="SEQ_CLS")
    before = logits(model, "bert")
    model.save_pretrained(tmp_path / "adapter")
    for load in (bcos_peft.load, AutoPeftModelForSequenceClassification.from_pretrained):
        loaded = load(tmp_path / "adapter")
        assert distance(logits(loaded, "bert"), before) < 1e-5
        assert loaded.get_base_model().config.id2label == names["id2label"]


def test_norms_that_were_trained(tmp_path):
    model = get_bcos_model(stock_base(tmp_path / "base"), BcosConfig())
    model = adapted(model, task_type="CAUSAL_LM", modules_to_save=["norm", "input_layernorm"])
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "norm" in name:
            parameter.data += 0.3
    before = logits(model)
    model.save_pretrained(tmp_path / "adapter")
    assert distance(logits(bcos_peft.load(tmp_path / "adapter")), before) < 1e-6


def test_onto_a_saved_b_cos_model(tmp_path):
    get_bcos_model(tiny.model("llama", "CausalLM"), BcosConfig(b=1.5)).save_pretrained(tmp_path / "bcos")
    model = adapted(AutoModelForCausalLM.from_pretrained(tmp_path / "bcos"), task_type="CAUSAL_LM")
    before = logits(model)
    model.save_pretrained(tmp_path / "adapter")
    for load in (bcos_peft.load, AutoPeftModelForCausalLM.from_pretrained):
        assert distance(logits(load(tmp_path / "adapter")), before) < 1e-6


def test_b_of_the_moment_of_saving(tmp_path):
    """A schedule raises B after the adapter was put on."""
    model = get_bcos_model(stock_base(tmp_path / "base"), BcosConfig(b=1.0))
    model = adapted(model, task_type="CAUSAL_LM")
    model.get_base_model().set_b(2.0)
    before = logits(model)
    model.save_pretrained(tmp_path / "adapter")
    loaded = bcos_peft.load(tmp_path / "adapter")
    assert loaded.get_base_model().bcos_config.b == 2.0
    assert distance(logits(loaded), before) < 1e-6


def test_several_adapters(tmp_path):
    model, _ = trained(tmp_path)
    model.add_adapter("other", LoraConfig(r=2, target_modules=["up_proj"], task_type="CAUSAL_LM"))
    randomize(model, seed=5)
    model.save_pretrained(tmp_path / "both")
    model.set_adapter("other")
    other = logits(model)
    loaded = bcos_peft.load(tmp_path / "both")
    loaded.load_adapter(tmp_path / "both" / "other", "other")
    loaded.set_adapter("other")
    assert distance(logits(loaded), other) < 1e-6


def test_in_another_precision(tmp_path):
    _, before = trained(tmp_path)
    model = bcos_peft.load(tmp_path / "adapter", dtype=torch.bfloat16)
    assert model.get_base_model().dtype == torch.bfloat16
    assert distance(logits(model).float(), before) < 0.1


def test_a_plain_base_is_an_error_everywhere(tmp_path):
    _, before = trained(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    stock = logits(plain)
    match = r"trained inside the layers of a B-cos model \(converted from .*B = 1\.5.*bcos_peft\.load"
    with pytest.raises(ValueError, match=match):
        PeftModel.from_pretrained(plain, tmp_path / "adapter")
    with pytest.raises(ValueError, match=match):
        plain.load_adapter(tmp_path / "adapter")
    with pytest.raises(ValueError, match=match):
        AutoModelForCausalLM.from_pretrained(tmp_path / "adapter")
    assert torch.equal(logits(plain), stock)
    assert distance(before, stock) > 0.05


def test_a_plain_base_is_an_error_without_the_package(tmp_path):
    trained(tmp_path)
    code = """
from peft import AutoPeftModelForCausalLM, PeftModel
from transformers import AutoModelForCausalLM
loads = [
    lambda: PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("base"), "adapter"),
    lambda: AutoPeftModelForCausalLM.from_pretrained("adapter"),
    lambda: AutoModelForCausalLM.from_pretrained("adapter"),
]
for load in loads:
    try:
        load()
        print("loaded")
    except Exception as error:
        print("BCOS_LORA" in repr(error))
"""
    run = start(["-c", code], cwd=tmp_path)
    assert run.stdout.split() == ["True"] * 3, run.stdout + run.stderr


def test_another_conversion_is_an_error(tmp_path):
    trained(tmp_path)
    other = get_bcos_model(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), BcosConfig(b=1.25))
    with pytest.raises(ValueError, match=r"another config: b=1\.5 \(here 1\.25\).*model\.set_b\(1\.5\)"):
        PeftModel.from_pretrained(other, tmp_path / "adapter")
    other.set_b(1.5)
    PeftModel.from_pretrained(other, tmp_path / "adapter")
    unit = get_bcos_model(
        AutoModelForCausalLM.from_pretrained(tmp_path / "base"), BcosConfig(b=1.5, normalize_weights=True)
    )
    with pytest.raises(ValueError, match="normalize_weights=False"):
        PeftModel.from_pretrained(unit, tmp_path / "adapter")


def test_another_checkpoint_is_an_error(tmp_path):
    """The base was replaced, or changed before the adapter was trained: the probe shows it."""
    _, before = trained(tmp_path)
    other = tiny.model("llama", "CausalLM", seed=1)
    with pytest.raises(
        ValueError, match=r"does not give the logits of before saving.*is converted now\. Load it anew"
    ):
        bcos_peft.load(tmp_path / "adapter", base=other)
    other = tiny.model("llama", "CausalLM", seed=1)
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match=r"Pass the right one: bcos_peft\.load\(path, base="):
        bcos_peft.load(tmp_path / "adapter", base=str(tmp_path / "other"))
    right = bcos_peft.load(tmp_path / "adapter", base=AutoModelForCausalLM.from_pretrained(tmp_path / "base"))
    assert distance(logits(right), before) < 1e-6


def test_a_new_head_that_was_not_saved_is_an_error(tmp_path):
    tiny.model("bert", "MaskedLM").save_pretrained(tmp_path / "base")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=3)
    model = adapted(get_bcos_model(model, BcosConfig()), target_modules=["dense"], exclude_modules=["classifier"])
    model.save_pretrained(tmp_path / "adapter")
    with pytest.raises(ValueError, match="new random weights"):
        bcos_peft.load(tmp_path / "adapter")


def test_in_another_precision_a_difference_is_a_warning(tmp_path, caplog):
    trained(tmp_path)
    with caplog.at_level(logging.WARNING, logger="bcos_peft"):
        bcos_peft.load(tmp_path / "adapter", base=tiny.model("llama", "CausalLM", seed=1).bfloat16())
    assert "Or it is the precision: bfloat16, where it was float32" in caplog.text


def test_a_base_without_a_name(tmp_path):
    model = adapted(get_bcos_model(tiny.model("llama", "CausalLM"), BcosConfig()), task_type="CAUSAL_LM")
    before = logits(model)
    model.save_pretrained(tmp_path / "adapter")
    with pytest.raises(ValueError, match="does not name its base model"):
        bcos_peft.load(tmp_path / "adapter")
    loaded = bcos_peft.load(tmp_path / "adapter", base=tiny.model("llama", "CausalLM"))
    assert distance(logits(loaded), before) < 1e-6


def test_a_calibrated_base(tmp_path, caplog):
    """Its weights are nowhere but in the model: saving says so, and loading too, until they are saved."""
    base = stock_base(tmp_path / "base")
    texts = torch.randint(10, tiny.VOCAB_SIZE, (20, 8), generator=torch.Generator().manual_seed(1)).tolist()
    model = get_bcos_model(base, BcosConfig(b=1.5, calibration_replay=0), calibration_data=texts, progress=False)
    model = adapted(model, task_type="CAUSAL_LM")
    before = logits(model)
    with caplog.at_level(logging.WARNING, logger="bcos_peft"):
        model.save_pretrained(tmp_path / "adapter")
    assert "it cannot be loaded alone. Calibration changed the weights" in caplog.text
    with pytest.raises(ValueError, match=r"cannot be loaded alone\. Calibration changed .*base=folder"):
        bcos_peft.load(tmp_path / "adapter")
    with pytest.raises(ValueError, match="does not give the logits of before saving"):
        bcos_peft.load(tmp_path / "adapter", base=str(tmp_path / "base"))
    model.unload().save_pretrained(tmp_path / "calibrated")
    loaded = bcos_peft.load(tmp_path / "adapter", base=str(tmp_path / "calibrated"))
    assert distance(logits(loaded), before) < 1e-6


def test_what_load_refuses(tmp_path):
    model, _ = trained(tmp_path)
    model.merge_and_unload().save_pretrained(tmp_path / "whole")
    with pytest.raises(ValueError, match="holds a whole model"):
        bcos_peft.load(tmp_path / "whole")
    plain = peft.get_peft_model(tiny.model("llama", "CausalLM"), LoraConfig(target_modules=["up_proj"]))
    plain.save_pretrained(tmp_path / "plain")
    with pytest.raises(ValueError, match="adapter of type LORA that was not trained on a B-cos model"):
        bcos_peft.load(tmp_path / "plain")
    with pytest.raises(ValueError, match="base is a GPT2LMHeadModel"):
        bcos_peft.load(tmp_path / "adapter", base=tiny.model("gpt2", "CausalLM"))
    with pytest.raises(ValueError, match="device_map would have no effect"):
        bcos_peft.load(tmp_path / "adapter", base=tiny.model("llama", "CausalLM"), device_map="cpu")
    shutil.rmtree(tmp_path / "base")
    with pytest.raises(OSError):  # transformers says what it looked for
        bcos_peft.load(tmp_path / "adapter")


def test_adapters_of_stock_models_are_as_they_were(tmp_path):
    model = peft.get_peft_model(
        stock_base(tmp_path / "base"), LoraConfig(target_modules=["up_proj"], task_type="CAUSAL_LM")
    )
    model.save_pretrained(tmp_path / "adapter")
    assert adapter_config(tmp_path)["peft_type"] == "LORA"
    assert "bcos" not in adapter_config(tmp_path)
    AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
    assert "bcos_peft" not in (tmp_path / "adapter" / "README.md").read_text()


def test_the_config_of_the_user_is_left_alone():
    config = LoraConfig(target_modules="all-linear")
    adapted(get_bcos_model(tiny.model("llama", "CausalLM"), BcosConfig()))
    peft.get_peft_model(get_bcos_model(tiny.model("llama", "CausalLM"), BcosConfig()), config)
    assert type(config) is LoraConfig
    assert config.target_modules == "all-linear"
    assert config._custom_modules is None


def test_the_adapters_of_transformers_say_what_they_are_on(tmp_path):
    model = get_bcos_model(stock_base(tmp_path / "base"), BcosConfig(b=1.0))
    model.add_adapter(LoraConfig(target_modules=["up_proj"], task_type="CAUSAL_LM"), "mine")
    randomize(model)
    model.set_b(1.5)
    before = logits(model.eval())
    model.save_pretrained(tmp_path / "adapter")
    assert adapter_config(tmp_path)["bcos"]["config"]["b"] == 1.5
    assert distance(logits(bcos_peft.load(tmp_path / "adapter")), before) < 1e-6
