"""Forwards that trainers and kernel libraries have replaced: converted models see through them, or say what to do."""

import importlib.machinery
import sys
import types

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from helpers import tiny
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from bcos_peft import BcosConfig, attribute, explanation_mode, get_bcos_model
from bcos_peft.nn import BcosLayer


CONFIG = BcosConfig(b=1.25)


def state(model):
    return {name: (type(module), dict(vars(module))) for name, module in model.named_modules()}


def in_bf16(model):
    """As the Trainer prepares a model for mixed precision."""
    AcceleratorState._reset_state(True)  # it remembers the precision of whoever was first in the process
    try:
        return Accelerator(mixed_precision="bf16", cpu=True).prepare_model(model)
    finally:
        AcceleratorState._reset_state(True)


@pytest.fixture
def liger(monkeypatch):
    """A package of Liger's name, with the table and the kind of functions that the real one has."""

    def swiglu(self, x):
        return self.down_proj(torch.nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))

    def patch(model):
        for layer in model.model.layers:
            layer.mlp.__dict__["forward"] = types.MethodType(swiglu, layer.mlp)

    def apply(model):
        table[model.config.model_type](model=model)

    table = {"llama": patch}
    names = ("liger_kernel", "liger_kernel.transformers", "liger_kernel.transformers.monkey_patch")
    for name in names:
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module)
    sys.modules[names[-1]].MODEL_TYPE_TO_APPLY_LIGER_FN = table
    return types.SimpleNamespace(table=table, swiglu=swiglu, patch=patch, apply=apply)


def test_explanations_leave_mixed_precision_aside():
    """After a training in bf16 the forward is still the one that accelerate wrapped."""
    model = get_bcos_model(tiny.model("bert"), CONFIG)
    inputs = tiny.inputs(3, 9)
    expected = attribute(model, **inputs)
    assert in_bf16(model) is model
    with torch.no_grad():
        rough = model(**inputs).logits
    assert not torch.equal(rough, expected.logits), "it does compute in bf16"
    found = attribute(model, **inputs)
    assert torch.equal(found.scores, expected.scores)
    assert found.residual.abs().max() < 1e-5
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, rough), "and does so again"


def test_a_model_in_mixed_precision_is_converted_after_loading_it_again(tmp_path):
    model = tiny.model("bert")
    in_bf16(model)
    before = state(model)
    with pytest.raises(ValueError, match="Cannot convert this BertForSequenceClassification.*save it, load it again"):
        get_bcos_model(model, CONFIG)
    assert state(model) == before
    model.save_pretrained(tmp_path)
    again = get_bcos_model(AutoModelForSequenceClassification.from_pretrained(tmp_path), CONFIG)
    assert attribute(again, **tiny.inputs()).residual.abs().max() < 1e-5


def test_liger_asked_for_by_a_trainer(liger):
    model = get_bcos_model(tiny.model("llama", "CausalLM"), CONFIG)
    before = state(model)
    with pytest.raises(ValueError, match="Leave use_liger_kernel=False"):
        liger.apply(model)
    assert state(model) == before
    assert liger.table["llama"] is liger.patch, "stock models are as they were"


def test_liger_asked_for_by_a_trainer_of_a_loaded_model(liger, tmp_path):
    get_bcos_model(tiny.model("llama", "CausalLM"), CONFIG).save_pretrained(tmp_path)
    del liger.table["bcos_llama"]
    with pytest.raises(ValueError, match="BcosLlamaForCausalLM.*use_liger_kernel"):
        liger.apply(AutoModelForCausalLM.from_pretrained(tmp_path))


def test_liger_in_a_stock_model(liger):
    model = tiny.model("llama", "CausalLM")
    liger.apply(model)
    before = state(model)
    with pytest.raises(ValueError, match=r"module 'model.layers.0.mlp' \(LlamaMLP\).*Liger"):
        get_bcos_model(model, CONFIG)
    assert state(model) == before


def test_liger_in_a_stock_class(liger, monkeypatch):
    liger.swiglu.__module__ = "liger_kernel.transformers.swiglu"
    model = tiny.model("llama", "CausalLM")
    monkeypatch.setattr(type(model.model.layers[0].mlp), "forward", liger.swiglu)
    with pytest.raises(ValueError, match=r"'model.layers.0.mlp'.*Liger kernels have replaced its code, for the whole"):
        get_bcos_model(model, CONFIG)
    assert not any(isinstance(module, BcosLayer) for module in model.modules())


def test_liger_in_a_converted_model(liger, tmp_path):
    """Put there by hand: it predicts, and is explained once it is loaded without."""
    model = get_bcos_model(tiny.model("llama", "CausalLM"), CONFIG).eval()
    inputs = tiny.inputs(2, 8, family="llama")
    expected = attribute(model, **inputs)
    liger.patch(model)
    with pytest.raises(ValueError, match=r"Cannot explain.*'model.layers.0.mlp' \(LlamaMLP\).*load it again without"):
        attribute(model, **inputs)
    with pytest.raises(ValueError, match="Cannot explain"), explanation_mode(model):
        pass
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(attribute(again, **inputs).scores, expected.scores)


def test_without_liger_nothing_is_imported():
    get_bcos_model(tiny.model("llama", "CausalLM"), CONFIG)
    assert "liger_kernel" not in sys.modules
