"""torch.compile: one graph, the same outputs and gradients, and explanations that pass the compiled code by."""

import pytest
import tiny
import torch
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
