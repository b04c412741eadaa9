"""Adapters loaded into models that have some: a Trainer's way back to an earlier state, and a second adapter."""

import pytest
import torch
from helpers import tiny
from helpers.adapters import adapted, distance, layer_types, logits, randomize
from helpers.trainers import rows, trainer
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import bcos_peft
from bcos_peft import BcosConfig, get_bcos_model, train_only


BESIDE = "bcos_weights.safetensors"


def base(folder):
    if not folder.exists():
        tiny.model("llama", "CausalLM").save_pretrained(folder)
    return get_bcos_model(AutoModelForCausalLM.from_pretrained(folder), BcosConfig(b=1.5)).eval()


def trained(tmp_path, name, seed=0, parts=("lora",), **options):
    """An adapter saved in a folder of that name, with what was trained beside it, and its logits."""
    model = adapted(base(tmp_path / "base"), seed, task_type="CAUSAL_LM", **options)
    train_only(model, *parts)
    for key, parameter in model.named_parameters():
        if parameter.requires_grad and ".lora_" not in key:
            parameter.data += torch.linspace(-0.5, 0.5, len(parameter)) + 0.1 * seed
    model.eval().save_pretrained(tmp_path / name)
    return model, logits(model)


def state(model):
    """Every parameter with its values, what is trained, and which adapters there are."""
    parameters = {name: (parameter.tolist(), parameter.requires_grad) for name, parameter in model.named_parameters()}
    return parameters, list(model.peft_config), layer_types(model)


# ---- Back to an earlier state ---------------------------------------------------------------------------------------


def classifier(tmp_path):
    tiny.model("bert").save_pretrained(tmp_path / "base")
    model = get_bcos_model(AutoModelForSequenceClassification.from_pretrained(tmp_path / "base"), BcosConfig(b=1.25))
    model = get_peft_model(model, LoraConfig(r=4, task_type="SEQ_CLS", target_modules="all-linear"))
    train_only(model, "lora", "gain")
    return model


SAVING = {"save_strategy": "steps", "save_steps": 2, "max_steps": 6, "learning_rate": 3e-2}


def test_a_trainer_loads_its_best_checkpoint(tmp_path):
    """The first is the best: the labels to evaluate with are those to train with, turned round."""
    model = classifier(tmp_path)
    turned = [row | {"labels": (row["labels"] + 1) % 3} for row in rows()]
    run = trainer(
        model,
        tmp_path / "run",
        eval_data=turned,
        eval_strategy="steps",
        eval_steps=2,
        load_best_model_at_end=True,
        **SAVING,
    )
    run.train()
    best = run.state.best_model_checkpoint
    assert best == str(tmp_path / "run" / "checkpoint-2")
    assert layer_types(model)
    expected = bcos_peft.load(best)
    assert distance(logits(model.eval(), "bert"), logits(expected, "bert")) < 1e-6
    last = bcos_peft.load(tmp_path / "run" / "checkpoint-6")
    assert distance(logits(last, "bert"), logits(expected, "bert")) > 0.01
    assert {name for name, p in model.named_parameters() if p.requires_grad and ".gain" in name}


def test_a_trainer_goes_on_from_an_earlier_checkpoint(tmp_path):
    model = classifier(tmp_path)
    run = trainer(model, tmp_path / "run", **SAVING)
    run.train()
    after = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    run.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert run.state.global_step == 6
    for name, parameter in model.named_parameters():
        assert name not in after or distance(parameter, after[name]) < 1e-4, name


def test_loading_into_an_adapter_that_exists(tmp_path):
    model, before = trained(tmp_path, "one", parts=("lora", "gain"))
    randomize(model, seed=3)
    train_only(model, "gain")
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.5
    model.save_pretrained(tmp_path / "two")
    after = logits(model)
    for folder, expected in (("one", before), ("two", after)):
        model.load_adapter(tmp_path / folder, "default")
        assert distance(logits(model), expected) < 1e-6


def test_an_adapter_that_is_made_to_be_loaded_is_checked(tmp_path):
    """peft names it before it loads it."""
    trained(tmp_path, "one")
    wrong = get_bcos_model(tiny.model("llama", "CausalLM", seed=1), BcosConfig(b=1.5))
    with pytest.raises(ValueError, match="does not give the logits of before saving"):
        PeftModel.from_pretrained(wrong, tmp_path / "one")
    assert not layer_types(wrong)


# ---- A second adapter -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [("lora",), ("lora", "gain"), ("lora", "norms")], ids=str)
def test_a_second_adapter_with_other_values_beside_it_is_refused(first, tmp_path):
    trained(tmp_path, "one", parts=first)
    trained(tmp_path, "two", seed=1, parts=("lora", "gain_and_norms"))
    model = bcos_peft.load(tmp_path / "one")
    before, untouched = logits(model), state(model)
    with pytest.raises(ValueError, match=r"All adapters of a base share its gains.*on a base of its own"):
        model.load_adapter(tmp_path / "two", "second")
    assert state(model) == untouched
    assert torch.equal(logits(model), before)


def test_a_second_adapter_with_other_values_is_refused_by_transformers_too(tmp_path):
    _, before = trained(tmp_path, "one")
    trained(tmp_path, "two", seed=1, parts=("lora", "gain"))
    model = base(tmp_path / "base")
    model.load_adapter(tmp_path / "one", "first")
    with pytest.raises(ValueError, match="All adapters of a base share its gains"):
        model.load_adapter(tmp_path / "two", "second")
    assert list(model.peft_config) == ["first"]
    assert not [name for name, _ in model.named_parameters() if "gain" in name]
    assert distance(logits(model.eval()), before) < 1e-6


def test_a_second_adapter_with_the_same_values_beside_it_is_loaded(tmp_path):
    model, one = trained(tmp_path, "one", parts=("lora", "gain_and_norms"))
    randomize(model, seed=4)
    two = logits(model)
    model.save_pretrained(tmp_path / "two")
    loaded = bcos_peft.load(tmp_path / "one")
    loaded.load_adapter(tmp_path / "two", "second")
    assert distance(logits(loaded), one) < 1e-6
    loaded.set_adapter("second")
    assert distance(logits(loaded), two) < 1e-6


def test_adapters_that_share_a_config_are_saved_each_with_its_own_logits(tmp_path):
    """TRL makes its reference of the trained adapter's own config."""
    tiny.model("bert").save_pretrained(tmp_path / "base")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base")
    model = get_peft_model(get_bcos_model(model, BcosConfig(b=1.25)), LoraConfig(target_modules=["dense"], r=4))
    model.add_adapter("ref", model.peft_config["default"])
    randomize(model)
    model.save_pretrained(tmp_path / "adapters")
    for name, folder in (("default", "adapters"), ("ref", "adapters/ref")):
        model.set_adapter(name)
        loaded = bcos_peft.load(tmp_path / folder)
        assert distance(logits(loaded, "bert"), logits(model.eval(), "bert")) < 1e-6


def test_gains_of_an_adapter_s_own_modules_are_its_own(tmp_path):
    tiny.model("bert").save_pretrained(tmp_path / "base")
    expected = {}
    for name in ("one", "two"):
        model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base")
        model = get_bcos_model(model, BcosConfig(b=1.25))
        model = adapted(model, task_type="SEQ_CLS", target_modules=["intermediate.dense"])
        train_only(model, "lora", "gain")
        head = model.base_model.model.classifier.modules_to_save["default"]
        head.gain.weight.data *= 0.5 if name == "one" else 2.0
        expected[name] = logits(model.eval(), "bert")
        model.save_pretrained(tmp_path / name)
    loaded = bcos_peft.load(tmp_path / "one")
    loaded.load_adapter(tmp_path / "two", "two")
    assert distance(logits(loaded, "bert"), expected["one"]) < 1e-6
    loaded.set_adapter("two")
    assert distance(logits(loaded, "bert"), expected["two"]) < 1e-6


# ---- What an earlier adapter left -----------------------------------------------------------------------------------


def test_saving_removes_what_lay_beside_an_earlier_adapter(tmp_path):
    trained(tmp_path, "folder", parts=("lora", "gain"))
    assert (tmp_path / "folder" / BESIDE).exists()
    _, expected = trained(tmp_path, "folder", seed=1)
    assert not (tmp_path / "folder" / BESIDE).exists()
    assert distance(logits(bcos_peft.load(tmp_path / "folder")), expected) < 1e-6


def test_adapters_that_are_not_saved_are_left_alone(tmp_path):
    trained(tmp_path, "folder", parts=("lora", "gain"))
    before = load_file(tmp_path / "folder" / BESIDE)
    model = adapted(base(tmp_path / "base"), task_type="CAUSAL_LM")
    model.add_adapter("other", LoraConfig(r=2, target_modules=["up_proj"], task_type="CAUSAL_LM"))
    model.save_pretrained(tmp_path / "folder", selected_adapters=["other"])
    after = load_file(tmp_path / "folder" / BESIDE)
    assert {name: value.tolist() for name, value in after.items()} == {k: v.tolist() for k, v in before.items()}
    assert not (tmp_path / "folder" / "other" / BESIDE).exists()


# ---- New tokens -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
def test_tokens_that_were_added_come_with_the_adapter(tied, tmp_path):
    tiny.model("llama", "CausalLM", tie_word_embeddings=tied).save_pretrained(tmp_path / "base")
    model = base(tmp_path / "base")
    model.resize_token_embeddings(tiny.VOCAB_SIZE + 10)
    model = adapted(model, task_type="CAUSAL_LM", target_modules=["up_proj"])
    model.save_pretrained(tmp_path / "adapter")
    new = torch.arange(tiny.VOCAB_SIZE, tiny.VOCAB_SIZE + 10)[None]
    loaded = bcos_peft.load(tmp_path / "adapter")
    with torch.no_grad():
        assert distance(loaded(new).logits, model(new).logits) < 1e-6
    with pytest.raises(ValueError, match="device_map would have no effect"):
        bcos_peft.load(tmp_path / "adapter", base=base(tmp_path / "base"), device_map="cpu", token="hf_token")


def test_tokens_that_were_added_and_not_saved_are_an_error(tmp_path):
    model = base(tmp_path / "base")
    model.resize_token_embeddings(tiny.VOCAB_SIZE + 10)
    model = adapted(model, task_type="CAUSAL_LM", target_modules=["up_proj"])
    model.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    with pytest.raises(ValueError, match=r"10 tokens that its base does not have.*save_embedding_layers=True"):
        bcos_peft.load(tmp_path / "adapter")
    before = logits(model)
    assert distance(logits(bcos_peft.load(tmp_path / "adapter", base=model.unload())), before) < 1e-6


def test_a_token_goes_to_the_adapter_and_to_its_base(tmp_path, monkeypatch):
    trained(tmp_path, "adapter")
    seen = []
    original = PeftModel.from_pretrained.__func__

    def noted(cls, *args, **kwargs):
        seen.append(kwargs.get("token"))
        return original(cls, *args, **kwargs)

    monkeypatch.setattr(PeftModel, "from_pretrained", classmethod(noted))
    bcos_peft.load(tmp_path / "adapter", token="hf_token")
    bcos_peft.load(tmp_path / "adapter", base=base(tmp_path / "base"), token="hf_token")
    bcos_peft.load(tmp_path / "adapter")
    assert seen == ["hf_token", "hf_token", None]


# ---- Precision ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("native", [False, True], ids=["peft", "transformers"])
def test_an_adapter_that_a_trainer_saves_in_mixed_precision_loads_again(native, tmp_path):
    """The Trainer leaves bfloat16 on the forward; the logits that are stored are in the model's own precision."""
    tiny.model("bert", num_hidden_layers=6).save_pretrained(tmp_path / "base")
    model = get_bcos_model(AutoModelForSequenceClassification.from_pretrained(tmp_path / "base"), BcosConfig(b=1.25))
    config = LoraConfig(r=4, target_modules=["intermediate.dense", "output.dense"])
    if native:
        model.add_adapter(config)
    else:
        model = get_peft_model(model, config)
    run = trainer(model, tmp_path / "run", bf16=True, max_steps=2)
    run.train()
    wrapped = model.forward
    run.save_model(str(tmp_path / "adapter"))
    assert model.forward == wrapped
    loaded = bcos_peft.load(tmp_path / "adapter")
    probes = [loaded.peft_config["default"].bcos["probe"]]
    for automatic in (True, False):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=automatic):
            loaded.save_pretrained(tmp_path / "again")
        probes.append(loaded.peft_config["default"].bcos["probe"])
    exact = torch.tensor(probes[-1])
    assert all(distance(torch.tensor(probe), exact) < 1e-5 for probe in probes)
