"""`peft.get_peft_model(model, BcosConfig())`: converts, trains what is small, saves kilobytes, and goes back."""

import copy
import json

import peft
import pytest
import torch
from helpers import tiny
from helpers.adapters import distance, logits, residual
from helpers.peft_method import from_disk, learnt, made, state, stock, task_type
from peft import LoraConfig, PeftConfig, PeftModel, PeftType, get_peft_model
from safetensors.torch import load_file

import bcos_peft
from bcos_peft import BcosConfig, BcosExplainer, get_bcos_model, merge_gains, train_only
from bcos_peft.lora.method import BcosPeftConfig, BcosTuner


FAMILIES = ["bert", "llama", "modernbert", "distilbert", "gpt2"]
every = pytest.mark.parametrize("family", FAMILIES)


def test_what_a_user_of_peft_tries_first():
    model = stock()
    plain = get_bcos_model(copy.deepcopy(model), BcosConfig(b=1.25))
    adapted = get_peft_model(model, BcosConfig(b=1.25))
    assert type(adapted) is PeftModel
    assert type(adapted.base_model) is BcosTuner
    assert adapted.get_base_model() is model
    assert type(model).__name__ == "BcosBertForSequenceClassification"
    assert torch.equal(logits(adapted.eval(), "bert"), logits(plain.eval(), "bert"))
    assert adapted.peft_type is PeftType.BCOS


def test_a_config_is_a_method_of_peft():
    config = BcosConfig(b=2, task_type="SEQ_CLS", modules_to_save=["classifier"])
    assert isinstance(config, PeftConfig)
    assert config.peft_type == "BCOS"
    assert config.peft_type in list(PeftType)
    assert PeftType("BCOS") is PeftType["BCOS"] is PeftType.BCOS
    assert peft.PEFT_TYPE_TO_TUNER_MAPPING["BCOS"] is BcosTuner
    assert (config.task_type, config.modules_to_save, config.is_prompt_learning) == ("SEQ_CLS", ["classifier"], False)
    assert copy.deepcopy(config) == config
    assert "task_type" not in config.to_dict()
    assert BcosConfig.from_dict(config.to_dict()) == config


@every
def test_only_what_is_small_is_trained(family, capsys):
    model = get_peft_model(stock(family), BcosConfig(b=1.25))
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert any(".gain." in name for name in trained)
    assert any("norm" in name.lower() or ".ln_" in name for name in trained)
    assert all(".modules_to_save.default." in name for name in trained)
    count = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    model.print_trainable_parameters()
    assert f"trainable params: {count:,d} ||" in capsys.readouterr().out
    other = get_bcos_model(stock(family), BcosConfig(b=1.25))
    train_only(other, "gain_and_norms")
    assert count == sum(parameter.numel() for parameter in other.parameters() if parameter.requires_grad)


@every
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_saved_and_loaded(family, dtype, tmp_path):
    before = stock(family, dtype=dtype)
    model = made(copy.deepcopy(before), family)
    fresh = get_bcos_model(copy.deepcopy(before), BcosConfig(b=1.5))
    assert distance(logits(model, family), logits(fresh, family)) > 1e-3
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(copy.deepcopy(before), tmp_path)
    assert type(loaded) is type(model)
    assert torch.equal(logits(loaded.eval(), family), logits(model, family))
    assert residual(loaded, family) < (1e-12 if dtype == torch.float64 else 1e-5)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    again = PeftModel.from_pretrained(copy.deepcopy(before), tmp_path, is_trainable=True)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name for name, parameter in again.named_parameters() if parameter.requires_grad} == trained


def test_what_is_written(tmp_path):
    model = made(from_disk(tmp_path / "base", hidden_size=64, intermediate_size=512))
    model.save_pretrained(tmp_path / "adapter")
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "adapter").iterdir()}
    assert sizes.keys() == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    whole = (tmp_path / "base" / "model.safetensors").stat().st_size
    assert sizes["adapter_model.safetensors"] < whole / 10
    weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert "base_model.model.classifier.weight" in weights
    assert "base_model.model.bert.embeddings.LayerNorm.weight" in weights
    assert all("gain" in name or "LayerNorm" in name or "classifier" in name for name in weights)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["peft_type"] == "BCOS"
    assert config["base_model_name_or_path"] == str(tmp_path / "base")
    assert config["bcos"]["config"]["b"] == 1.5
    assert "verify" not in config
    card = (tmp_path / "adapter" / "README.md").read_text()
    assert "# B-cos adapter" in card
    assert card.count("bcos_peft.load(") == 1
    assert "- bcos\n" in card


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_loaded_alone(family, tmp_path):
    model = made(from_disk(tmp_path / "base", family), family)
    model.save_pretrained(tmp_path / "adapter")
    auto = peft.AutoPeftModelForCausalLM if family == "llama" else peft.AutoPeftModelForSequenceClassification
    for load in (bcos_peft.load, auto.from_pretrained):
        loaded = load(tmp_path / "adapter")
        assert torch.equal(logits(loaded, family), logits(model, family))
        assert residual(loaded, family) < 1e-5
        unloaded = loaded.unload()
        assert state(unloaded.eval()) == state(from_disk(tmp_path / "base", family))
    config = PeftConfig.from_pretrained(tmp_path / "adapter")
    assert isinstance(config, BcosPeftConfig)
    assert config.conversion.b == 1.5


def test_with_a_task_of_no_name(tmp_path):
    """A masked language model, loaded by peft's `AutoPeftModel`."""
    tiny.model("bert", "MaskedLM").save_pretrained(tmp_path / "base")
    from transformers import AutoModelForMaskedLM

    model = learnt(get_peft_model(AutoModelForMaskedLM.from_pretrained(tmp_path / "base"), BcosConfig()))
    model.save_pretrained(tmp_path / "adapter")
    loaded = peft.AutoPeftModel.from_pretrained(tmp_path / "adapter")
    assert torch.equal(logits(loaded, "bert"), logits(model, "bert"))
    assert type(loaded.unload()).__name__ == "BertForMaskedLM"


@every
def test_unload_gives_the_stock_model_back(family):
    model = stock(family)
    before, numbers = state(model), logits(model, family)
    adapted = made(model, family)
    assert not torch.equal(logits(adapted, family), numbers)
    assert adapted.unload() is model
    assert state(model) == before
    assert torch.equal(logits(model, family), numbers)
    assert model.state_dict().keys() == stock(family).state_dict().keys()


@every
def test_merged_it_is_a_plain_bcos_model(family, tmp_path):
    adapted = made(stock(family, dtype=torch.float64), family)
    before = logits(adapted, family)
    model = adapted.merge_and_unload()
    assert type(model).__name__.startswith("Bcos")
    assert distance(logits(model, family), before) < 1e-12
    fresh = get_bcos_model(stock(family), BcosConfig(b=1.5))
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in fresh.named_parameters()]
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not hasattr(model, "peft_config")
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).eval()
    assert distance(logits(loaded, family), before) < 1e-12
    assert residual(loaded, family) < 1e-12
    lora = get_peft_model(model, LoraConfig(target_modules="all-linear"))
    assert residual(lora, family) < 1e-12


@every
def test_switched_off_it_is_the_stock_model(family):
    model = stock(family)
    numbers = logits(model, family)
    adapted = made(model, family)
    before, trained = logits(adapted, family), [parameter.requires_grad for parameter in adapted.parameters()]
    adapted.get_base_model().set_b(1.7)
    other = logits(adapted, family)
    with adapted.disable_adapter():
        assert torch.equal(logits(adapted, family), numbers)
        with pytest.raises(ValueError, match="none can be added meanwhile"):
            adapted.add_adapter("two", BcosConfig(b=1.7))
    assert torch.equal(logits(adapted, family), other), "also its B is that of before"
    assert not torch.equal(other, before)
    assert [parameter.requires_grad for parameter in adapted.parameters()] == trained


def test_explanations_of_text():
    model = made(stock("llama", attention_bias=False), "llama")
    explanation = BcosExplainer(model, tiny.tokenizer("bpe"))("A gripping film")
    assert abs(explanation.residual) < 1e-4 * max(1, abs(explanation.logit))


def test_a_head_and_other_modules_that_are_saved_whole(tmp_path):
    before = stock("distilbert")
    model = made(copy.deepcopy(before), "distilbert", modules_to_save=["ffn.lin1", "layer.0.output_layer_norm"])
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert "base_model.model.classifier.modules_to_save.default.weight" in trained
    assert not any("classifier" in name and "gain" in name for name in trained), "what is trained whole needs none"
    assert "base_model.model.distilbert.transformer.layer.1.ffn.lin1.modules_to_save.default.weight" in trained
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(copy.deepcopy(before), tmp_path)
    assert torch.equal(logits(loaded, "distilbert"), logits(model, "distilbert"))
    merged = model.merge_and_unload()
    assert distance(logits(merged, "distilbert"), logits(loaded, "distilbert")) < 1e-5


def test_two_adapters(tmp_path):
    before = stock()
    model = made(copy.deepcopy(before))
    first = logits(model, "bert")
    model.add_adapter("two", BcosConfig(b=1.5))
    assert torch.equal(logits(model, "bert"), first), "a new one is not active"
    model.set_adapter("two")
    learnt(model, seed=1)
    second = logits(model, "bert")
    assert distance(second, first) > 1e-3
    model.set_adapter("default")
    assert torch.equal(logits(model, "bert"), first)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(copy.deepcopy(before), tmp_path)
    loaded.load_adapter(tmp_path / "two", "other")
    assert torch.equal(logits(loaded, "bert"), first)
    loaded.set_adapter("other")
    assert torch.equal(logits(loaded, "bert"), second)
    loaded.delete_adapter("default")
    assert torch.equal(logits(loaded, "bert"), second)
    assert list(loaded.peft_config) == loaded.active_adapters == ["other"]
    model.delete_adapter("two")
    assert torch.equal(logits(model, "bert"), first)
    assert any(parameter.requires_grad for parameter in model.parameters())
    assert distance(logits(model.merge_and_unload(), "bert"), first) < 1e-5


def test_merging_the_other_of_two():
    model = made(stock())
    model.add_adapter("two", BcosConfig(b=1.5))
    model.set_adapter("two")
    second = logits(learnt(model, seed=1), "bert")
    model.set_adapter("default")
    for names in (["default", "two"], ["three"], "two", []):
        with pytest.raises(ValueError, match="adapter_names must name one BCOS adapter"):
            model.merge_and_unload(adapter_names=names)
    assert distance(logits(model.merge_and_unload(adapter_names=["two"]), "bert"), second) < 1e-5


def test_numbers_that_are_not_finite_are_not_merged_safely():
    model = made(stock())
    part = model.base_model.model.bert.embeddings.LayerNorm.modules_to_save["default"]
    part.weight.data[0] = torch.nan
    with pytest.raises(ValueError, match="NaNs or infinities detected in the adapter 'default'"):
        model.merge_and_unload(safe_merge=True)
    assert isinstance(model.base_model.model.bert.embeddings.LayerNorm, peft.utils.ModulesToSaveWrapper)


def test_gains_of_an_adapter_are_not_merged_by_hand():
    model = made(stock())
    before = logits(model, "bert")
    assert merge_gains(model) > 0
    assert torch.equal(logits(model, "bert"), before)


def test_copies_are_models_of_their_own():
    model = made(stock())
    before, other = logits(model, "bert"), copy.deepcopy(model)
    learnt(other, seed=5)
    assert not torch.equal(logits(other, "bert"), before)
    assert type(other.unload()).__name__ == "BertForSequenceClassification"
    assert torch.equal(logits(model, "bert"), before)


def test_for_inference_only():
    model = get_peft_model(stock(), BcosConfig(inference_mode=True))
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_without_memory_for_new_weights(tmp_path):
    """peft's `low_cpu_mem_usage` makes weights without values."""
    before = stock()
    model = learnt(get_peft_model(copy.deepcopy(before), BcosConfig(), low_cpu_mem_usage=True))
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(copy.deepcopy(before), tmp_path, low_cpu_mem_usage=True)
    assert not any(parameter.is_meta for parameter in loaded.parameters())
    assert torch.equal(logits(loaded, "bert"), logits(model, "bert"))


def test_where_the_model_moved_the_stock_one_follows():
    model = stock(dtype=torch.float64)
    adapted = get_peft_model(model, BcosConfig())
    with adapted.disable_adapter():
        assert model.classifier.bias.dtype == torch.float64
    adapted.float()
    with adapted.disable_adapter():
        assert logits(model, "bert").dtype == torch.float32


def test_to_generate():
    model = made(stock("llama"), "llama")
    ids = tiny.inputs(1, 6, padding=None, family="llama")["input_ids"]
    found = model.generate(input_ids=ids, max_new_tokens=4, do_sample=False)
    merged = model.merge_and_unload().generate(input_ids=ids, max_new_tokens=4, do_sample=False)
    assert found.shape[1] > ids.shape[1]
    assert torch.equal(found, merged)


def test_types_of_tasks():
    for family in ("bert", "llama"):
        assert type(made(stock(family), family)) is peft.MODEL_TYPE_TO_PEFT_MODEL_MAPPING[task_type(family)]
