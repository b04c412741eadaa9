"""Fused kernels are set aside while a model is explained, and are there again afterwards."""

import types

import pytest
import torch
from helpers import tiny
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from bcos_peft import BcosConfig, attribute, get_bcos_model
from bcos_peft.attribution import explanation_mode
from bcos_peft.attribution.kernels import _refuse_fused_scans


class Kernel(torch.autograd.Function):
    """Attention as a kernel computes it: what is inside is not seen, and its gradients are those of training."""

    @staticmethod
    def forward(ctx, query, key, value, mask):
        ctx.save_for_backward(query, key, value, mask)
        return torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)

    @staticmethod
    def backward(ctx, gradient):
        query, key, value = (tensor.detach().requires_grad_() for tensor in ctx.saved_tensors[:3])
        with torch.enable_grad():
            y = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=ctx.saved_tensors[3])
            return *torch.autograd.grad(y, (query, key, value), gradient), None


def kernel(module, query, key, value, attention_mask, **kwargs):
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    if attention_mask is None:
        attention_mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool).tril()
    return Kernel.apply(query, key, value, attention_mask).transpose(1, 2), None


@pytest.fixture
def flash(monkeypatch):
    for interface, function in ((AttentionInterface, kernel), (AttentionMaskInterface, sdpa_mask)):
        monkeypatch.setitem(interface._global_mapping, "my_flash", function)
    return "my_flash"


@pytest.mark.parametrize(("family", "task"), [("llama", "CausalLM"), ("bert", "SequenceClassification")])
def test_fused_attention_is_set_aside(flash, family, task):
    model = get_bcos_model(tiny.model(family, task, dtype=torch.float64), BcosConfig(b=1.5))
    inputs = tiny.inputs(2, 9, "right", family)
    expected = attribute(model, **inputs, target=1)
    model.config._attn_implementation = flash
    found = attribute(model, **inputs, target=1)
    torch.testing.assert_close(found.scores, expected.scores)
    assert found.residual.abs().max() < 1e-10
    with explanation_mode(model):
        assert model.config._attn_implementation in ("sdpa", "eager")
    assert model.config._attn_implementation == flash
    with torch.no_grad():
        assert model(**inputs).logits.isfinite().all(), "and predicts with it"


def test_fused_scans_are_refused(monkeypatch):
    mixer = type("Mixer", (torch.nn.Linear,), {"cuda_kernels_forward": None, "__module__": __name__})(2, 2)
    monkeypatch.setattr(f"{__name__}.is_fast_path_available", True, raising=False)
    _refuse_fused_scans([("layers.0.mixer", mixer)])  # on the CPU it runs torch's operations
    monkeypatch.setattr(mixer, "parameters", lambda: [types.SimpleNamespace(is_cuda=True)])
    with pytest.raises(ValueError, match=r"'layers.0.mixer' \(Mixer\) runs fused kernels on the GPU.*model.cpu"):
        _refuse_fused_scans([("layers.0.mixer", mixer)])
