"""get_bcos_model on models that accelerate has hooked."""

import dataclasses

import pytest
import torch
from accelerate import cpu_offload, dispatch_model
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from helpers import tiny
from helpers.conversion import run
from transformers import BertForSequenceClassification

from bcos_peft import BcosConfig, attribute, get_bcos_model, merge_gains, train_only
from bcos_peft.families import find_family


# Hooks of accelerate: each keeps the stock forward on the instance, in `_old_forward`.


class Counting(ModelHook):
    def __init__(self):
        self.calls = 0

    def pre_forward(self, module, *args, **kwargs):
        self.calls += 1
        return args, kwargs


def offload(model):
    return cpu_offload(model, execution_device=torch.device("cpu"))


def dispatch(model):
    return dispatch_model(model, device_map={"bert": "cpu", "classifier": "cpu"}, main_device="cpu", force_hooks=True)


def add_hooks(model):
    for module in model.modules():
        add_hook_to_module(module, Counting())
    return model


def test_gains_are_offloaded_with_their_layers():
    model = get_bcos_model(tiny.model(), BcosConfig())
    train_only(model, "gain")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".gain." in name:
                parameter.mul_(1.5)
    expected = model.eval()(**tiny.inputs()).logits
    offload(model)
    torch.testing.assert_close(model(**tiny.inputs()).logits, expected)
    assert attribute(model, **tiny.inputs()).residual.abs().max() < 1e-4
    with pytest.raises(ValueError, match=r"is kept elsewhere \(offloaded\).*Nothing was changed"):
        merge_gains(model)


@pytest.mark.parametrize("attach", [offload, dispatch, add_hooks])
@pytest.mark.parametrize("when", ["before", "after"])
def test_hooks_of_accelerate(attach, when):
    expected = get_bcos_model(tiny.model(), BcosConfig(b=2.0))
    model = tiny.model()
    if when == "before":
        attach(model)
        get_bcos_model(model, BcosConfig(b=2.0))
        assert model.bcos_config.probe_residual < 1e-4
    else:
        get_bcos_model(model, BcosConfig(b=2.0))
        attach(model)
    inputs = tiny.inputs() | {"target": 1, "baseline": "average"}
    exact = attribute(expected, **inputs)
    torch.testing.assert_close(run(model).logits, run(expected).logits)
    flags = [(name, p.requires_grad) for name, p in model.named_parameters()]
    found = attribute(model, **inputs)
    torch.testing.assert_close((found.scores, found.baseline), (exact.scores, exact.baseline))
    assert [(name, p.requires_grad) for name, p in model.named_parameters()] == flags, "offloading makes new ones"
    torch.testing.assert_close(run(model).logits, run(expected).logits)
    remove_hook_from_module(model, recurse=True)
    assert "_hf_hook" not in vars(model.classifier)
    if not any(p.is_meta for p in model.parameters()):
        torch.testing.assert_close(run(model).logits, run(expected).logits)
        torch.testing.assert_close(attribute(model, **inputs).scores, exact.scores)


def test_hooks_of_accelerate_are_called():
    model = add_hooks(tiny.model())
    hook = model.classifier._hf_hook
    get_bcos_model(model)
    before = hook.calls
    run(model)
    assert hook.calls == before + 1


@pytest.mark.parametrize("attach", [offload, dispatch, add_hooks])
def test_a_refusal_keeps_the_hooks_of_accelerate(attach):
    model = attach(tiny.model())
    expected = run(model).logits
    before = [(id(vars(m).get("_hf_hook")), id(vars(m).get("_old_forward"))) for m in model.modules()]
    live = dataclasses.replace(find_family("bert"), parts={"word": "embeddings.word_embeddings"})
    with pytest.raises(ValueError, match="not linear in its input"):
        get_bcos_model(model, family=live)
    assert [(id(vars(m).get("_hf_hook")), id(vars(m).get("_old_forward"))) for m in model.modules()] == before
    assert type(model) is BertForSequenceClassification
    torch.testing.assert_close(run(model).logits, expected)


def test_a_model_whose_hooks_were_removed():
    """accelerate leaves the stock forward, bound, on each instance."""
    model = add_hooks(tiny.model())
    remove_hook_from_module(model, recurse=True)
    get_bcos_model(model, BcosConfig(b=2.0))
    torch.testing.assert_close(run(model).logits, run(get_bcos_model(tiny.model(), BcosConfig(b=2.0))).logits)
