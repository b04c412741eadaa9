"""LoRA on converted models with TRL's SFTTrainer: peft_config=, quantised bases, saving, resuming, explaining."""

import pytest
import torch
from helpers.adapters import distance, logits, residual
from helpers.quantised import both, checkpoint, quantised
from helpers.sft_data import converted, dataset, losses, options, tokenizer
from peft import AutoPeftModelForCausalLM, LoraConfig
from transformers import AutoModelForCausalLM

import bcos_peft
from bcos_peft import BcosConfig, BcosExplainer, get_bcos_model
from bcos_peft.lora import BcosLora


pytestmark = pytest.mark.newest  # trl and bitsandbytes ask for newer packages than the oldest run has


def sft(model, folder, **changes):
    from trl import SFTConfig, SFTTrainer

    lora = LoraConfig(r=8, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    return SFTTrainer(
        model,
        args=SFTConfig(**options(folder, **({"learning_rate": 1e-2} | changes))),
        train_dataset=dataset(),
        processing_class=tokenizer(),
        peft_config=lora,
    )


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_training_on_answers(family, tmp_path):
    model = converted(family)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    run = sft(model, tmp_path / "run", max_steps=15)
    assert any(isinstance(module, BcosLora) for module in run.model.modules())
    run.train()
    first, *_, last = losses(run)
    assert last < 0.8 * first
    for name, parameter in run.model.get_base_model().named_parameters():
        if "lora_" not in name:
            assert torch.equal(parameter, before[name.replace(".base_layer", "")]), name
    assert residual(run.model, family) < 1e-4
    explanation = BcosExplainer(run.model, tokenizer())("A gripping film")
    assert abs(explanation.residual) < 1e-4 * max(1, abs(explanation.logit))
    after = logits(run.model.eval(), family)
    merged = run.model.merge_and_unload()
    assert distance(logits(merged, family), after) < 1e-5


def test_what_the_trainer_saves_loads(tmp_path):
    checkpoint(tmp_path / "base")
    model = get_bcos_model(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), BcosConfig(b=1.25))
    run = sft(model, tmp_path / "run", max_steps=4, save_strategy="steps", save_steps=2)
    run.train()
    after = logits(run.model.eval())
    run.save_model(str(tmp_path / "adapter"))
    for load in (bcos_peft.load, AutoPeftModelForCausalLM.from_pretrained):
        assert distance(logits(load(tmp_path / "adapter")), after) < 1e-5
    fresh = get_bcos_model(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), BcosConfig(b=1.25))
    again = sft(fresh, tmp_path / "run", max_steps=4, save_strategy="no")
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert again.state.global_step == 4
    assert distance(logits(again.model.eval()), after) < 1e-4


@both
def test_qlora(tmp_path, bits):
    model = quantised(checkpoint(tmp_path / "base"), bits, b=1.25)
    run = sft(model, tmp_path / "run", max_steps=15)
    run.train()
    first, *_, last = losses(run)
    assert last < 0.9 * first
    assert residual(run.model.float()) < 1e-4
    run.save_model(str(tmp_path / "adapter"))
    after = logits(run.model.eval())
    loaded = bcos_peft.load(tmp_path / "adapter")
    assert distance(logits(loaded).float(), after.float()) < 0.05
