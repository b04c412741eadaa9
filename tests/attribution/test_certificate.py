"""The certificate: contributions sum to the logit, for every family and task, and explaining leaves no trace.

The B-cos layer is homogeneous of degree 1 in its input, so scores would sum even if its scale were not held constant:
that it is held is for test_functional.py and test_parity.py to show.
"""

import copy
import warnings

import pytest
import torch
from helpers import tiny
from helpers.certificates import EXPONENTS, assert_unchanged, check, converted, every_family, every_task, outputs_of
from helpers.opaque import Opaque
from torch import nn

from bcos_peft import attribute, explanation_mode
from bcos_peft.attribution import ResidualWarning, attribute_sequence


# These two have attention code of their own, which knows nothing but eager.
OWN_ATTENTION = ("deberta", "deberta-v2")


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
        # Where stock code rounds to float32, what is explained stays in float64.
        torch.testing.assert_close(explained[key], value, rtol=1e-6, atol=1e-7)
        assert torch.equal(again[key], value)
    result = attribute(model, **inputs, target=1)
    if task == "QuestionAnswering":
        logits = torch.stack([expected.start_logits, expected.end_logits], -1)
    else:
        logits = expected.logits
    if logits.dim() == 3:
        logits = logits[torch.arange(3), result.position]
    torch.testing.assert_close(result.logits, logits, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(result.logit, logits[:, 1], rtol=1e-6, atol=1e-7)


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


def test_refuses_what_is_no_model():
    with pytest.raises(TypeError, match="must be a converted transformers model"):
        attribute("bert", **tiny.inputs())
    with pytest.raises(ValueError, match="Linear holds no transformers models"), explanation_mode(nn.Linear(2, 2)):
        pass


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_contributions_that_are_far_from_the_logit_are_a_warning(dtype):
    model = converted("llama", "CausalLM", dtype)
    ids = tiny.inputs(family="llama")["input_ids"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attribute(model, ids)
        attribute_sequence(model, ids[0], positions=[1, 2], targets=[[7], [8]])
    # A hook of the user's own, whose operations cannot be seen.
    model.model.layers[1].mlp.down_proj.register_forward_hook(lambda layer, args, output: Opaque.apply(output))
    with pytest.warns(
        ResidualWarning, match=r"contributions miss the logit by up to .*far more than rounding"
    ) as found:
        attribute(model, ids)
    assert found[0].filename == __file__
    with pytest.warns(ResidualWarning, match="far more than rounding"):
        attribute_sequence(model, ids[0], positions=[1, 2], targets=[[7], [8]])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_is_no_warning(dtype):
    model = converted("llama", "CausalLM", torch.float32).to(dtype)
    ids = tiny.inputs(family="llama")["input_ids"]
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResidualWarning)
        attribute(model, ids)
        attribute(model, ids, target="all", baseline="average")
