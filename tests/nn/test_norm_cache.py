"""Weights that keep still: norms are taken once, and nothing else changes."""

import copy
import pickle
from threading import Thread

import peft
import pytest
import torch
from helpers import tiny
from torch import nn

from bcos_peft import BcosConfig, attribute, get_bcos_model, steady_weights
from bcos_peft.nn import BcosLayer, functional
from bcos_peft.nn import low_rank as lora_functional


FAMILIES = ("bert", "llama", "gpt2", "mixtral", "qwen3_moe")
IDS = torch.tensor([[5, 6, 7, 8]])


def converted(family="llama", dtype=torch.float64, **config):
    task = "SequenceClassification" if family == "bert" else "CausalLM"
    model = get_bcos_model(tiny.model(family, task, dtype=dtype), BcosConfig(**{"b": 1.5, **config})).eval()
    if task == "CausalLM":
        model.generation_config.update(eos_token_id=None, pad_token_id=0)
    return model


def layers(model):
    return [module for module in model.modules() if isinstance(module, BcosLayer)]


@torch.no_grad()
def logits(model, ids=IDS):
    return model(ids).logits


@pytest.fixture
def norms_of_weights(monkeypatch):
    """Sizes of the weights whose norms a forward pass has taken."""
    taken = []

    def count(x, real=functional._row_norms):
        if isinstance(x, nn.Parameter) or isinstance(x._base, nn.Parameter):
            taken.append(tuple(x.shape))
        return real(x)

    for module in (functional, lora_functional):
        monkeypatch.setattr(module, "_row_norms", count)
    return taken


@pytest.mark.parametrize("unit", [False, True], ids=["as is", "unit rows"])
@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_are_the_same_bit_for_bit_and_norms_are_taken_once(family, unit, norms_of_weights):
    model = converted(family, torch.float32, normalize_weights=unit)
    wanted = logits(model)
    assert norms_of_weights
    norms_of_weights.clear()
    with steady_weights(model) as same:
        assert same is model
        for _ in range(2):
            assert torch.equal(logits(model), wanted)
    assert not norms_of_weights
    assert torch.equal(logits(model), wanted)
    assert norms_of_weights, "and taken again afterwards"


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
def test_a_change_in_place_is_noticed(family):
    model = converted(family)
    before = logits(model)
    with steady_weights(model):
        logits(model)
        with torch.no_grad():
            for layer in layers(model):
                for weight in layer.parameters():
                    weight.mul_(2)
        found = logits(model)
        assert not torch.allclose(found, before)
        state = copy.deepcopy(model.state_dict())
        model.load_state_dict({key: value / 2 for key, value in state.items()})
        model.load_state_dict(state)
        assert torch.equal(logits(model), found)
    assert torch.equal(logits(model), found)


def test_gradients_are_those_of_any_other_time():
    model = converted()

    def gradients():
        model.zero_grad()
        model(IDS, labels=IDS).loss.backward()
        return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]

    wanted = gradients()
    with steady_weights(model):
        with torch.inference_mode():
            model(IDS)  # what is left of it must not be an inference tensor
        found = gradients()
    assert all(map(torch.equal, found, wanted))


def test_training_inside_is_noticed_step_by_step():
    def losses(model):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for _ in range(3):
            loss = model(IDS, labels=IDS).loss
            loss.backward()
            optimizer.step(), optimizer.zero_grad()
            yield loss.item()

    model = converted()
    wanted = list(losses(copy.deepcopy(model)))
    with steady_weights(model):
        assert list(losses(model)) == wanted


def test_explanations_inside():
    model = converted()
    wanted = attribute(model, IDS)
    with steady_weights(model):
        for _ in range(2):
            assert torch.equal(attribute(model, IDS).scores, wanted.scores)


def test_autocast_rounds_the_rows_as_ever():
    model = converted(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        wanted = logits(model)
        with steady_weights(model):
            logits(model)
            assert torch.equal(logits(model), wanted)


def test_blocks_are_nested_and_left_by_exceptions():
    model = converted()
    with steady_weights(model):
        with pytest.raises(RuntimeError, match="inside"), steady_weights(model.model):
            raise RuntimeError("inside")
        assert all(layer.steady is not None for layer in layers(model))
    assert all(layer.steady is None for layer in layers(model))


def test_the_first_thread_to_leave_does_not_end_it_for_others():
    model = converted()
    with steady_weights(model):
        thread = Thread(target=lambda: model.generate(IDS, max_new_tokens=1))
        thread.start(), thread.join()
        assert all(layer.steady is not None for layer in layers(model))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_is_not_steady(copied):
    model = converted()
    with steady_weights(model):
        logits(model)
        other = copied(model)
    assert all(layer.steady is None for layer in layers(other))
    assert torch.equal(logits(other), logits(model))


def test_other_models_are_left_alone():
    model = tiny.model("llama", "CausalLM")
    with steady_weights(model):
        logits(model)
    with pytest.raises(TypeError, match="torch.nn.Module, got str"), steady_weights("model"):
        pass


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"cache_implementation": "static"}, {"use_cache": False}])
def test_generate_takes_norms_once(options, norms_of_weights):
    model = converted(dtype=torch.float32)
    norms_of_weights.clear()  # those of the conversion
    found = model.generate(IDS, max_new_tokens=5, do_sample=False, **options)
    assert found.shape == (1, 9)
    assert not norms_of_weights
    assert all(layer.steady is None for layer in layers(model))
    ids = IDS
    if "num_beams" not in options:
        for _ in range(5):
            ids = torch.cat([ids, logits(model, ids)[:, -1:].argmax(-1)], dim=1)
        assert torch.equal(found, ids)


def test_generate_after_a_training_step_has_the_new_weights():
    model = converted()
    model.generate(IDS, max_new_tokens=2)
    for layer in layers(model):
        layer.weight.data.neg_()  # goes unnoticed by versions, so nothing may be left from before
    found = model.generate(IDS, max_new_tokens=1, output_logits=True, return_dict_in_generate=True, do_sample=False)
    torch.testing.assert_close(found.logits[0], logits(model)[:, -1], check_dtype=False)


def with_adapter(model):
    config = peft.LoraConfig(target_modules=["o_proj", "down_proj"], init_lora_weights=False)
    return peft.get_peft_model(model, config).eval()


def test_adapters(norms_of_weights):
    model = with_adapter(converted(dtype=torch.float32))
    wanted = logits(model)
    norms_of_weights.clear()
    with steady_weights(model):
        logits(model)
        assert torch.equal(logits(model), wanted)
        assert not norms_of_weights
        with model.disable_adapter():
            plain = logits(model)
        model.set_adapter("default")
        assert torch.equal(logits(model), wanted)
    with model.disable_adapter():
        assert torch.equal(logits(model), plain)


def test_an_adapter_that_is_taken_out_of_the_weights_while_generating():
    model = with_adapter(converted())
    with model.disable_adapter():
        wanted = logits(model)[:, -1]
    model.merge_adapter()
    options = {"max_new_tokens": 1, "output_logits": True, "return_dict_in_generate": True}
    with model.disable_adapter():  # the first forward takes it out, through .data
        found = model.generate(input_ids=IDS, **options).logits[0]
    torch.testing.assert_close(found, wanted, check_dtype=False)


def test_adapters_of_experts_make_their_weights_anew():
    model = converted("mixtral")
    names = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    config = peft.LoraConfig(target_modules=[], target_parameters=names, init_lora_weights=False)
    model = peft.get_peft_model(model, config).eval()
    wanted = logits(model)
    with steady_weights(model):
        for _ in range(2):
            torch.testing.assert_close(logits(model), wanted)


@pytest.mark.slow
def test_compiled():
    torch.compiler.reset()
    model = converted(dtype=torch.float32)
    del model.model.layers[1:]
    wanted = logits(model)
    compiled = torch.compile(model, backend="aot_eager")
    torch.testing.assert_close(logits(compiled), wanted)
    with steady_weights(compiled):
        torch.testing.assert_close(logits(compiled), wanted)  # nothing is known yet
        logits(model)
        torch.testing.assert_close(logits(compiled), wanted)
    torch.testing.assert_close(logits(compiled), wanted)
    torch.compiler.reset()


def test_weights_on_no_device():
    with torch.device("meta"):
        layer = get_bcos_model(tiny.model("llama", "CausalLM"), BcosConfig()).model.layers[0].mlp.down_proj
    assert layer.weight.is_meta
    with steady_weights(layer):
        assert layer.known_norms() is None
