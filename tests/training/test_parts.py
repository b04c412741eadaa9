"""Training only a part of a model: what is trained, and that gains are saved, loaded, merged and explained exactly."""

import pytest
import torch
from helpers import tiny
from helpers.adapters import adapted, converted, distance, logits, randomize, residual
from helpers.trainers import CHECKPOINTING, rows, trainer
from peft import LoraConfig, get_peft_model
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

import bcos_peft
from bcos_peft import BcosConfig, get_bcos_model, merge_gains, train_only
from bcos_peft.nn import BcosLayer


def trained(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def changed(model, seed=0):
    """A model whose trained parameters are no longer what they were."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.data += (0.3 * noise).to(parameter)
    return model


def gains(model):
    return {name for name, _ in model.named_parameters() if name.endswith(".gain.weight")}


def test_what_is_trained():
    model = converted()
    everything = trained(model)
    train_only(model, "norms")
    norms = trained(model)
    assert norms == {name for name in everything if "norm" in name}
    assert not gains(model)
    train_only(model, "gain_and_norms")
    layers = [name for name, m in model.named_modules() if isinstance(m, BcosLayer) and m.b is not None]
    assert len(layers) == 8, "o, gate, up and down in two blocks"
    assert trained(model) - norms == {f"{name}.gain.weight" for name in layers} == gains(model)
    train_only(model, "norms")
    assert trained(model) == norms, "gains stay, and are frozen"
    train_only(model, "gain", "head")
    assert trained(model) == gains(model) | {"model.embed_tokens.weight"}, "a tied head"
    train_only(model, "all")
    assert trained(model) == everything | gains(model)


@pytest.mark.parametrize("family", tiny.FAMILIES + tiny.DECODERS)
def test_gains_and_norms_in_every_family(family):
    """They do something, explanations are exact, and merged gains are gains."""
    model = converted(family, torch.float64)
    before = logits(model, family)
    train_only(model, "gain_and_norms")
    assert torch.equal(logits(model, family), before), "nothing changes until training"
    changed(model)
    after = logits(model, family)
    assert distance(after, before) > 0.01
    assert residual(model, family) < 1e-12
    assert merge_gains(model) == 0
    assert not gains(model)
    assert distance(logits(model, family), after) < 1e-12
    assert residual(model, family) < 1e-12


@pytest.mark.parametrize("family", ["bert", "llama", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_save_and_load(family, dtype, tmp_path):
    model = converted(family, dtype)
    train_only(model, "gain_and_norms")
    changed(model).save_pretrained(tmp_path / "whole")
    again = type(model).from_pretrained(tmp_path / "whole", dtype="auto")
    for (name, left), (other, right) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        assert name == other
        assert torch.equal(left, right), name
        assert left.dtype == right.dtype == (torch.float32 if "gain" in name else dtype), name
    if dtype == torch.float32:  # a model that was cast has cast its rotary frequencies too
        assert torch.equal(logits(again, family), logits(model, family))
    merge_gains(model)
    model.save_pretrained(tmp_path / "merged")
    assert not gains(type(model).from_pretrained(tmp_path / "merged"))


def test_a_body_is_loaded_with_its_gains(tmp_path):
    model = converted()
    train_only(model, "gain")
    changed(model).save_pretrained(tmp_path)
    body = AutoModel.from_pretrained(tmp_path)
    with torch.no_grad():
        expected = model.model(**tiny.inputs(family="llama")).last_hidden_state
        assert torch.equal(body(**tiny.inputs(family="llama")).last_hidden_state, expected)


def test_a_new_head_of_another_size_has_gains_of_1(tmp_path):
    model = get_bcos_model(tiny.model("bert"), BcosConfig())
    train_only(model, "gain")
    changed(model).save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=5, ignore_mismatched_sizes=True)
    assert loaded.classifier.gain.weight.tolist() == [1.0] * 5
    assert torch.equal(loaded.bert.pooler.dense.gain.weight, model.bert.pooler.dense.gain.weight)


@pytest.mark.parametrize("tied", [False, True])
def test_a_head_keeps_its_gains_when_tokens_are_added_or_taken_away(tied):
    model = tiny.model("llama", "CausalLM", tie_word_embeddings=tied)
    model = get_bcos_model(model, BcosConfig(convert_head=True))
    train_only(model, "gain")
    gain, before = changed(model).lm_head.gain.weight.detach().clone(), logits(model)
    model.resize_token_embeddings(tiny.VOCAB_SIZE + 8, mean_resizing=False)
    assert torch.equal(model.lm_head.gain.weight[: tiny.VOCAB_SIZE], gain)
    assert model.lm_head.gain.weight[tiny.VOCAB_SIZE :].tolist() == [1.0] * 8
    assert model.lm_head.gain.weight.requires_grad
    assert distance(logits(model)[..., : tiny.VOCAB_SIZE], before) < 1e-6
    assert residual(model) < 1e-5
    model.resize_token_embeddings(tiny.VOCAB_SIZE - 8, mean_resizing=False)
    assert torch.equal(model.lm_head.gain.weight, gain[:-8])


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_training_moves_nothing_else(family, tmp_path):
    model = get_bcos_model(tiny.model(family, "SequenceClassification"), BcosConfig(b=1.25))
    train_only(model, "gain_and_norms", "head")
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    chosen = trained(model)
    run = trainer(model, tmp_path, data=rows(family=family), max_steps=60, learning_rate=5e-2)
    run.train()
    history = [entry["loss"] for entry in run.state.log_history if "loss" in entry]
    assert sum(history[-5:]) < 0.8 * sum(history[:5])
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == chosen
    assert residual(model, family) < 1e-5


@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "not reentrant"])
@pytest.mark.parametrize("parts", [("gain_and_norms",), ("norms",), ("gain", "lora"), ("all",)], ids=str)
def test_gradient_checkpointing(parts, reentrant):
    model = converted(dtype=torch.float64)
    if "lora" in parts:
        model = randomize(get_peft_model(model, LoraConfig(r=4, target_modules="all-linear")))
    train_only(model, *parts)
    batch = tiny.inputs() | {"labels": tiny.inputs()["input_ids"]}
    model.train()(**batch).loss.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
    model.zero_grad()
    bcos = model.get_base_model() if "lora" in parts else model
    getattr(bcos, f"{CHECKPOINTING}_enable")({"use_reentrant": reentrant})
    model(**batch).loss.backward()
    assert expected
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, expected[name])


@pytest.mark.parametrize("unit_rows", [False, True], ids=["as is", "unit rows"])
def test_beside_an_adapter(unit_rows, tmp_path):
    """Gains and norms that were trained with LoRA are saved with it, and merge with it."""
    tiny.model("llama", "CausalLM").save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    model = get_bcos_model(base, BcosConfig(b=1.5, normalize_weights=unit_rows))
    model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")).eval()
    train_only(model, "lora", "gain_and_norms")
    assert all("lora_" in name or "norm" in name or "gain" in name for name in trained(model))
    after = logits(changed(model))
    assert residual(model) < 1e-5
    model.save_pretrained(tmp_path / "adapter")
    for folder in ("adapter", "again"):
        loaded = bcos_peft.load(tmp_path / folder)
        assert not trained(loaded)
        assert distance(logits(loaded), after) < 1e-6
        loaded.save_pretrained(tmp_path / "again")
    with model.disable_adapter():
        assert distance(logits(model), after) > 0.01
    plain = model.merge_and_unload()
    assert distance(logits(plain), after) < 1e-5
    assert merge_gains(plain) == (8 if unit_rows else 0)
    assert distance(logits(plain), after) < 1e-5
    assert residual(plain) < 1e-5


def test_what_was_trained_before_the_adapter_is_saved_with_it(tmp_path):
    tiny.model("llama", "CausalLM").save_pretrained(tmp_path / "base")
    model = get_bcos_model(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), BcosConfig(b=1.5))
    train_only(model, "gain", "norms")
    changed(model)
    merge_gains(model)
    model = adapted(model, target_modules=["up_proj"], task_type="CAUSAL_LM")
    before = logits(model)
    model.save_pretrained(tmp_path / "adapter")
    assert distance(logits(bcos_peft.load(tmp_path / "adapter")), before) < 1e-6


def test_a_trained_head_in_modules_to_save(tmp_path):
    tiny.model("bert").save_pretrained(tmp_path / "base")
    model = get_bcos_model(AutoModelForSequenceClassification.from_pretrained(tmp_path / "base"), BcosConfig(b=1.5))
    model = adapted(model, task_type="SEQ_CLS")
    train_only(model, "lora", "gain")
    assert any("modules_to_save.default.gain" in name for name in trained(model))
    after = logits(changed(model), "bert")
    model.save_pretrained(tmp_path / "adapter")
    assert distance(logits(bcos_peft.load(tmp_path / "adapter"), "bert"), after) < 1e-6
    assert distance(logits(model.merge_and_unload(), "bert"), after) < 1e-5


def test_several_adapters_of_which_one_is_trained(tmp_path):
    model = adapted(converted(), target_modules=["up_proj"])
    model.add_adapter("other", LoraConfig(r=2, target_modules=["up_proj"]))
    train_only(model, "lora")
    assert all(".default." in name for name in trained(model))
    model.set_adapter("other")
    train_only(model, "lora")
    assert all(".other." in name for name in trained(model))


def test_what_merging_leaves_alone():
    model = adapted(converted(dtype=torch.float64), target_modules=["up_proj"])
    train_only(model, "gain")
    before = logits(changed(model))
    assert merge_gains(model) == 2, "below the adapters"
    assert distance(logits(model), before) < 1e-12
    assert merge_gains(model.merge_and_unload()) == 0


def test_refusals():
    model = converted()
    state = trained(model)
    for parts, match in [
        ((), "needs one or more of 'all', .*got none"),
        (("gains",), "'gain_and_norms'; got 'gains'"),
        (("norms", "lora"), r"no active LoRA adapter\. Nothing was changed.*get_peft_model"),
    ]:
        with pytest.raises(ValueError, match=match):
            train_only(model, *parts)
    with pytest.raises(ValueError, match="has no head of its own"):
        train_only(AutoModel.from_config(model.config), "head")
    with pytest.raises(ValueError, match="not a B-cos model"):
        train_only(tiny.model("bert"), "norms")
    assert trained(model) == state
    assert not gains(model)


def test_trainable_parameters_are_printed_as_by_peft(capsys):
    model = converted()
    train_only(model, "gain_and_norms")
    model.print_trainable_parameters()
    ours = capsys.readouterr().out
    model = get_peft_model(model, LoraConfig(target_modules=["up_proj"]))
    train_only(model, "gain_and_norms")
    count, total = model.get_nb_trainable_parameters()
    assert f"trainable params: {count:,d} || all params: " in ours
    model.get_base_model().print_trainable_parameters()
    assert capsys.readouterr().out.startswith(f"trainable params: {count:,d} || all params: {total:,d} || ")
