"""`examples/minimal.py`, the whole method in one file, gives what the package gives, layer by layer."""

import ast
import importlib.util
import os
import re
import sys

import pytest
import torch
from helpers import tiny
from helpers.launching import start
from helpers.paths import ROOT
from torch import nn
from transformers.activations import GELUActivation

from bcos_peft import BcosConfig, attribute, bcos_bce_loss, get_bcos_model


SCRIPT = ROOT / "examples" / "minimal.py"
TOLERANCES = {torch.float64: 1e-10, torch.float32: 3e-5}

exponents = pytest.mark.parametrize("b", [1.0, 1.25, 2.0])


def load():
    """The file as a module; what it does as a script it leaves."""
    spec = importlib.util.spec_from_file_location("minimal", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


minimal = load()


def stock(dtype=torch.float64, attention="sdpa"):
    """A tiny BERT with large biases, without dropout, so that training can be compared too."""
    model = tiny.model("bert", dtype=dtype, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model.set_attn_implementation(attention)
    return model


def of_the_package(b, **options):
    return get_bcos_model(stock(**options), BcosConfig(b=b))


def batch():
    """Three rows, two of them padded on the right."""
    ids, mask = tiny.inputs(batch=3, length=9).values()
    assert mask.sum(1).tolist() == [9, 6, 3]
    return ids, mask


def close(found, expected, tolerance=TOLERANCES[torch.float64]):
    return bool((found - expected).abs().max() <= tolerance * expected.abs().max())


def tensors(output):
    parts = [output] if isinstance(output, torch.Tensor) else getattr(output, "values", lambda: output)()
    return [part.detach().clone() for part in parts if part is not None]


def outputs_of(model, call):
    """What each module gives during a call, by name, and what the call gives."""
    found = {}
    handles = [
        module.register_forward_hook(lambda m, args, output, name=name: found.__setitem__(name, tensors(output)))
        for name, module in model.named_modules()
    ]
    try:
        result = call()
    finally:
        for handle in handles:
            handle.remove()
    return found, result


@exponents
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_layers_logits_and_contributions(b, attention, dtype):
    options = {"dtype": dtype, "attention": attention}
    ours, theirs = minimal.convert(stock(**options), b), of_the_package(b, **options)
    ids, mask = batch()
    with torch.no_grad():
        assert not close(ours(ids, mask).logits, stock(**options)(ids, mask).logits, 0.1), "biases matter here"
    for target in range(3):
        found, (scores, logit) = outputs_of(ours, lambda target=target: minimal.explain(ours, ids, mask, target))
        expected, result = outputs_of(theirs, lambda target=target: attribute(theirs, ids, mask, target=target))
        assert found.keys() == expected.keys()
        for name, outputs in expected.items():
            assert len(found[name]) == len(outputs)
            for one, other in zip(found[name], outputs, strict=True):
                assert close(one, other, TOLERANCES[dtype]), name
        assert close(logit, result.logit, TOLERANCES[dtype])
        assert close(scores, result.scores, TOLERANCES[dtype])
        assert close(scores.sum(1), logit, TOLERANCES[dtype])
        assert not scores[mask == 0].any()


def test_no_module_goes_unseen():
    """What the comparison looks at: all that compute something."""
    theirs = of_the_package(1.25)
    seen, _ = outputs_of(theirs, lambda: attribute(theirs, *batch()))
    unseen = {name for name, _ in theirs.named_modules()} - seen.keys()
    # A list, and a dropout that only says how often.
    assert unseen == {"bert.encoder.layer", *(f"bert.encoder.layer.{n}.attention.self.dropout" for n in range(2))}


@exponents
def test_parameters(b):
    ours, theirs = minimal.convert(stock(), b).state_dict(), of_the_package(b).state_dict()
    assert ours.keys() == theirs.keys()
    assert not any(name.endswith("bias") for name in ours)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("other", [1.2, 1.3])
def test_another_b_is_told_apart(other):
    ids, mask = batch()
    ours, theirs = minimal.convert(stock(), 1.25), of_the_package(other)
    scores, logit = minimal.explain(ours, ids, mask, target=1)
    result = attribute(theirs, ids, mask, target=1)
    assert not close(scores, result.scores, 1e-2)
    assert not close(logit, result.logit, 1e-2)


PLAIN = {
    minimal.BcosLinear: nn.Linear,
    minimal.HeldLinear: nn.Linear,
    minimal.DynamicLayerNorm: nn.LayerNorm,
    minimal.DynamicGELU: GELUActivation,
}


@pytest.mark.parametrize("cls", PLAIN, ids=lambda cls: cls.__name__)
def test_every_layer_class_is_needed(cls):
    """With the stock class in its place, contributions are others; without a factor held they do not sum either."""
    ids, mask = batch()
    ours, theirs = minimal.convert(stock(), 1.25), of_the_package(1.25)
    changed = [module for module in ours.modules() if type(module) is cls]
    assert changed
    for module in changed:
        module.__class__ = PLAIN[cls]
    scores, logit = minimal.explain(ours, ids, mask, target=1)
    assert not close(scores, attribute(theirs, ids, mask, target=1).scores, 1e-2)
    assert close(scores.sum(1), logit) == (cls is minimal.BcosLinear)


@pytest.mark.parametrize("part", ["bias", "tanh"])
def test_what_goes_has_to_go(part):
    ids, mask = batch()
    ours, before = minimal.convert(stock(), 1.25), stock()
    if part == "bias":
        layer, name = ours.bert.encoder.layer[0].attention.self.value, "bert.encoder.layer.0.attention.self.value"
        layer.bias = before.get_submodule(name).bias
    else:
        ours.bert.pooler.activation = before.bert.pooler.activation
    scores, logit = minimal.explain(ours, ids, mask, target=1)
    assert not close(scores.sum(1), logit, 1e-2)


@exponents
def test_gradients_of_training(b):
    """The file leaves them to autograd, the package has them in closed form."""
    ids, mask = batch()
    labels = torch.tensor([2, 0, 1])
    ours, theirs = minimal.convert(stock(), b).train(), of_the_package(b).train()
    loss, expected = minimal.bce_loss(ours(ids, mask).logits, labels), bcos_bce_loss(theirs(ids, mask), labels)
    assert close(loss, expected)
    loss.backward()
    expected.backward()
    theirs = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        assert parameter.grad.any(), name
        assert close(parameter.grad, theirs[name].grad), name


@exponents
def test_zeros(b):
    layer = nn.Linear(4, 3)
    layer.__class__, layer.b, layer.bias = minimal.BcosLinear, b, None
    layer.weight.data[0] = 0
    x = torch.stack([torch.zeros(4), torch.ones(4)]).requires_grad_()
    y = layer(x)
    assert not y[0].any()
    assert y[1, 0] == 0
    assert y[1, 1:].all()
    y.sum().backward()
    assert x.grad.isfinite().all()
    assert layer.weight.grad.isfinite().all()


def test_the_file_is_short_and_stands_alone():
    code = SCRIPT.read_text(encoding="utf-8")
    assert len(code.splitlines()) <= 150
    imported = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            imported |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(node.module.split(".")[0])
    assert imported >= {"torch", "transformers"}
    assert imported - {"torch", "transformers"} <= sys.stdlib_module_names


def run(script):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return start([script], environment, imported=("torch", "transformers.modeling_utils"))


def test_as_a_script():
    finished = run(SCRIPT)
    assert finished.returncode == 0, finished.stderr[-5000:]
    first, last, steps = re.search(
        r"^loss ([\d.]+) before, ([\d.]+) after (\d+) steps$", finished.stdout, re.M
    ).groups()
    assert int(steps) > 1
    assert float(last) < 0.5 * float(first)
    sums = re.findall(r"^Σ contributions (\S+) = logit (\S+), residual (\S+)$", finished.stdout, re.M)
    assert len(sums) == 2
    for total, logit, residual in sums:
        assert abs(float(logit)) > 0.5
        assert abs(float(total) - float(logit)) < 1e-5
        assert float(residual) < 1e-5
    # "the story was dull" and "a wonderful film and what a brilliant cast", by the words that tell them apart.
    scores = {word: float(score) for word, score in re.findall(r"^ +(\S+) ([+-][\d.]+)", finished.stdout, re.M)}
    assert min(scores, key=scores.get) == "dull"
    assert max(scores, key=scores.get) == "wonderful"


def test_its_assertion_can_fail(tmp_path):
    """The script with one factor left live stops."""
    code = SCRIPT.read_text(encoding="utf-8")
    held = "return self.hold(F.linear(x, self.weight))"
    assert code.count(held) == 1
    broken = tmp_path / "minimal.py"
    broken.write_text(code.replace(held, "return F.linear(x, self.weight)"), encoding="utf-8")
    finished = run(broken)
    assert finished.returncode != 0
    assert "contributions must sum to the logit" in finished.stderr
