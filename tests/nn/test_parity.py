"""BERT against the published code: tiny random models, whose outputs it computed (see tests/data)."""

import json

import pytest
import torch
from helpers.paths import DATA
from safetensors.torch import load_file
from transformers import BertConfig, BertForSequenceClassification

from bcos_peft import BcosConfig, attribute, get_bcos_model


exponents = pytest.mark.parametrize("b", ["1.25", "2.0"])


def stock_model(b):
    """The conventional model, what the reference made of it, and its description."""
    about = json.loads((DATA / f"bert_b{b}.json").read_text())
    tensors = load_file(DATA / f"bert_b{b}.safetensors")
    fields = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    config = BertConfig(**{name: about["config"][name] for name in (*fields, "max_position_embeddings")})
    model = BertForSequenceClassification(config).eval()
    weights = {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected
    assert all("position_ids" in name for name in missing)
    return model, tensors, about


def close(found, expected):
    """Within 1e-4 of the largest value: the reference adds 1e-6 inside norms and cosines."""
    return (found - expected).abs().max() <= 1e-4 * expected.abs().max().clamp_min(1)


@exponents
def test_the_conventional_model_is_the_references(b):
    model, tensors, _ = stock_model(b)
    with torch.no_grad():
        logits = model(tensors["input_ids"], tensors["attention_mask"]).logits
    assert close(logits, tensors["conventional_logits"])
    assert not close(logits, tensors["logits"])


@exponents
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_logits_and_contributions(b, attention, dtype):
    model, tensors, about = stock_model(b)
    model.set_attn_implementation(attention)
    get_bcos_model(model.to(dtype), BcosConfig(b=float(b), normalize_weights=True))
    with torch.no_grad():
        logits = model(tensors["input_ids"], tensors["attention_mask"]).logits
    assert close(logits, tensors["logits"])
    result = attribute(model, tensors["input_ids"], tensors["attention_mask"], target=about["target"])
    assert close(result.scores, tensors["contributions"])
    assert close(result.logit, tensors["logits"][:, about["target"]])
    assert close(tensors["contributions"].sum(-1), result.logit)


@exponents
def test_the_comparison_can_fail(b):
    """Another B, or weights as they are, is not taken for the reference."""
    for config in (BcosConfig(b=float(b) + 0.05, normalize_weights=True), BcosConfig(b=float(b))):
        model, tensors, about = stock_model(b)
        get_bcos_model(model, config)
        result = attribute(model, tensors["input_ids"], tensors["attention_mask"], target=about["target"])
        assert not close(result.scores, tensors["contributions"])
