"""What trains and holds weights, on architectures without a table."""

import pytest
import torch
from helpers import trials

from bcos_peft import BcosConfig, attribute, get_bcos_model, merge_gains, steady_weights, train_only


pytestmark = pytest.mark.newest

FAST = ["t5", "nomic_bert", "gemma4_text", "mamba"]
MORE = """
    gpt_oss bart marian pegasus m2m_100 led mbart phi falcon bloom qwen3_next deepseek_v3
    llama4_text olmo2 granite mamba2 jamba falcon_h1 lfm2 rwkv mpnet albert qwen2_moe glm4
    starcoder2
""".split()
all_of_them = pytest.mark.parametrize(
    "model_type", [*FAST, *(pytest.param(one, marks=pytest.mark.slow) for one in MORE)]
)


@all_of_them
def test_gains_are_trained_saved_loaded_and_merged(model_type, tmp_path):
    model = trials.converted(model_type)
    train_only(model, "gain_and_norms")
    after = trials.logits(trials.train(model))
    assert trials.residual(model) < 1e-4
    model.save_pretrained(tmp_path)
    loaded = trials.auto_class(model_type).from_pretrained(tmp_path, experts_implementation="eager")
    torch.testing.assert_close(trials.logits(loaded), after)
    left = merge_gains(model)
    assert left == 0 or model_type in ("albert", "zamba", "mpt")
    assert trials.distance(trials.logits(model), after) < 1e-4


@all_of_them
def test_steady_weights_and_automatic_precision(model_type):
    model = trials.converted(model_type)
    inputs, before = trials.inputs_of(model), trials.logits(model)
    expected = attribute(model, **inputs)
    with steady_weights(model):
        torch.testing.assert_close(trials.logits(model), before)
        torch.testing.assert_close(trials.logits(model), before)
        assert trials.check.change_of(attribute(model, **inputs), expected) < 1e-5
    with torch.autocast("cpu", torch.bfloat16):
        assert trials.residual(model) < 5e-2
        loss = model.train()(**trials.batch_of(model)).loss
        loss.backward()
    assert loss.isfinite()


# In stock code, too, they have none.
WITHOUT_CHECKPOINTS = {"mpnet", "albert"}


@all_of_them
def test_gradient_checkpointing_changes_neither_gradients_nor_explanations(model_type):
    model = trials.without_dropout(trials.converted(model_type))
    expected, batch = attribute(model, **trials.inputs_of(model)), trials.batch_of(model)
    assert model.supports_gradient_checkpointing == (model_type not in WITHOUT_CHECKPOINTS)
    if model_type in WITHOUT_CHECKPOINTS:
        return
    found = []
    for enable in (
        lambda: None,
        getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable),
    ):
        enable()
        model.zero_grad()
        model.train()(**batch).loss.backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=1e-5)
    assert trials.check.change_of(attribute(model, **trials.inputs_of(model)), expected) < 1e-5
    assert model.training


@pytest.mark.parametrize("model_type", ["mamba", "falcon_mamba", "jamba"])
def test_layers_that_stock_code_multiplies_with_itself_stay_as_they_are(model_type):
    """A B-cos layer there would never be called, and the bias of the step size is in no logit."""
    model, stock = trials.converted(model_type), trials.stock(model_type)
    (name,) = model.bcos_family.untouched
    assert name.endswith("dt_proj")
    steps = {name: module for name, module in stock.named_modules() if name.endswith("dt_proj")}
    assert steps
    for name, module in steps.items():
        found = model.get_submodule(name)
        assert type(found) is type(module)
        assert torch.equal(found.bias, module.bias)
    with trials.check.without_tables():
        named = get_bcos_model(stock, BcosConfig(b=1.5, target_modules=["dt_proj", "out_proj"]))
    assert all(type(named.get_submodule(name)) is torch.nn.Linear for name in steps)
