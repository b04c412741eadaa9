"""The certificate: contributions sum to the logit, for every family and task, and explaining leaves no trace.

The B-cos layer is homogeneous of degree 1 in its input, so scores would sum even if its scale were not held constant:
that it is held is for test_functional.py and test_parity.py to show.
"""

import copy

import pytest
import tiny
import torch

from bcos_peft import BcosConfig, attribute, explanation_mode, get_bcos_model
from bcos_peft.layers import DynamicLinear


every_task = pytest.mark.parametrize("task", tiny.TASKS)
every_family = pytest.mark.parametrize("family", tiny.FAMILIES)
EXPONENTS = (1.0, 1.25, 2.0)
# These two have attention code of their own, which knows nothing but eager.
OWN_ATTENTION = ("deberta", "deberta-v2")


def converted(family="bert", task="SequenceClassification", dtype=torch.float64, seed=0, **config):
    config.setdefault("b", 1.25)
    return get_bcos_model(tiny.model(family, task, dtype, seed), BcosConfig(**config))


def check(model, result, inputs):
    """The scores sum to the logit; where they cancel out tenfold, rounding counts against their size."""
    size = result.scores.abs().sum(-1)
    limit = 1e-10 if model.dtype == torch.float64 else 1e-4
    assert (result.residual.abs() <= limit * torch.maximum(result.logit.abs(), size / 10)).all()
    torch.testing.assert_close(result.scores.sum(-1) + result.residual, result.logit)
    assert (result.scores[inputs["attention_mask"] == 0] == 0).all()
    assert (size > 1e-6).all(), "not because everything is zero"


def outputs_of(task):
    """Two outputs to explain; the first ids of a vocabulary are padding, whose tied weights are zero."""
    return (76, 77) if task == "MaskedLM" else (0, 1)


@every_family
@every_task
@pytest.mark.parametrize("normalize", [False, True], ids=["as is", "unit rows"])
def test_scores_sum_to_the_logit(family, task, normalize):
    for b in EXPONENTS:
        for dtype in (torch.float64, torch.float32):
            model = converted(family, task, dtype, b=b, normalize_weights=normalize)
            for attention in ("eager", "sdpa"):
                if attention == "sdpa" and family in OWN_ATTENTION:
                    continue
                if attention == "eager" and family == "modernbert" and dtype == torch.float64:
                    continue  # where a window holds padding only, its eager attention gives NaN: a softmax of -inf
                model.set_attn_implementation(attention)
                for batch, padding in ((1, None), (3, "right"), (3, "left")):
                    inputs = tiny.inputs(batch, 9, padding, family)
                    check(model, attribute(model, **inputs, target=outputs_of(task)[1]), inputs)


@every_family
@every_task
def test_the_logit_is_that_of_the_model(family, task):
    """Explaining changes no output: neither inside the mode, nor of what `attribute` reports."""
    model = converted(family, task, b=1.5)
    inputs = tiny.inputs(3, 9, "right", family)
    with torch.no_grad():
        expected = model(**inputs)
        with explanation_mode(model):
            explained = model(**inputs)
        again = model(**inputs)
    for key, value in expected.items():
        torch.testing.assert_close(explained[key], value, rtol=1e-9, atol=1e-9)
        assert torch.equal(again[key], value)
    result = attribute(model, **inputs, target=1)
    if task == "QuestionAnswering":
        logits = torch.stack([expected.start_logits, expected.end_logits], -1)
    else:
        logits = expected.logits
    if logits.dim() == 3:
        logits = logits[torch.arange(3), result.position]
    torch.testing.assert_close(result.logits, logits, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(result.logit, logits[:, 1], rtol=1e-9, atol=1e-9)


@every_family
@every_task
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_alone_in_a_batch_and_padded_on_either_side(family, task, dtype, atol):
    model = converted(family, task, dtype)
    right, left = (tiny.inputs(3, 9, side, family) for side in ("right", "left"))
    for row in range(3):
        length = int(right["attention_mask"][row].sum())
        left["input_ids"][row, 9 - length :] = right["input_ids"][row, :length]
    target = outputs_of(task)[1]
    on_the_right, on_the_left = attribute(model, **right, target=target), attribute(model, **left, target=target)
    for row in range(3):
        length = int(right["attention_mask"][row].sum())
        alone = attribute(model, right["input_ids"][row : row + 1, :length], target=target)
        for result, tokens in ((on_the_right, slice(0, length)), (on_the_left, slice(9 - length, 9))):
            torch.testing.assert_close(result.scores[row, tokens], alone.scores[0], rtol=0, atol=atol)
            torch.testing.assert_close(result.logit[row], alone.logit[0], rtol=0, atol=atol)
            if alone.position is not None:
                assert result.position[row] == tokens.start + alone.position[0]


@every_family
@every_task
def test_split_foil_all_and_position(family, task):
    model = converted(family, task)
    inputs = tiny.inputs(3, 9, "left", family)
    first, second = outputs_of(task)
    plain = attribute(model, **inputs, target=second)
    split = attribute(model, **inputs, target=second, split=True)
    torch.testing.assert_close(split.scores, plain.scores)
    torch.testing.assert_close(sum(split.parts.values()), plain.scores)
    assert plain.parts is None
    assert "word" in split.parts
    assert all((part.abs() > 1e-9).any() for name, part in split.parts.items())

    where = plain.position
    zero = attribute(model, **inputs, target=first, position=where)
    contrast = attribute(model, **inputs, target=second, foil=first, position=where)
    torch.testing.assert_close(contrast.scores, plain.scores - zero.scores)
    torch.testing.assert_close(contrast.logit, plain.logit - zero.logit)
    assert (contrast.foil == first).all()

    everything = attribute(model, **inputs, target="all", position=where, split=True)
    outputs = everything.logits.shape[-1]
    assert everything.scores.shape == (3, outputs, 9)
    assert everything.logit.shape == everything.residual.shape == everything.target.shape == (3, outputs)
    for target in (first, second):
        one = attribute(model, **inputs, target=target, position=where, split=True)
        torch.testing.assert_close(everything.scores[:, target], one.scores)
        torch.testing.assert_close(everything.logit[:, target], one.logit)
        for name in one.parts:
            torch.testing.assert_close(everything.parts[name][:, target], one.parts[name])
    each = attribute(model, **inputs, target=torch.tensor([first, second, first]), position=where)
    torch.testing.assert_close(each.scores, torch.stack([zero.scores[0], plain.scores[1], zero.scores[2]]))


@pytest.mark.parametrize("task", ["TokenClassification", "QuestionAnswering", "MaskedLM"])
def test_position_counts_in_input_ids(task):
    model = converted("roberta", task)
    inputs = tiny.inputs(3, 9, "left", "roberta")
    for position in (8, torch.tensor([0, 5, 8])):
        result = attribute(model, **inputs, target=0, position=position)
        assert (result.position == position).all()
        check(model, result, inputs)
    first, *_ = inputs["input_ids"]
    alone = attribute(model, first[None], target=0, position=0)
    torch.testing.assert_close(result.scores[0], alone.scores[0])


def test_without_a_target_the_largest_logit_is_explained():
    model = converted()
    result = attribute(model, **tiny.inputs(3, 9))
    assert torch.equal(result.target, result.logits.argmax(-1))
    model = converted(task="TokenClassification")
    inputs = tiny.inputs(3, 9)
    result = attribute(model, **inputs)
    with torch.no_grad():
        logits = model(**inputs).logits
    best = logits.masked_fill(inputs["attention_mask"][..., None] == 0, -torch.inf).amax((1, 2))
    torch.testing.assert_close(result.logit, best)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": 3}, "target must be between 0 and 2, got 3"),
        ({"target": -1}, "target must be between 0 and 2, got -1"),
        ({"target": torch.tensor([0, 1])}, "one for each of the 3 rows"),
        ({"target": 1.0}, "target must be an integer"),
        ({"target": True}, "target must be an integer"),
        ({"target": "every"}, "target must be an int, a tensor or 'all', got 'every'"),
        ({"foil": 3}, "foil must be between 0 and 2, got 3"),
        ({"target": 1, "foil": 1}, "foil equals target"),
        ({"target": "all", "foil": 1}, "foil cannot go with target='all'"),
        ({"position": 2}, "position=2 given"),
        ({"attention_mask": torch.ones(3, 8)}, "must have the shape of input_ids"),
        ({"attention_mask": torch.zeros(3, 9)}, "leaves no token in row 0"),
        ({"input_ids": torch.full((3, 9), 320)}, "the id 320, outside the vocabulary"),
        ({"input_ids": torch.full((3, 9), -1)}, "the id -1, outside the vocabulary"),
        ({"input_ids": torch.ones(9, dtype=torch.long)}, r"shape \(batch, sequence\)"),
        (
            {"input_ids": torch.ones(3, 0, dtype=torch.long), "attention_mask": None},
            "with at least one row and one token",
        ),
        ({"input_ids": torch.ones(1, 65, dtype=torch.long), "attention_mask": None}, "65 tokens"),
    ],
    ids=str,
)
def test_refuses(arguments, message):
    model = converted()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message):
        attribute(model, **(tiny.inputs(3, 9) | arguments))
    assert_unchanged(model, before)


@pytest.mark.parametrize("ids", [[[1, 2]], torch.ones(1, 3), torch.ones(1, 3, dtype=torch.bool), None])
def test_refuses_ids_that_are_no_tensor_of_integers(ids):
    with pytest.raises(TypeError, match="input_ids must be a tensor of integers"):
        attribute(converted(), ids)


def test_refuses_what_is_not_converted():
    with pytest.raises(ValueError, match="is not a B-cos model"):
        attribute(tiny.model(), **tiny.inputs())
    with pytest.raises(TypeError, match="must be a converted transformers model"):
        attribute("bert", **tiny.inputs())
    with pytest.raises(ValueError, match="is not a B-cos model"), explanation_mode(tiny.model()):
        pass


def hooks(model):
    return {
        name: (list(module._forward_hooks), list(module._forward_pre_hooks)) for name, module in model.named_modules()
    }


def assert_unchanged(model, weights=None, training=False):
    assert all(module.training == training for module in model.modules())
    assert not any(module.explaining for module in model.modules() if isinstance(module, DynamicLinear))
    assert "_explaining" not in model.__dict__
    if weights is not None:
        found = model.state_dict()
        assert list(found) == list(weights)
        assert all(torch.equal(found[name], weights[name]) for name in weights)


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
        inside = hooks(model)
        assert inside != before
        with explanation_mode(model):
            assert hooks(model) == inside
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
