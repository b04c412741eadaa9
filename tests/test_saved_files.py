"""Files of an earlier commit load, give what they gave, and are written again as they were (see tests/data/saved)."""

import json
from pathlib import Path

import peft
import pytest
import torch
from helpers import tiny
from helpers.paths import ROOT
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

import bcos_peft
from bcos_peft import BcosExplainer, Explanation, GenerationExplanation, attribute
from bcos_peft.evaluation import EvaluationResult


SAVED = Path("tests/data/saved")  # the adapter names its base by this path


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture
def outputs():
    return load_file(SAVED / "outputs.safetensors")


def same_tensors(one, two):
    one, two = load_file(one), load_file(two)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_a_model(tmp_path, outputs):
    model = AutoModelForSequenceClassification.from_pretrained(SAVED / "classifier")
    tokenizer = AutoTokenizer.from_pretrained(SAVED / "classifier")
    inputs = tiny.inputs()
    with torch.no_grad():
        assert torch.allclose(model(**inputs).logits, outputs["classifier.logits"], atol=1e-6)
    found = attribute(model, **inputs, target=1, foil=0)
    assert torch.allclose(found.scores, outputs["classifier.scores"], atol=1e-6)
    model.save_pretrained(tmp_path)
    weights, state = load_file(SAVED / "classifier" / "model.safetensors"), model.state_dict()
    assert all(torch.equal(state[name], weight) for name, weight in weights.items())
    old, new = (json.loads((folder / "config.json").read_text()) for folder in (SAVED / "classifier", tmp_path))
    assert old["bcos"].keys() | {"family", "calibration_pooling"} == new["bcos"].keys()
    assert {name: old["bcos"][name] for name in ("b", "b_pattern")} == {"b": 1.5, "b_pattern": [["classifier", 1.25]]}
    assert all(new["bcos"][name] == value for name, value in old["bcos"].items() if name != "bcos_version")
    explanation = BcosExplainer(model, tokenizer)("a gripping film, beautifully shot")
    before = Explanation.load(SAVED / "explanation.json")
    assert explanation.tokens == before.tokens
    assert explanation.scores == pytest.approx(before.scores, abs=1e-6)


@pytest.mark.parametrize("load", [bcos_peft.load, peft.AutoPeftModelForCausalLM.from_pretrained])
def test_an_adapter(tmp_path, outputs, load):
    model = load(str(SAVED / "adapter"))
    with torch.no_grad():
        logits = model(tiny.inputs(family="llama")["input_ids"]).logits
    assert torch.allclose(logits, outputs["adapter.logits"], atol=1e-5)
    model.save_pretrained(tmp_path)
    assert same_tensors(tmp_path / "adapter_model.safetensors", SAVED / "adapter" / "adapter_model.safetensors")
    old, new = (json.loads((folder / "adapter_config.json").read_text()) for folder in (SAVED / "adapter", tmp_path))
    assert old["bcos"].keys() == new["bcos"].keys()
    assert old["peft_type"] == new["peft_type"]


def test_its_base_is_a_stock_model():
    """So that the adapter's logits cannot come from it."""
    stock = AutoModelForCausalLM.from_pretrained(SAVED / "base")
    with torch.no_grad():
        logits = stock(tiny.inputs(family="llama")["input_ids"]).logits
    assert (logits - load_file(SAVED / "outputs.safetensors")["adapter.logits"]).abs().max() > 0.1


@pytest.mark.parametrize(
    ("cls", "name"),
    [
        (Explanation, "explanation.json"),
        (Explanation, "pair.json"),
        (Explanation, "next_token.json"),
        (GenerationExplanation, "generation.json"),
    ],
)
def test_explanations(tmp_path, cls, name):
    cls.load(SAVED / name).save(tmp_path / name)
    assert (tmp_path / name).read_bytes() == (SAVED / name).read_bytes()


def test_an_evaluation(tmp_path):
    result = EvaluationResult.load(SAVED / "evaluation")
    result.save(tmp_path / "evaluation")
    folders = SAVED / "evaluation", tmp_path / "evaluation"
    old, new = (json.loads((folder / "results.json").read_text()) for folder in folders)
    for parts in (old, new):
        for mean in parts["means"]:  # the ends of an interval are computed anew
            del mean["low"], mean["high"]
    assert old == new
