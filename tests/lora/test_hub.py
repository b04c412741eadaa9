"""Adapters pushed to the hub and loaded back by name, with what was trained beside them; and `load_adapter` of
transformers, which checks what `bcos_peft.load` checks."""

import json

import pytest
import torch
from helpers import tiny
from helpers.adapters import adapted, distance, layer_types, logits, randomize
from helpers.fake_hub import FakeHub
from helpers.hub_process import run
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

import bcos_peft
from bcos_peft import BcosConfig, get_bcos_model, train_only


PUSH = """
import json, os, sys, torch
from helpers import tiny
import bcos_peft
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM
from bcos_peft import BcosConfig, get_bcos_model, train_only

def logits(model):
    with torch.no_grad():
        return model.eval()(**tiny.inputs(family="llama")).logits

def check(model):
    assert torch.allclose(logits(model), expected, atol=1e-5), (logits(model) - expected).abs().max()

def changed(model):
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    return model

# The plain base is on the hub.
tiny.model("llama", "CausalLM").push_to_hub("me/base")

def converted():
    return get_bcos_model(AutoModelForCausalLM.from_pretrained("me/base"), BcosConfig(b=1.5))

def adapted():
    return get_peft_model(converted(), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
"""


@pytest.fixture
def hub():
    with FakeHub() as fake:
        yield fake


@pytest.mark.slow
def test_pushed_by_peft(hub, tmp_path):
    code = (
        PUSH
        + """
model = adapted()
train_only(model, "lora", "gain_and_norms")
expected = logits(changed(model))
model.push_to_hub("me/adapter")
model.push_to_hub("me/adapter", revision="other")
check(bcos_peft.load("me/adapter"))
check(bcos_peft.load("me/adapter", revision="other"))
bare = converted()
check(PeftModel.from_pretrained(bare, "me/adapter"))
bare = converted()
bare.load_adapter("me/adapter")
check(bare)
"""
    )
    run(code, tmp_path, hub.environment(tmp_path / "home"))
    files = hub.repos["me/adapter"]["main"]
    assert {"adapter_config.json", "adapter_model.safetensors", "bcos_weights.safetensors", "README.md"} <= set(files)
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "me/base"
    card = files["README.md"].decode()
    assert 'bcos_peft.load("me/adapter")' in card
    assert "- bcos\n" in card
    assert "/tmp" not in card
    # Another process, with nothing but the names; then without a network, from its cache.
    again = "import bcos_peft\nprint(type(bcos_peft.load('me/adapter').get_base_model()).__name__)"
    environment = hub.environment(tmp_path / "home2")
    assert run(again, tmp_path, environment).split()[-1] == "BcosLlamaForCausalLM"
    assert run(again, tmp_path, environment | {"HF_HUB_OFFLINE": "1"}).split()[-1] == "BcosLlamaForCausalLM"


@pytest.mark.slow
def test_pushed_by_transformers(hub, tmp_path):
    code = (
        PUSH
        + """
model = converted()
model.add_adapter(LoraConfig(r=4, target_modules=["up_proj", "v_proj"], task_type="CAUSAL_LM"), "mine")
model.set_adapter("mine")
train_only(model, "lora", "norms")
expected = logits(changed(model))
model.push_to_hub("me/adapter")
check(bcos_peft.load("me/adapter"))
"""
    )
    run(code, tmp_path, hub.environment(tmp_path / "home"))
    files = hub.repos["me/adapter"]["main"]
    assert "model.safetensors" not in files
    assert json.loads(files["adapter_config.json"])["bcos"]["probe"]
    assert 'bcos_peft.load("me/adapter")' in files["README.md"].decode()


@pytest.mark.slow
def test_an_adapter_without_anything_beside_it(hub, tmp_path):
    code = (
        PUSH
        + """
model = adapted()
expected = logits(changed(model))
model.push_to_hub("me/adapter")
check(bcos_peft.load("me/adapter"))
"""
    )
    run(code, tmp_path, hub.environment(tmp_path / "home"))
    assert "bcos_weights.safetensors" not in hub.repos["me/adapter"]["main"]


@pytest.mark.slow
def test_what_lay_beside_an_earlier_adapter_goes(hub, tmp_path):
    code = (
        PUSH
        + """
model = adapted()
train_only(model, "lora", "gain")
changed(model).push_to_hub("me/adapter")
model = adapted()
expected = logits(changed(model))
print(model.push_to_hub("me/adapter", create_pr=True).pr_revision)
check(bcos_peft.load("me/adapter", revision="refs/pr/1"))
model.push_to_hub("me/adapter")
check(bcos_peft.load("me/adapter"))
"""
    )
    assert "refs/pr/1" in run(code, tmp_path, hub.environment(tmp_path / "home"))
    assert "adapter_model.safetensors" in hub.repos["me/adapter"]["main"]
    for branch in ("main", "refs/pr/1"):
        assert "bcos_weights.safetensors" not in hub.repos["me/adapter"][branch]


# `load_adapter` of transformers, and of peft, on disk.


def base(folder, seed=0):
    if seed == 0 and not folder.exists():
        tiny.model("llama", "CausalLM").save_pretrained(folder)
    stock = tiny.model("llama", "CausalLM", seed=seed) if seed else AutoModelForCausalLM.from_pretrained(folder)
    return get_bcos_model(stock, BcosConfig(b=1.5)).eval()


def saved(tmp_path, native=False, parts=("lora", "gain"), **options):
    model = base(tmp_path / "base")
    config = LoraConfig(**({"r": 4, "target_modules": ["up_proj", "o_proj"], "task_type": "CAUSAL_LM"} | options))
    if native:
        model.add_adapter(config, "mine")
        model.set_adapter("mine")
    else:
        model = get_peft_model(model, config)
    randomize(model)
    train_only(model, *parts)
    for name, parameter in model.named_parameters():
        if "gain" in name:
            parameter.data += torch.linspace(-0.5, 0.5, len(parameter))
    model.eval().save_pretrained(tmp_path / "adapter")
    return logits(model)


@pytest.mark.parametrize("native", [False, True], ids=["saved by peft", "saved by transformers"])
def test_load_adapter_of_transformers(native, tmp_path):
    before = saved(tmp_path, native)
    model = base(tmp_path / "base")
    model.load_adapter(tmp_path / "adapter")
    assert distance(logits(model), before) < 1e-6
    assert distance(logits(bcos_peft.load(tmp_path / "adapter")), before) < 1e-6
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["bcos"]["probe"]


def test_load_adapter_of_transformers_refuses_another_base(tmp_path):
    saved(tmp_path)
    wrong = base(tmp_path / "base", seed=1)
    before = logits(wrong)
    with pytest.raises(ValueError, match="does not give the logits of before saving"):
        wrong.load_adapter(tmp_path / "adapter", "mine")
    assert torch.equal(logits(wrong), before)
    assert not layer_types(wrong)
    assert not [name for name, _ in wrong.named_parameters() if "gain" in name]
    assert not hasattr(wrong, "peft_config")


def test_a_second_adapter_that_is_refused_leaves_the_first(tmp_path):
    saved(tmp_path, parts=["lora"])
    wrong = base(tmp_path / "base", seed=1)
    wrong.add_adapter(LoraConfig(target_modules=["up_proj"]), "first")
    randomize(wrong)
    before = logits(wrong)
    with pytest.raises(ValueError, match="does not give the logits of before saving"):
        wrong.load_adapter(tmp_path / "adapter", "second")
    assert list(wrong.peft_config) == ["first"]
    assert torch.equal(logits(wrong), before)


def test_peft_takes_off_what_it_refuses(tmp_path):
    saved(tmp_path)
    wrong = base(tmp_path / "base", seed=1)
    before = logits(wrong)
    with pytest.raises(ValueError, match="does not give the logits of before saving"):
        PeftModel.from_pretrained(wrong, tmp_path / "adapter")
    assert torch.equal(logits(wrong), before)
    assert not layer_types(wrong)
    saved(tmp_path, parts=["lora"])
    model = adapted(wrong, target_modules=["up_proj"])
    before = logits(model)
    with pytest.raises(ValueError, match="does not give the logits of before saving"):
        model.load_adapter(tmp_path / "adapter", "second")
    assert list(model.peft_config) == ["default"]
    assert torch.equal(logits(model), before)


def test_several_adapters_each_with_what_is_beside_them(tmp_path):
    model = adapted(base(tmp_path / "base"), task_type="CAUSAL_LM")
    model.add_adapter("other", LoraConfig(r=2, target_modules=["up_proj"], task_type="CAUSAL_LM"))
    randomize(model, seed=5)
    train_only(model, "lora", "gain")
    for name, parameter in model.named_parameters():
        if "gain" in name:
            parameter.data += 0.5
    model.set_adapter("other")
    other = logits(model)
    model.save_pretrained(tmp_path / "both")
    assert distance(logits(bcos_peft.load(tmp_path / "both" / "other")), other) < 1e-6
