"""Models from GGUF files (of llama.cpp): transformers unpacks their weights, yet marks the models as quantised."""

import pytest
import torch
from helpers import tiny
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from bcos_peft import BcosConfig, attribute, get_bcos_model


pytestmark = pytest.mark.newest  # only the newest transformers marks them


@pytest.fixture
def loaded(tmp_path):
    """A tiny Llama, written to a file and loaded from it."""
    import gguf

    stock = tiny.model("llama", "CausalLM", attention_bias=False, mlp_bias=False)
    config = stock.config
    writer = gguf.GGUFWriter(tmp_path / "tiny.gguf", "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, parameter in stock.named_parameters():
        values = parameter.detach().numpy()
        packed = name.endswith("proj.weight")
        kind = gguf.GGMLQuantizationType.Q8_0
        stored = gguf.quantize(values, kind) if packed else values
        writer.add_tensor(names.get_name(name, (".weight",)), stored, raw_dtype=kind if packed else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    model = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="tiny.gguf", dtype=torch.float32)
    assert model.is_quantized, "else there is nothing to test"
    return model


def test_a_converted_one_saves_and_loads(loaded, tmp_path):
    with pytest.raises(ValueError, match="not serializable"):
        loaded.save_pretrained(tmp_path / "stock")
    model = get_bcos_model(loaded, BcosConfig(b=1.25)).eval()
    model.save_pretrained(tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    inputs = tiny.inputs(2, 8, family="llama")
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits, model(**inputs).logits)
    assert attribute(again, **inputs).residual.abs().max() < 1e-4


def test_a_converted_one_trains(loaded, tmp_path):
    model = get_bcos_model(loaded, BcosConfig(b=1.25))
    before = model.model.layers[0].mlp.up_proj.weight.clone()
    ids = tiny.inputs(1, 8, None)["input_ids"][0]
    arguments = TrainingArguments(tmp_path, max_steps=1, use_cpu=True, report_to=[], save_strategy="no")
    Trainer(model, arguments, train_dataset=[{"input_ids": ids, "labels": ids}]).train()
    assert not torch.equal(before, model.model.layers[0].mlp.up_proj.weight)


def test_a_refused_conversion_leaves_the_mark(loaded, monkeypatch):
    monkeypatch.setattr("bcos_peft.attribution.certificate._probe_residual", lambda model: 1.0)
    with pytest.raises(ValueError, match="put back as it was"):
        get_bcos_model(loaded, BcosConfig(b=1.25))
    assert loaded.is_quantized
    assert loaded.hf_quantizer is not None
    assert loaded.config.quantization_config.quant_method == "gguf"
    assert loaded.quantization_method == "gguf"
