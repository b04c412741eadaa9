"""Training a B-cos adapter: the stock `Trainer`, its checkpoints, a schedule of B, TRL."""

import pytest
import torch
from helpers.adapters import distance, logits, residual
from helpers.peft_method import from_disk, state, stock
from helpers.quantised import checkpoint, quantisation
from helpers.sft_data import dataset, options, tokenizer
from helpers.sft_data import losses as sft_losses
from helpers.trainers import CHECKPOINTING, losses, rows, trainer
from peft import PeftModel, get_peft_model

import bcos_peft
from bcos_peft import BcosConfig, BcosScheduleCallback, train_only


def adapted(model, **config):
    return get_peft_model(model, BcosConfig(**{"b": 1.25, "task_type": "SEQ_CLS"} | config))


def outside(model):
    """The weights that no adapter has, by the names that they have without one."""
    return {
        name.replace("base_model.model.", "").replace(".original_module", ""): parameter.detach().clone()
        for name, parameter in model.named_parameters()
        if ".modules_to_save." not in name
    }


def test_trainer(tmp_path):
    model = adapted(from_disk(tmp_path / "base"))
    below = outside(model)
    run = trainer(model, tmp_path / "run", max_steps=80, learning_rate=3e-2)
    run.train()
    first, *_, last = losses(run)
    assert last < 0.7 * first
    assert all(torch.equal(below[name], value) for name, value in outside(model).items())
    after = logits(model.eval(), "bert")
    assert residual(model, "bert") < 1e-5
    run.save_model(str(tmp_path / "adapter"))
    assert (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_size < 20_000
    loaded = PeftModel.from_pretrained(from_disk(tmp_path / "base"), tmp_path / "adapter")
    assert torch.equal(logits(loaded, "bert"), after)
    assert state(model.unload().eval()) == state(from_disk(tmp_path / "base")), "nothing but the adapter was changed"


def test_back_to_the_best_checkpoint_and_on(tmp_path):
    model = adapted(from_disk(tmp_path / "base"))
    often = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2}
    often |= {"load_best_model_at_end": True, "learning_rate": 3e-2}
    run = trainer(model, tmp_path / "run", eval_data=rows(seed=1), max_steps=6, **often)
    run.train()
    best = bcos_peft.load(run.state.best_model_checkpoint, base=from_disk(tmp_path / "base"))
    assert torch.equal(logits(model.eval(), "bert"), logits(best, "bert"))
    assert any(parameter.requires_grad for parameter in model.parameters())
    other = trainer(adapted(from_disk(tmp_path / "base")), tmp_path / "run", max_steps=8, learning_rate=3e-2)
    other.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-6"))
    assert other.state.global_step == 8


@pytest.mark.slow
def test_with_checkpointing_of_activations(tmp_path):
    run = trainer(adapted(stock()), tmp_path, max_steps=10, learning_rate=3e-2, **{CHECKPOINTING: True})
    run.train()
    plain = trainer(adapted(stock()), tmp_path, max_steps=10, learning_rate=3e-2)
    plain.train()
    assert losses(run) == pytest.approx(losses(plain), rel=1e-3)


def test_b_by_a_schedule_is_that_of_the_adapter(tmp_path):
    model = adapted(from_disk(tmp_path / "base"), b=1.0)
    run = trainer(model, tmp_path / "run", callbacks=[BcosScheduleCallback(2.0, start=1.0)], max_steps=4)
    run.train()
    assert model.get_base_model().bcos_config.b == 2
    model.eval().save_pretrained(tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(from_disk(tmp_path / "base"), tmp_path / "adapter")
    assert loaded.get_base_model().bcos_config.b == 2
    assert torch.equal(logits(loaded, "bert"), logits(model, "bert"))


def test_a_part_of_it():
    model = adapted(stock())
    train_only(model, "norms")
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained
    assert all("LayerNorm.modules_to_save.default" in name for name in trained)


def test_what_is_trained_beside_it_is_saved_beside_it(tmp_path):
    model = adapted(from_disk(tmp_path / "base"))
    model.base_model.model.bert.embeddings.word_embeddings.requires_grad_(True)
    run = trainer(model, tmp_path / "run", max_steps=2)
    run.train()
    after = logits(model.eval(), "bert")
    model.save_pretrained(tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(from_disk(tmp_path / "base"), tmp_path / "adapter")
    assert torch.equal(logits(loaded, "bert"), after)
    with pytest.raises(ValueError, match="the values of 'bert.embeddings.word_embeddings.weight' are others"):
        model.unload()


@pytest.mark.newest
@pytest.mark.parametrize("given", ["model", "peft_config"])
def test_sft(given, tmp_path):
    from trl import SFTConfig, SFTTrainer

    config = BcosConfig(b=1.25, task_type="CAUSAL_LM")
    model = from_disk(tmp_path / "base", "llama")
    made = {"model": get_peft_model(model, config)} if given == "model" else {"model": model, "peft_config": config}
    run = SFTTrainer(
        **made,
        args=SFTConfig(**options(tmp_path / "run", max_steps=15, learning_rate=3e-2)),
        train_dataset=dataset(),
        processing_class=tokenizer(),
    )
    assert type(run.model.get_base_model()).__name__ == "BcosLlamaForCausalLM"
    run.train()
    first, *_, last = sft_losses(run)
    assert last < 0.8 * first
    after = logits(run.model.eval())
    assert residual(run.model) < 1e-5
    run.save_model(str(tmp_path / "adapter"))
    loaded = bcos_peft.load(tmp_path / "adapter", base=from_disk(tmp_path / "base", "llama"))
    assert distance(logits(loaded), after) < 1e-6


@pytest.mark.newest
def test_a_quantised_base(tmp_path):
    """A `Trainer` refuses to train a quantised model that has no adapter."""
    from transformers import AutoModelForCausalLM

    options = {"quantization_config": quantisation("4 bits"), "dtype": torch.float32}
    model = AutoModelForCausalLM.from_pretrained(checkpoint(tmp_path / "base"), **options)
    model = adapted(model, task_type="CAUSAL_LM")
    data = rows("CausalLM", family="llama")
    run = trainer(model, tmp_path / "run", data, loss=None, max_steps=12, learning_rate=3e-2)
    run.train()
    first, *_, last = losses(run)
    assert last < 0.9 * first
    assert residual(model.eval()) < 1e-4
    model.save_pretrained(tmp_path / "adapter")
    assert distance(logits(bcos_peft.load(tmp_path / "adapter")), logits(model)) < 1e-5


@pytest.mark.newest
@pytest.mark.parametrize("given", ["model", "peft_config"])
def test_preferences(given, tmp_path):
    """The reference is the adapter as it was, where TRL keeps a copy of it, or else the stock model."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    model, config = stock("llama"), BcosConfig(b=1.25, task_type="CAUSAL_LM")
    before = logits(model)
    made = {"model": get_peft_model(model, config)} if given == "model" else {"model": model, "peft_config": config}
    pairs = {"prompt": ["A gripping film"] * 8, "chosen": [" good"] * 8, "rejected": [" bad"] * 8}
    run = DPOTrainer(
        **made,
        args=DPOConfig(**options(tmp_path, max_steps=4, learning_rate=1e-2)),
        train_dataset=Dataset.from_dict(pairs),
        processing_class=tokenizer(),
    )
    run.train()
    first, *_, last = sft_losses(run)
    assert last < first
    assert (first == pytest.approx(0.6931, abs=1e-3)) == (given == "model")
    assert residual(run.model) < 1e-5
    assert torch.equal(logits(run.model.unload().eval()), before)
