"""LoRA inside B-cos layers of architectures without a table, encoder-decoders among them."""

import pytest
import torch
from helpers import trials
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import BitsAndBytesConfig

import bcos_peft
from bcos_peft import BcosConfig, get_bcos_model


pytestmark = pytest.mark.newest

FAST = ["t5", "gpt_oss", "nomic_bert", "jamba"]
MORE = """
    bart marian led qwen3_next falcon mpnet pegasus m2m_100 mbart phi bloom deepseek_v3
    gemma4_text olmo2 granite mamba mamba2 falcon_h1 lfm2 rwkv albert qwen2_moe glm4
    starcoder2
""".split()


@pytest.mark.parametrize("model_type", [*FAST, *(pytest.param(one, marks=pytest.mark.slow) for one in MORE)])
def test_it_learns_and_is_saved_loaded_and_merged(model_type, tmp_path):
    model = trials.converted(model_type)
    model.save_pretrained(tmp_path / "base")
    before = trials.logits(model)
    # In Mamba's blocks stock code multiplies with some weights itself, and peft refuses them.
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=16, target_modules="all-linear"))
    torch.testing.assert_close(trials.logits(adapted), before, rtol=1e-4, atol=1e-5)
    trials.train(adapted)
    assert trials.residual(adapted) < 1e-4
    after = trials.logits(adapted)
    assert trials.distance(after, before) > 1e-3
    adapted.save_pretrained(tmp_path / "adapter")
    base = trials.auto_class(model_type).from_pretrained(tmp_path / "base", experts_implementation="eager")
    loaded = PeftModel.from_pretrained(base, tmp_path / "adapter")
    assert trials.distance(trials.logits(loaded), after) < 1e-4
    again = bcos_peft.load(tmp_path / "adapter", base=str(tmp_path / "base"))
    assert trials.distance(trials.logits(again), after) < 1e-4
    merged = adapted.merge_and_unload()
    assert trials.distance(trials.logits(merged), after) < 1e-4
    assert trials.residual(merged) < 1e-4


@pytest.mark.parametrize(
    ("model_type", "bits"),
    [("led", 8), ("jamba", 4)]
    + [
        pytest.param(one, bits, marks=pytest.mark.slow)
        for one, bits in [("led", 4), ("jamba", 8), ("t5", 4), ("t5", 8), ("bloom", 4), ("lfm2", 8), ("gpt_oss", 4)]
    ],
)
def test_quantised_weights_are_converted_saved_and_trained_beside(model_type, bits, tmp_path):
    config = BitsAndBytesConfig(load_in_4bit=bits == 4, load_in_8bit=bits == 8)
    trials.stock(model_type).save_pretrained(tmp_path / "stock")
    auto = trials.auto_class(model_type)
    more = {"dtype": torch.float32, "experts_implementation": "eager"}
    model = auto.from_pretrained(tmp_path / "stock", quantization_config=config, **more)
    with trials.check.without_tables():
        model = get_bcos_model(model, BcosConfig(b=1.5))
    assert trials.residual(model) < 1e-4
    before = trials.logits(model)
    model.save_pretrained(tmp_path / "converted")
    loaded = auto.from_pretrained(tmp_path / "converted", **more)
    torch.testing.assert_close(trials.logits(loaded), before)
    adapted = trials.train(get_peft_model(model, LoraConfig(r=4, target_modules="all-linear")))
    assert trials.residual(adapted) < 1e-4


def test_tokens_that_were_added_to_an_encoder_decoder(tmp_path):
    model = trials.stock("t5")
    model.save_pretrained(tmp_path / "stock")
    model.resize_token_embeddings(trials.configs.VOCABULARY + 3)
    with trials.check.without_tables():
        model = get_bcos_model(type(model).from_pretrained(tmp_path / "stock"), BcosConfig(b=1.5))
    model.resize_token_embeddings(trials.configs.VOCABULARY + 3)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
    expected = trials.logits(trials.train(adapted))
    adapted.save_pretrained(tmp_path / "rows", save_embedding_layers=True)
    loaded = bcos_peft.load(tmp_path / "rows", base=str(tmp_path / "stock"))
    assert trials.distance(trials.logits(loaded), expected) < 1e-4
    adapted.save_pretrained(tmp_path / "none", save_embedding_layers=False)
    with pytest.raises(ValueError, match="without\\s+their rows"):
        bcos_peft.load(tmp_path / "none", base=str(tmp_path / "stock"))
