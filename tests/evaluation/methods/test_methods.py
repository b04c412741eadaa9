"""Attribution methods without captum: exact contributions, attention, chance; what all methods promise; their cost."""

import pickle

import pytest
import torch
from helpers import tiny
from helpers.methods import Bag, check_undisturbed, converted, question

from bcos_peft import BcosConfig, get_bcos_model
from bcos_peft.evaluation import Cost, Metered, Question, get_method, logits, score
from bcos_peft.evaluation.methods import METHODS


CASES = [("bert", "SequenceClassification"), ("llama", "CausalLM"), ("llama", "SequenceClassification")]


@pytest.mark.parametrize(("family", "task"), CASES)
@pytest.mark.parametrize("foil", [None, 2])
def test_bcos_sums_to_the_score(family, task, foil):
    model, asked = converted(family, task), question(family=family, foil=foil)
    method = get_method("bcos")
    scores = method(model, asked)
    assert scores.shape == (8,)
    assert scores.abs().sum() > 1e-3
    torch.testing.assert_close(scores.sum(), score(model, asked).detach(), rtol=1e-4, atol=1e-5)
    assert abs(method.residual(model, asked, scores)) < 1e-5


def test_bcos_refuses_a_stock_model():
    with pytest.raises(ValueError, match="get_bcos_model"):
        get_method("bcos")(tiny.model(), question())


def test_bcos_passes_on_further_inputs():
    model = converted()
    asked = question()
    second = Question(asked.input_ids, 1, 2, asked.special, {"token_type_ids": torch.tensor([0] * 4 + [1] * 4)})
    first, then = get_method("bcos")(model, asked), get_method("bcos")(model, second)
    assert not torch.allclose(first, then)
    torch.testing.assert_close(then.sum(), score(model, second).detach(), rtol=1e-4, atol=1e-5)


# Attention


def weights(model, asked):
    """Each layer's attention, from the model's own output."""
    model.set_attn_implementation("eager")
    output = model(input_ids=asked.input_ids[None], output_attentions=True)
    model.set_attn_implementation("sdpa")
    return [layer[0].mean(0).detach() for layer in output.attentions]


def test_attention_is_the_row_of_the_first_token_of_an_encoder():
    model, asked = tiny.model(), question()
    first, last = weights(model, asked)
    assert torch.equal(get_method("attention")(model, asked), last[0])
    assert torch.equal(get_method("attention", layer=0)(model, asked), first[0])


def test_attention_is_the_row_of_the_last_token_of_a_decoder():
    model, asked = tiny.model("llama", "CausalLM"), question(family="llama")
    assert torch.equal(get_method("attention")(model, asked), weights(model, asked)[-1][-1])


def test_attention_of_a_mean_over_tokens():
    asked = question(family="modernbert")
    mean = get_method("attention")(tiny.model("modernbert", classifier_pooling="mean"), asked)
    first = get_method("attention")(tiny.model("modernbert", classifier_pooling="cls"), asked)
    torch.testing.assert_close(mean.sum(), torch.tensor(1.0))
    assert not torch.allclose(mean, first)


def test_rollout_stands_the_last_layer_on_the_left():
    model, asked = tiny.model(), question()
    one, two = (0.5 * layer + 0.5 * torch.eye(8) for layer in weights(model, asked))
    right = get_method("attention_rollout")(model, asked)
    reversed_ = get_method("attention_rollout", order="reversed")(model, asked)
    torch.testing.assert_close(right, (two @ one)[0])
    torch.testing.assert_close(reversed_, (one @ two)[0])
    assert not torch.allclose(right, reversed_)
    torch.testing.assert_close(right.sum(), torch.tensor(1.0))


@pytest.mark.parametrize("family", [*tiny.FAMILIES, "llama", "gpt2", "gemma2", "gpt_neox", "opt", "phi3"])
@pytest.mark.parametrize("name", ["attention", "attention_rollout"])
def test_attention_works_for_every_family(family, name):
    task = "SequenceClassification" if family in tiny.FAMILIES else "CausalLM"
    model = tiny.model(family, task)
    before = model.config._attn_implementation
    asked = question(family=family)
    stock = get_method(name)(model, asked)
    torch.testing.assert_close(stock.sum(), torch.tensor(1.0))
    assert (stock >= 0).all()
    assert model.config._attn_implementation == before
    bcos = get_bcos_model(model, BcosConfig(b=1.5))
    torch.testing.assert_close(get_method(name)(bcos, asked).sum(), torch.tensor(1.0))
    assert bcos.config._attn_implementation == before


def test_attention_implementation_comes_back_after_an_error():
    model = tiny.model()
    with pytest.raises(ValueError, match="layer=5 does not exist: the model has 2"):
        get_method("attention", layer=5)(model, question())
    assert model.config._attn_implementation == "sdpa"


# What all methods promise


def test_random_depends_on_the_seed_and_the_text_only():
    model, asked = tiny.model(), question()
    first = get_method("random")(model, asked)
    torch.manual_seed(5)
    assert torch.equal(first, get_method("random")(model, asked))
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(1)), "the caller's random numbers are not disturbed"
    assert not torch.equal(first, get_method("random", seed=1)(model, asked))
    other = Question(asked.input_ids.flip(0), 1)
    assert not torch.equal(first, get_method("random")(model, other))


@pytest.mark.parametrize("name", ["bcos", "random", "attention", "attention_rollout"])
def test_the_model_comes_back_as_it_was(name):
    check_undisturbed(name, converted())


def test_methods_are_values():
    method = get_method("random", seed=3, label="chance")
    assert method == get_method("random", seed=3, label="chance")
    assert pickle.loads(pickle.dumps(method)) == method
    assert method.name == "chance"
    assert method.settings == {"name": "chance", "seed": 3}
    assert method.total(None, None) is None
    assert method.residual(None, None, None) is None


def test_names_are_those_of_the_table():
    for name, cls in METHODS.items():
        assert cls.__dataclass_fields__["name"].default == name


def test_refusals():
    with pytest.raises(ValueError, match="There is no method 'magic'; there are: bcos, random"):
        get_method("magic")
    with pytest.raises(TypeError, match="'random' has no option 'steps'; it has: seed"):
        get_method("random", steps=3)
    with pytest.raises(TypeError, match="'saliency' has no option 'steps'; it has: -"):
        get_method("saliency", steps=3)
    with pytest.raises(ValueError, match="order='up' is unknown"):
        get_method("attention_rollout", order="up")
    with pytest.raises(ValueError, match=r"transformers 4\.52 .* give its scores to the metrics"):
        get_method("attnlrp")
    with pytest.raises(ValueError, match="gives no attention weights"):
        get_method("attention")(Bag(), question())


# Cost


def test_cost_of_bcos_is_one_pass_each_way():
    method = Metered(get_method("bcos"))
    model, asked = converted(), question()
    assert torch.equal(method(model, asked), get_method("bcos")(model, asked))
    method(model, asked)
    cost = method.cost
    assert method.name == "bcos"
    assert (cost.examples, cost.forward_calls, cost.forward_rows) == (2, 2, 2)
    assert (cost.backward_calls, cost.backward_rows) == (2, 2)
    assert cost.seconds > 0
    assert cost.seconds_per_example == cost.seconds / 2
    assert cost.to_dict()["backward_rows_per_example"] == 1
    assert not model._forward_hooks


def test_cost_of_a_language_model_and_of_any_callable():
    class Two:
        name = "two"

        def __call__(self, model, asked):
            values = logits(model, [asked] * 5, batch_size=3)
            return values[0, : len(asked)]

    model, asked = tiny.model("llama", "CausalLM"), question(family="llama")
    method = Metered(Two(), memory_examples=0)
    method(model, asked)
    assert (method.cost.forward_calls, method.cost.forward_rows) == (2, 5)
    assert (method.cost.backward_calls, method.cost.backward_rows) == (0, 0)
    assert method.cost.peak_memory is None


def test_peak_memory_counts_what_is_alive_at_a_time():
    class Hungry:
        name = "hungry"

        def __call__(self, model, asked):
            kept = torch.zeros(1000)
            for _ in range(5):
                kept = kept + 1  # at most two of 4,000 bytes at a time
            transposed = model.table.weight.t()  # no memory of its own
            return kept[: transposed.shape[0]]

    method = Metered(Hungry())
    method(Bag(), question())
    assert 8000 <= method.cost.peak_memory < 8100


def test_peak_memory_grows_with_the_text():
    model = converted()
    short, long = Metered(get_method("bcos")), Metered(get_method("bcos"))
    short(model, question(8))
    long(model, question(32))
    assert long.cost.peak_memory > 2 * short.cost.peak_memory


def test_an_empty_cost_has_no_means():
    assert Cost().seconds_per_example != Cost().seconds_per_example  # nan
