"""torch.compile: one graph, the same outputs and gradients, and explanations that pass the compiled code by."""

import pytest
import torch
from helpers import tiny
from torch._dynamo.utils import counters

from bcos_peft import BcosConfig, attribute, explanation_mode, get_bcos_model


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def converted(family="bert", **config):
    depth = {"n_layers": 1} if family == "distilbert" else {"num_hidden_layers": 1}
    return get_bcos_model(tiny.model(family, **depth), BcosConfig(**config))


def language_model(family, dtype=torch.float32, layers=1):
    depth = {"n_layer" if family == "gpt2" else "num_hidden_layers": layers}
    return get_bcos_model(tiny.model(family, "CausalLM", dtype=dtype, **depth), BcosConfig(b=1.25))


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_one_graph_with_the_same_outputs_and_gradients(family):
    model = converted(family, b=1.25)
    inputs = tiny.inputs(2, 8, "right", family)
    loss = model(**inputs, labels=torch.tensor([0, 2])).loss
    expected = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    counters.clear()
    compiled_loss = compiled(**inputs, labels=torch.tensor([0, 2])).loss
    found = torch.autograd.grad(compiled_loss, list(model.parameters()), allow_unused=True)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    torch.testing.assert_close(compiled_loss, loss)
    for (name, _), value, exact in zip(model.named_parameters(), found, expected, strict=True):
        assert (value is None) == (exact is None), name
        if exact is not None:
            torch.testing.assert_close(value, exact, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("normalize", [False, True], ids=["as is", "unit rows"])
def test_explaining_a_compiled_model(normalize):
    model = converted(b=1.5, normalize_weights=normalize)
    inputs = tiny.inputs(3, 9, "left")
    expected = attribute(model, **inputs, target="all")
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        before = compiled(**tiny.inputs(3, 9)).logits
    counters.clear()
    found = attribute(compiled, **inputs, target="all")
    assert counters["stats"]["unique_graphs"] == 0, "nothing is compiled for it"
    torch.testing.assert_close(found.scores, expected.scores)
    assert found.residual.abs().max() < 1e-5
    counters.clear()
    with torch.no_grad():
        after = compiled(**tiny.inputs(3, 9)).logits
    assert torch.equal(after, before)
    assert counters["stats"]["unique_graphs"] == 0, "the compiled code is still there"


def test_explaining_first_and_compiling_in_place():
    model = converted(b=1.5)
    inputs = tiny.inputs(3, 9)
    expected = attribute(model, **inputs)
    with torch.no_grad():
        logits = model(**inputs).logits
    model.compile(backend="eager", fullgraph=True)
    torch.testing.assert_close(attribute(model, **inputs).scores, expected.scores)
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits, logits)
        with explanation_mode(model):
            torch.testing.assert_close(model(**inputs).logits, logits)
    torch.testing.assert_close(attribute(model, **inputs).scores, expected.scores)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma", "qwen2"])
def test_a_decoder_is_one_graph(family):
    """With the gradients of its training step, over left padding too."""
    model = language_model(family, torch.float64, layers=2 if family == "llama" else 1).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # compiled dropout draws other numbers
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for padding in ("right", "left"):
        inputs = tiny.inputs(2, 8, padding, family)
        expected, found = model(**inputs).logits, compiled(**inputs).logits
        torch.testing.assert_close(found, expected)
        slopes = torch.randn_like(expected) * inputs["attention_mask"].unsqueeze(-1)
        expected, found = (torch.autograd.grad(y, list(model.parameters()), slopes) for y in (expected, found))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert not counters["graph_break"]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_generating_with_a_static_cache(family):
    """What transformers compiles by itself on a GPU, by hand: the step of decoding, over a cache of fixed length."""
    model = language_model(family)
    inputs = tiny.inputs(2, 6, "left", family)
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    expected = model.generate(**inputs, **options)
    model.forward = torch.compile(model.forward, backend="aot_eager")
    counters.clear()
    found = model.generate(**inputs, **options, cache_implementation="static")
    assert torch.equal(found, expected)
    assert 1 <= counters["stats"]["unique_graphs"] <= 3, "prompt and step, not one graph for each token"


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_b_of_a_compiled_decoder(family):
    """Few graphs for many values: the schedule of B changes it at every step."""
    model = language_model(family)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    inputs = tiny.inputs(2, 8, family=family)
    counters.clear()
    with torch.no_grad():
        for step in range(8):
            model.set_b(1.1 + step / 10)
            torch.testing.assert_close(compiled(**inputs).logits, model(**inputs).logits)
    assert counters["stats"]["unique_graphs"] <= 4


def test_a_compiled_part_that_cannot_be_set_aside_is_named():
    model = converted()
    body = model.bert
    model.bert = torch.compile(body, backend="eager")
    with pytest.raises(ValueError, match=r"torch.compile has been put around module 'bert'.*model.bert.compile\(\)"):
        attribute(model, **tiny.inputs())
    model.bert = body
    model.bert.compile(backend="eager")
    assert attribute(model, **tiny.inputs()).residual.abs().max() < 1e-4


@pytest.mark.slow
def test_another_b_is_another_function():
    model = converted(b=1.25)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    inputs = tiny.inputs(2, 8)
    with torch.no_grad():
        for b in (1.25, 2.0):
            model.set_b(b)
            torch.testing.assert_close(compiled(**inputs).logits, model(**inputs).logits)


@pytest.mark.slow
def test_inductor():
    model = converted(b=1.25)
    inputs = tiny.inputs(2, 8)
    with torch.no_grad():
        expected = model(**inputs).logits
        found = torch.compile(model, fullgraph=True)(**inputs).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
