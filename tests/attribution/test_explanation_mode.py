"""Explaining leaves no trace, in whatever mode, precision or context a model is."""

import copy

import pytest
import torch
from helpers import tiny
from helpers.certificates import (
    EXPONENTS,
    assert_unchanged,
    check,
    converted,
    every_family,
    every_task,
    hooks,
    outputs_of,
)

from bcos_peft import BcosConfig, attribute, explanation_mode, get_bcos_model


def checkpoint_activations(model):
    (getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable)()


@every_family
@every_task
def test_leaves_no_trace(family, task):
    model = converted(family, task, torch.float32)
    model.train()
    checkpoint_activations(model)
    parameters = list(model.parameters())
    parameters[0].requires_grad_(False)
    parameters[-1].requires_grad_(False)
    parameters[1].grad = torch.full_like(parameters[1], 3.0)
    flags = [parameter.requires_grad for parameter in parameters]
    assert flags == [False, *[True] * (len(flags) - 2), False], "converting has kept them"
    weights, hooks_before = copy.deepcopy(model.state_dict()), hooks(model)
    inputs = tiny.inputs(3, 9, "right", family)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        result = attribute(model, **inputs, target=outputs_of(task)[1])
        state = torch.random.get_rng_state()
        torch.manual_seed(0)
        assert torch.equal(state, torch.random.get_rng_state()), "no dropout, no random numbers used"
    check(model, result, inputs)
    assert [parameter.requires_grad for parameter in parameters] == flags
    assert (parameters[1].grad == 3).all()
    assert all(parameter.grad is None for parameter in (parameters[0], *parameters[2:]))
    assert not result.scores.requires_grad
    assert not result.logit.requires_grad
    assert not result.logits.requires_grad
    assert_unchanged(model, weights, training=True)
    assert hooks(model) == hooks_before
    assert any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


@every_family
def test_gradient_checkpointing_trains_to_the_same_gradients(family):
    model = converted(family)
    inputs = tiny.inputs(2, 9, "right", family) | {"labels": torch.tensor([0, 2])}
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout) or "Dropout" in type(module).__name__:
            module.p = module.drop_prob = 0.0
    model.train()
    model(**inputs).loss.backward()
    plain = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    checkpoint_activations(model)
    model(**inputs).loss.backward()
    assert plain
    for name, parameter in model.named_parameters():
        if name in plain:
            torch.testing.assert_close(parameter.grad, plain[name])


def test_modules_in_mixed_modes_come_back_as_they_were():
    model = converted()
    model.classifier.train()
    attribute(model, **tiny.inputs())
    assert [name for name, module in model.named_modules() if module.training] == ["classifier"]


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("family", ["bert", "modernbert", "deberta-v2"])
def test_under_no_grad_and_inference_mode(context, family):
    model = converted(family)
    inputs = tiny.inputs(3, 9, "left", family)
    expected = attribute(model, **inputs, target=1)
    with context():
        made_inside = {name: value.clone() for name, value in inputs.items()}
        result = attribute(model, **made_inside, target=1)
        assert torch.is_inference_mode_enabled() == (context is torch.inference_mode)
        assert not torch.is_grad_enabled()
    torch.testing.assert_close(result.scores, expected.scores)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_under_autocast():
    model = converted(dtype=torch.float32)
    inputs = tiny.inputs(3, 9)
    with torch.autocast("cpu", torch.bfloat16):
        result = attribute(model, **inputs, target=1)
    assert result.scores.dtype == torch.float32
    assert (result.residual.abs() <= 0.02 * result.scores.abs().sum(-1)).all()
    exact = attribute(model, **inputs, target=1)
    torch.testing.assert_close(result.scores, exact.scores, rtol=0.05, atol=0.05)


def test_explanation_mode_nests_and_survives_exceptions():
    model = converted(dtype=torch.float32).train()
    before = hooks(model)
    with explanation_mode(model) as entered:
        assert entered is model
        assert {"forward"} <= vars(model).keys() & vars(model.bert).keys()
        with explanation_mode(model):
            assert hooks(model) == before
        assert model.classifier.explaining, "leaving the inner block changes nothing"
        assert not model.training
        attribute(model, **tiny.inputs())
        assert model.classifier.explaining
    assert_unchanged(model, training=True)
    assert hooks(model) == before
    with pytest.raises(KeyError), explanation_mode(model), explanation_mode(model):
        raise KeyError("inside")
    assert_unchanged(model, training=True)
    assert hooks(model) == before


def test_a_failing_forward_leaves_no_trace():
    model = converted(dtype=torch.float32).train()

    def fail(module, args, output):
        raise RuntimeError("out of memory")

    handle = model.classifier.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        attribute(model, **tiny.inputs())
    handle.remove()
    assert_unchanged(model, training=True)
    assert not any(forward or pre for forward, pre in hooks(model).values())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_hooks_of_the_user_stay():
    model = converted()
    seen = []
    model.classifier.register_forward_hook(lambda module, args, output: seen.append(1))
    attribute(model, **tiny.inputs())
    assert seen == [1]
    assert len(model.classifier._forward_hooks) == 1


def test_further_inputs_reach_the_model():
    model = converted()
    inputs = tiny.inputs(3, 9, "left")
    types = (torch.arange(9) > 5).long().expand(3, 9).clone()
    plain, typed = attribute(model, **inputs, target=1), attribute(model, **inputs, target=1, token_type_ids=types)
    assert (plain.scores - typed.scores).abs().max() > 1e-3
    check(model, typed, inputs)
    alone = attribute(model, inputs["input_ids"][2:, 6:], target=1, token_type_ids=types[2:, 6:])
    torch.testing.assert_close(typed.scores[2, 6:], alone.scores[0])
    one_row = attribute(model, **inputs, target=1, token_type_ids=types[:1])  # rolled row by row, too
    assert torch.equal(one_row.scores, typed.scores)
    for wrong in (types[:2], types[:, 1:], types.tolist()):
        with pytest.raises(ValueError, match=r"token_type_ids must be .* the shape of input_ids, \(3, 9\), got"):
            attribute(model, **inputs, token_type_ids=wrong)


def test_a_model_that_returns_tuples():
    for task in ("SequenceClassification", "QuestionAnswering"):
        model = converted(task=task)
        expected = attribute(model, **tiny.inputs(), target=1)
        model.config.return_dict = False
        torch.testing.assert_close(attribute(model, **tiny.inputs(), target=1).scores, expected.scores)


@pytest.mark.parametrize("mask_type", [torch.bool, torch.float32, torch.int32], ids=str)
def test_masks_of_any_type(mask_type):
    model = converted()
    inputs = tiny.inputs(3, 9, "left")
    expected = attribute(model, **inputs, target=1)
    inputs["attention_mask"] = inputs["attention_mask"].to(mask_type)
    torch.testing.assert_close(attribute(model, **inputs, target=1).scores, expected.scores)


def test_a_hole_in_the_mask():
    model = converted()
    inputs = tiny.inputs(2, 9, None)
    inputs["attention_mask"][:, 3:5] = 0
    check(model, attribute(model, **inputs, target=1), inputs)


@pytest.mark.parametrize("family", ["distilbert", "bert", "roberta", "deberta-v2"])
def test_one_label_and_a_dynamic_pooler(family):
    stock = tiny.model(family, num_labels=1, dtype=torch.float64)
    model = get_bcos_model(stock, BcosConfig(b=1.25, pooler_activation="dynamic"))
    inputs = tiny.inputs(3, 9, "right", family)
    result = attribute(model, **inputs)
    check(model, result, inputs)
    torch.testing.assert_close(result.probability, result.logit.sigmoid())


@pytest.mark.parametrize("b", EXPONENTS)
def test_bfloat16(b):
    model = converted(dtype=torch.bfloat16, b=b)
    result = attribute(model, **tiny.inputs(3, 9), target=1)
    assert result.scores.dtype == torch.float32
    assert (result.residual.abs() <= 0.05 * result.scores.abs().sum(-1)).all()


@pytest.mark.parametrize("training", [False, True])
def test_what_is_done_to_the_mode_inside_is_undone(training):
    model = converted("bert", "SequenceClassification", torch.float32).train(training)
    with explanation_mode(model):
        model.train(not training)
    assert_unchanged(model, training=training)
