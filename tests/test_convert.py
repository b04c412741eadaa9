"""get_bcos_model: what it makes of a model."""

import copy
import inspect
import pickle

import pytest
import torch
from helpers import tiny
from helpers.conversion import assert_same, every_family, run, snapshot
from torch import nn
from transformers import BertForSequenceClassification

from bcos_peft import BcosConfig, attribute, get_bcos_model
from bcos_peft.nn import BcosLinear


every_task = pytest.mark.parametrize("task", tiny.TASKS)


def zero_biases(model):
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data.zero_()
    return model


# What a conversion does.


@every_family
@every_task
def test_with_b_1_and_without_biases_it_is_the_stock_model(family, task):
    model = zero_biases(tiny.model(family, task, torch.float64))
    expected = run(model, family)
    converted = get_bcos_model(model, BcosConfig(b=1.0, pooler_activation="dynamic"))
    assert converted is model
    tolerance = {"rtol": 0, "atol": 1e-5 if family == "deberta" else 1e-9}  # whose stock norm rounds to float32
    visible = tiny.inputs(3, 9, "right", family)["attention_mask"].bool()
    for key, value in run(model, family).items():
        if value.shape[:2] == visible.shape:  # what stands at padding is nobody's concern
            torch.testing.assert_close(value[visible], expected[key][visible], **tolerance)
        else:
            torch.testing.assert_close(value, expected[key], **tolerance)


@every_family
@every_task
def test_parameters_keep_their_names_and_identity(family, task):
    model = tiny.model(family, task)
    names, parameters = list(model.state_dict()), dict(model.named_parameters())
    get_bcos_model(model, BcosConfig(b=2.0))
    removed = set(names) - set(model.state_dict())
    assert removed == {name for name in names if name.endswith("bias")}
    assert list(model.state_dict()) == [name for name in names if name not in removed]
    for name, parameter in model.named_parameters():
        assert parameter is parameters[name]
    assert type(model).__name__ == "Bcos" + tiny.model_class(family, task).__name__
    assert isinstance(model, tiny.model_class(family, task))
    assert model.config.model_type == "bcos_" + family


@every_family
@every_task
def test_which_layers_have_an_exponent(family, task):
    model = get_bcos_model(tiny.model(family, task), BcosConfig(b=1.5))
    plain = {name for name, module in model.named_modules() if type(module) is nn.Linear}
    aligned = {name for name, module in model.named_modules() if isinstance(module, BcosLinear)}
    attention = ("query", "key", "value", "q_lin", "k_lin", "v_lin", "Wqkv", "in_proj", "_proj", "pos_q_proj")
    others = ("decoder", "vocab_projector", "generator_lm_head", "embeddings_project", "lm_head.dense")
    assert all(name.endswith(attention + others) for name in plain)
    assert not any(name.endswith(attention) for name in aligned - {"classifier.out_proj"})
    assert len(aligned) >= 6
    heads = {"classifier", "qa_outputs", "classifier.out_proj"}
    assert (task == "MaskedLM") != bool(heads & aligned)
    assert all(model.get_submodule(name).b == 1.5 for name in aligned)


def test_what_it_says_about_itself():
    model = tiny.model()
    model.config._name_or_path = "some/checkpoint"
    get_bcos_model(model, BcosConfig(b=1.5))
    assert model.bcos_config.base_model_name_or_path == "some/checkpoint"
    assert 0 <= model.bcos_config.probe_residual < 1e-5
    assert model.bcos_config.bcos_version
    assert "BcosLinear(in_features=32, out_features=3, b=1.5)" in repr(model)
    unverified = get_bcos_model(tiny.model(), verify=False)
    assert unverified.bcos_config.probe_residual is None
    again = get_bcos_model(tiny.model(), model.bcos_config, verify=False)
    assert again.bcos_config.probe_residual is None, "not that of the model before it"
    assert unverified.bcos_config.b == 1.25


def test_the_config_given_is_not_touched_and_not_shared():
    config = BcosConfig(b=1.5, b_pattern={"classifier": 1.0})
    first, second = get_bcos_model(tiny.model(), config), get_bcos_model(tiny.model(), config)
    assert config == BcosConfig(b=1.5, b_pattern={"classifier": 1.0})
    first.config.bcos["b"] = 3.0
    assert second.bcos_config.b == config.b == 1.5


def test_models_that_share_a_config():
    stock_config = tiny.config("bert")
    first, second = BertForSequenceClassification(stock_config), BertForSequenceClassification(stock_config)
    before, logits = snapshot(second), run(second.eval()).logits
    get_bcos_model(first)
    assert_same(second, before | {"modules": snapshot(second)["modules"]})
    assert type(stock_config).__name__ == "BertConfig"
    assert not hasattr(stock_config, "bcos")
    assert torch.equal(run(second).logits, logits)
    assert all(module.config is first.config for module in first.modules() if "config" in vars(module))


def test_b_pattern():
    pattern = {r"layer\.0\..*": 2.0, r".*intermediate\.dense": 1.5, "classifier": 1.0}
    model = get_bcos_model(tiny.model(), BcosConfig(b=1.25, b_pattern=pattern))
    assert model.bert.encoder.layer[0].intermediate.dense.b == 2.0, "the first match wins"
    assert model.bert.encoder.layer[1].intermediate.dense.b == 1.5
    assert model.bert.encoder.layer[1].output.dense.b == 1.25
    assert model.classifier.b == 1.0


@pytest.mark.parametrize("targets", [["intermediate.dense", "classifier"], r".*intermediate\.dense|classifier"])
def test_target_modules(targets):
    model = get_bcos_model(tiny.model(dtype=torch.float64), BcosConfig(b=2.0, target_modules=targets))
    aligned = [name for name, module in model.named_modules() if isinstance(module, BcosLinear)]
    assert aligned == [*(f"bert.encoder.layer.{i}.intermediate.dense" for i in range(2)), "classifier"]
    assert not any(name.endswith("bias") for name in model.state_dict()), "what is no target loses its bias"
    assert attribute(model, **tiny.inputs()).residual.abs().max() < 1e-10


def test_query_and_value_as_targets():
    """They may be aligned too: it stays exact."""
    model = get_bcos_model(tiny.model(dtype=torch.float64), BcosConfig(b=2.0, target_modules=["query", "value"]))
    assert isinstance(model.bert.encoder.layer[0].attention.self.query, BcosLinear)
    assert attribute(model, **tiny.inputs()).residual.abs().max() < 1e-10


def test_exclude_modules_win():
    config = BcosConfig(target_modules=["dense", "classifier"], exclude_modules=["pooler.dense", "output.dense"])
    model = get_bcos_model(tiny.model(), config)
    assert type(model.bert.pooler.dense) is nn.Linear
    assert type(model.bert.encoder.layer[0].attention.output.dense) is nn.Linear
    assert isinstance(model.bert.encoder.layer[0].intermediate.dense, BcosLinear)


def test_alignment_off_removes_the_biases_only():
    stock = zero_biases(tiny.model(dtype=torch.float64))
    model = get_bcos_model(
        tiny.model(dtype=torch.float64), BcosConfig(b=2.0, align=False, pooler_activation="dynamic")
    )
    torch.testing.assert_close(run(model).logits, run(stock).logits)
    assert not any(name.endswith("bias") for name in model.state_dict())


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "deberta-v2", "electra"])
def test_the_poolers_activation(family):
    """It is dropped or kept, and either way the logits sum."""
    identity, dynamic = (
        get_bcos_model(tiny.model(family, dtype=torch.float64), BcosConfig(b=1.0, pooler_activation=activation))
        for activation in ("identity", "dynamic")
    )
    inputs = tiny.inputs(3, 9, "right", family)
    stock = zero_biases(tiny.model(family, dtype=torch.float64))
    torch.testing.assert_close(run(dynamic, family).logits, run(stock, family).logits)
    for model in (identity, dynamic):
        assert attribute(model, **inputs).residual.abs().max() < 1e-10
    changed = not torch.allclose(run(identity, family).logits, run(dynamic, family).logits)
    # DeBERTa's and ELECTRA's heads have a GELU, which is no saturating function and stays.
    assert changed == (family not in ("deberta-v2", "electra"))


@every_family
def test_tied_embeddings_stay_tied(family):
    for convert_head in (False, True):
        model = tiny.model(family, "MaskedLM", torch.float64)
        tied = {key: value for key, value in model.all_tied_weights_keys.items() if not key.endswith("bias")}
        get_bcos_model(model, BcosConfig(b=1.5, convert_head=convert_head))
        assert model.all_tied_weights_keys == tied
        assert tied
        words, head = model.get_input_embeddings().weight, model.get_output_embeddings()
        assert head.weight is words
        assert head.bias is None
        assert isinstance(head, BcosLinear) == convert_head
        model.tie_weights()
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
        result = attribute(model, **tiny.inputs(2, 8, "right", family), target=77)
        assert result.residual.abs().max() < 1e-10
        assert result.logit.abs().min() > 1e-6


def test_untied_embeddings_stay_untied():
    model = get_bcos_model(tiny.model(task="MaskedLM", tie_word_embeddings=False))
    assert model.get_output_embeddings().weight is not model.get_input_embeddings().weight


@every_family
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision(family, dtype):
    model = get_bcos_model(tiny.model(family, dtype=dtype), BcosConfig(b=1.25))
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert model.bcos_config.probe_residual < 0.05
    assert run(model, family).logits.dtype == dtype
    exact = get_bcos_model(tiny.model(family, dtype=dtype).float(), BcosConfig(b=1.25))
    torch.testing.assert_close(run(model, family).logits.float(), run(exact, family).logits, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta", "deberta"])
def test_copies(family):
    model = get_bcos_model(tiny.model(family), BcosConfig(b=1.5, pooler_activation="dynamic"))
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(twin) is type(model)
        assert twin.config is not model.config
        assert torch.equal(run(twin, family).logits, run(model, family).logits)
        inputs = tiny.inputs(2, 8, "right", family)
        assert torch.equal(attribute(twin, **inputs).scores, attribute(model, **inputs).scores)


def test_training_mode_and_frozen_parameters_are_kept():
    model = tiny.model().train()
    model.bert.requires_grad_(False)
    get_bcos_model(model)
    assert all(module.training for module in model.modules())
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["classifier.weight"]


def test_on_the_meta_device():
    with torch.device("meta"):
        model = BertForSequenceClassification(tiny.config("bert"))
    get_bcos_model(model, BcosConfig(b=1.5))
    assert model.bcos_config.probe_residual is None
    assert model.classifier.b == 1.5
    model.to_empty(device="cpu").load_state_dict(get_bcos_model(tiny.model()).state_dict())
    model.tie_weights()


def test_a_head_as_target_needs_convert_head():
    model = tiny.model(task="MaskedLM")
    with pytest.raises(ValueError, match="convert_head=True"):
        get_bcos_model(model, BcosConfig(target_modules=["decoder"]))
    get_bcos_model(model, BcosConfig(target_modules=["decoder"], convert_head=True))
    assert isinstance(model.cls.predictions.decoder, BcosLinear)


@pytest.mark.parametrize("padding", [-1, tiny.VOCAB_SIZE])
@pytest.mark.parametrize("task", ["CausalLM", "SequenceClassification"])
def test_a_padding_token_outside_the_vocabulary(task, padding):
    """Some configs have -1, and others that of a token that is yet to be added."""
    model = tiny.model("llama", task)
    model.config.pad_token_id = padding
    model = get_bcos_model(model)
    found = attribute(model, torch.tensor([[5, 6]]), torch.tensor([[1, 1]]))
    assert found.residual.abs().max() < 1e-5
    if task == "SequenceClassification":
        with pytest.raises(ValueError, match="no token for it: set model.config.pad_token_id"):
            attribute(model, torch.tensor([[5, 6]]), torch.tensor([[1, 0]]))


def test_a_model_of_few_positions():
    assert get_bcos_model(tiny.model("gpt2", "CausalLM", n_positions=4)).bcos_config.probe_residual < 1e-5


@pytest.mark.parametrize("family", [*tiny.FAMILIES, *tiny.DECODERS])
def test_forward_keeps_its_signature(family):
    """The Trainer reads the columns of a dataset off it, and `generate` what a model takes."""
    stock = tiny.model(family, "CausalLM" if family in tiny.DECODERS else "SequenceClassification")
    wanted = inspect.signature(stock.forward)
    assert inspect.signature(get_bcos_model(stock, BcosConfig(b=1.5)).forward) == wanted
