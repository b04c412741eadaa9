"""get_bcos_model: what it refuses, and that a refusal leaves no trace."""

import dataclasses

import pytest
import torch
from helpers import tiny
from helpers.conversion import assert_refused, every_family
from torch import nn

from bcos_peft import BcosConfig, attribute, get_bcos_model
from bcos_peft.attribution.certificate import _probe_residual
from bcos_peft.families import find_family


@every_family
def test_a_refusal_leaves_no_trace(family):
    """The late ones too: here every change has been made when the check fails."""
    table = find_family(family)
    for task in tiny.TASKS:
        model = tiny.model(family, task)
        assert_refused(model, BcosConfig(b_pattern={"no_such_layer": 1.0}), "b_pattern: 'no_such_layer' matches no")
        lacking = dataclasses.replace(table, parts={"none": "no.such.module"})
        assert_refused(model, match="no input of .* was found|not linear in its input", family=lacking)
        assert find_family(family) is table, "a table that failed is not kept"
        get_bcos_model(model)
        assert _probe_residual(model) < 1e-4


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"b_pattern": {"classifer": 1.0}}, "b_pattern: 'classifer' matches no B-cos layer.*classifier"),
        ({"b_pattern": {"query": 1.0}}, "b_pattern: 'query' matches no B-cos layer"),
        ({"target_modules": ["densely"]}, "target_modules: 'densely' matches no linear layer.*dense"),
        ({"target_modules": ["dense", "fc"]}, "target_modules: 'fc' matches no linear layer"),
        ({"target_modules": "dense"}, "target_modules: 'dense' matches no linear layer"),
        ({"exclude_modules": ["LayerNorm"]}, "exclude_modules: 'LayerNorm' matches no linear layer"),
        ({"exclude_modules": ".*"}, "No linear layer would become a B-cos layer"),
        ({"remove_bias": False}, "remove_bias=False cannot be exact.*biases are constants that reach the logits"),
    ],
    ids=str,
)
def test_refuses_configs_that_do_not_fit(config, match):
    assert_refused(tiny.model(), BcosConfig(**config), match)


@pytest.mark.parametrize("config", [{"b": 1.5}, 1.5, "b"])
def test_refuses_what_is_no_config(config):
    assert_refused(tiny.model(), config, "config must be a BcosConfig", TypeError)


def test_refuses_what_is_no_transformers_model():
    for model in (nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2))):
        with pytest.raises(
            TypeError, match=f"transformers PreTrainedModel, or .*, got torch.nn.*{type(model).__name__}"
        ):
            get_bcos_model(model)
    with pytest.raises(TypeError, match="got builtins.str"):
        get_bcos_model("google-bert/bert-base-uncased")


@pytest.mark.newest  # the oldest dependencies are without peft
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")  # peft asks transformers the old way
def test_refuses_peft_models_and_models_with_adapters():
    import peft

    model = tiny.model()
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["query", "dense"], r=2))
    with pytest.raises(TypeError, match="PeftModel.*before peft.get_peft_model"):
        get_bcos_model(adapted)
    assert_refused(model, match=r"Cannot convert module 'bert\..*query' \(peft.*special linear layer.*before adapters")


def test_refuses_compiled_models():
    with pytest.raises(TypeError, match=r"before peft.get_peft_model, torch.compile"):
        get_bcos_model(torch.compile(tiny.model()))


def test_refuses_to_convert_twice():
    model = get_bcos_model(tiny.model(), BcosConfig(b=1.5))
    assert_refused(model, match=r"is converted already \(B = 1.5\)")


def test_takes_decoders_in_encoders_clothing():
    model = get_bcos_model(tiny.model("bert", is_decoder=True, dtype=torch.float64))
    assert model.bcos_family.causal
    assert model.bcos_config.probe_residual < 1e-10


class Doubled(nn.Linear):
    def forward(self, x):
        return super().forward(x) ** 2


class Offset(nn.Module):
    """Looks harmless: no weight, only an offset."""

    def __init__(self):
        super().__init__()
        self.offset = nn.Parameter(torch.ones(32))

    def forward(self, x):
        return x + self.offset


@pytest.mark.parametrize(
    ("where", "module"),
    [
        ("bert.encoder.layer.1.intermediate.intermediate_act_fn", nn.PReLU()),
        ("bert.encoder.layer.1.intermediate.intermediate_act_fn", nn.Sigmoid()),
        ("bert.encoder.layer.1.intermediate.intermediate_act_fn", nn.Softmax(-1)),
        ("bert.encoder.layer.0.output.dropout", nn.LSTM(32, 32)),
        ("bert.encoder.layer.0.output.dropout", Offset()),
        ("bert.encoder.layer.0.output.dropout", nn.BatchNorm1d(32)),
        ("classifier", Doubled(32, 3)),
        ("classifier", nn.Bilinear(32, 32, 3)),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_refuses_modules_that_a_loaded_model_would_lack(where, module):
    model = tiny.model()
    parent, _, name = where.rpartition(".")
    setattr(model.get_submodule(parent), name, module)
    assert_refused(model, match=rf"'{where}' of this .*{type(module).__name__}.*a model that is loaded would lack it")


def test_takes_modules_that_it_knows():
    model = tiny.model(dtype=torch.float64)
    model.classifier = nn.Sequential(
        nn.Linear(32, 16), nn.LayerNorm(16), nn.SiLU(), nn.Dropout(0.1), nn.Linear(16, 3)
    ).double()
    get_bcos_model(model.eval(), BcosConfig(b=1.5, b_pattern={r"classifier\.4": 1.1}))
    assert attribute(model, **tiny.inputs()).residual.abs().max() < 1e-10
    assert model.classifier[4].b == 1.1


def test_refuses_a_patched_forward():
    model = tiny.model()
    dense = model.bert.pooler.dense
    dense.forward = lambda x: nn.Linear.forward(dense, x) + 1
    assert_refused(model, match="Cannot convert module 'bert.pooler.dense'.*patched its forward")


def test_remove_bias_false_where_it_is_exact():
    """The biases of query and key reach the attention weights only, which are held constant."""
    model = tiny.model(dtype=torch.float64)
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.LayerNorm)) and not name.endswith(("query", "key")):
            module.bias = None
    assert_refused(tiny.model(), BcosConfig(remove_bias=False), "remove_bias=False cannot be exact")
    get_bcos_model(model, BcosConfig(b=1.5, remove_bias=False))
    assert model.bert.encoder.layer[0].attention.self.query.bias is not None
    assert attribute(model, **tiny.inputs()).residual.abs().max() < 1e-10


def test_remove_bias_false_counts_the_value_bias():
    model = tiny.model()
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.LayerNorm)) and not name.endswith(("query", "key", "value")):
            module.bias = None
    assert_refused(model, BcosConfig(remove_bias=False), r"2 biases .*self\.value\.bias")
