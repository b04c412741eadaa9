"""QLoRA as everybody sets it up: a checkpoint in 4 bits, computed in another precision, prepared or not."""

import json

import pytest
import torch
from helpers import tiny
from helpers.adapters import distance, logits, residual
from helpers.quantised import WIDTHS
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

import bcos_peft
from bcos_peft import BcosConfig, get_bcos_model
from bcos_peft.nn import precision_of


pytestmark = [
    pytest.mark.newest,  # bitsandbytes is not among the oldest dependencies
    pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable:FutureWarning"),  # peft calls it
]

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 5e-3}


def base(folder, checkpoint, compute, dtype="auto", bits=4):
    tiny.model("llama", "CausalLM", dtype=checkpoint, **WIDTHS).save_pretrained(folder)
    config = BitsAndBytesConfig(load_in_8bit=True)
    if bits == 4:
        config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute)
    return AutoModelForCausalLM.from_pretrained(folder, quantization_config=config, dtype=dtype)


def converted(model, prepared):
    if prepared == "before":
        model = prepare_model_for_kbit_training(model)
    model = get_bcos_model(model, BcosConfig(b=1.5))
    return prepare_model_for_kbit_training(model) if prepared == "after" else model


def trained(model, steps=3):
    model = get_peft_model(model, LoraConfig(r=4, task_type="CAUSAL_LM", target_modules="all-linear")).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    batch, losses = tiny.inputs() | {"labels": tiny.inputs()["input_ids"]}, []
    for _ in range(steps):
        loss = model(**batch, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    return model.eval()


@pytest.mark.parametrize("prepared", ["never", "before", "after"])
@pytest.mark.parametrize("compute", FLOATS)
@pytest.mark.parametrize("checkpoint", [torch.float32, torch.bfloat16])
def test_trains_saves_and_loads(tmp_path, caplog, checkpoint, compute, prepared):
    model = converted(base(tmp_path / "base", checkpoint, compute), prepared)
    assert model.dtype == (torch.float32 if prepared != "never" else checkpoint)
    coarser = max(model.dtype, compute, key=lambda dtype: torch.finfo(dtype).eps)
    assert precision_of(model) == coarser
    assert model.bcos_config.probe_residual < 5e-2
    model = trained(model)
    assert residual(model) < ROUNDING[coarser]
    before = logits(model)
    model.save_pretrained(tmp_path / "adapter")
    again = bcos_peft.load(tmp_path / "adapter")
    assert again.dtype == model.dtype
    assert torch.equal(logits(again), before)
    assert "does not give the logits" not in caplog.text
    if prepared == "before":
        return
    model.unload().save_pretrained(tmp_path / "whole")
    assert torch.equal(logits(bcos_peft.load(tmp_path / "adapter", base=str(tmp_path / "whole"))), before)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_base_that_was_rounded_when_it_was_loaded(tmp_path, bits, dtype):
    """A float32 checkpoint that was loaded in half precision, and prepared: its float32 weights are rounded ones."""
    model = trained(converted(base(tmp_path / "base", torch.float32, torch.float32, dtype, bits), "after"))
    assert residual(model) < 1e-5, "gradients go through the weights of the prediction"
    before = logits(model)
    model.save_pretrained(tmp_path / "adapter")
    facts = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["bcos"]
    assert (facts["dtype"], facts["loaded_dtype"]) == ("float32", str(dtype).removeprefix("torch."))
    again = bcos_peft.load(tmp_path / "adapter")
    assert again.dtype == torch.float32
    assert torch.equal(logits(again), before)
    own = bcos_peft.load(tmp_path / "adapter", dtype=dtype)
    assert own.dtype == dtype, "what the caller asks for"


def test_a_float_model_that_was_widened_after_loading(tmp_path):
    tiny.model("llama", "CausalLM").save_pretrained(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.bfloat16).float()
    model = trained(get_bcos_model(model, BcosConfig(b=1.5)))
    model.save_pretrained(tmp_path / "adapter")
    assert distance(logits(bcos_peft.load(tmp_path / "adapter")), logits(model)) < 1e-6


def test_another_base_is_refused_at_any_precision(tmp_path):
    model = trained(converted(base(tmp_path / "base", torch.bfloat16, torch.bfloat16), "after"))
    model.save_pretrained(tmp_path / "adapter")
    tiny.model("llama", "CausalLM", dtype=torch.bfloat16, seed=1, **WIDTHS).save_pretrained(tmp_path / "base")
    with pytest.raises(ValueError, match="not the one that the adapter was"):
        bcos_peft.load(tmp_path / "adapter")


def test_what_is_not_linear_is_still_refused_in_float32(tmp_path, monkeypatch):
    """The tolerance grows with the arithmetic only."""
    from bcos_peft.attribution import certificate

    monkeypatch.setattr(certificate, "_probe_residual", lambda model: 1e-3)
    with pytest.raises(ValueError, match=r"allowed: 1e-04 in torch.float32"):
        converted(base(tmp_path / "one", torch.float32, torch.float32), "never")
    assert converted(base(tmp_path / "two", torch.float32, torch.bfloat16), "never").bcos_config.probe_residual == 1e-3


def test_adapters_in_a_folder_of_a_folder_and_without_the_certificate(tmp_path, monkeypatch):
    from bcos_peft import convert

    tiny.model("llama", "CausalLM").save_pretrained(tmp_path / "base")
    model = trained(get_bcos_model(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), BcosConfig(b=1.5)))
    bcos_peft.train_only(model, "lora", "norms")
    model.get_base_model().model.norm.weight.data *= 2  # beside the adapter
    before = logits(model)
    model.save_pretrained(tmp_path / "run" / "last")
    certified = []
    certify = convert.certify
    monkeypatch.setattr(convert, "certify", lambda model: certified.append(model) or certify(model))
    assert torch.equal(logits(bcos_peft.load(tmp_path / "run", subfolder="last")), before)
    assert len(certified) == 1
    again = bcos_peft.load(tmp_path / "run", subfolder="last", verify=False)
    assert torch.equal(logits(again), before)
    assert len(certified) == 1
    assert isinstance(again, PeftModel)
    with pytest.raises(TypeError, match="verify must be True or False, got 'no'"):
        bcos_peft.load(tmp_path / "run", subfolder="last", verify="no")
    model.merge_and_unload().save_pretrained(tmp_path / "run" / "whole")
    with pytest.raises(ValueError, match="whole model"):
        bcos_peft.load(tmp_path / "run", subfolder="whole")
