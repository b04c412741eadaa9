"""What the modules of a model are, against what its config says: when it is explained, adapted and saved."""

import copy

import pytest
import torch
from helpers import tiny
from helpers.adapters import adapted, distance, logits, residual, task_of
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from bcos_peft import BcosConfig, attribute, get_bcos_model
from bcos_peft.models import check_modules
from bcos_peft.nn import BcosLinear


def converted(family="bert", task=None, **options):
    return get_bcos_model(tiny.model(family, task or task_of(family)), BcosConfig(b=1.5, **options))


def head(model, bias=False, cls=nn.Linear, **options):
    model.classifier = cls(32, 3, bias=bias, **options) if cls is nn.Linear else cls(32, 3, **options)


def in_block(model, name, module):
    setattr(model.bert.encoder.layer[0].output, name, module)


CHANGES = {
    "a plain head": (
        lambda m: head(m),
        "'classifier' .* plain Linear.* B = 1.5.*exclude_modules'\\] = \\['classifier'",
    ),
    "a head with a bias": (lambda m: head(m, bias=True), "'classifier' .*and no bias"),
    "a head of two layers": (
        lambda m: setattr(m, "classifier", nn.Sequential(nn.Linear(32, 8), nn.Tanh(), nn.Linear(8, 3))),
        "'classifier.[02]' .*plain Linear",
    ),
    "a plain layer in a block": (
        lambda m: in_block(m, "dense", nn.Linear(64, 32, bias=False)),
        r"'bert.encoder.layer.0.output.dense' .*nn.BcosLinear\(64, 32, b=1.5\)",
    ),
    "a stock norm": (lambda m: in_block(m, "LayerNorm", nn.LayerNorm(32)), "stock LayerNorm"),
    "an activation that was dropped": (
        lambda m: setattr(m.bert.pooler, "activation", nn.Tanh()),
        "'bert.pooler.activation' .*'dynamic'",
    ),
    "a sigmoid": (lambda m: in_block(m, "dropout", nn.Sigmoid()), r"torch.nn.*Sigmoid.*would lack it"),
    "a B-cos query": (
        lambda m: setattr(m.bert.encoder.layer[0].attention.self, "query", BcosLinear(32, 32, b=2)),
        "query' .*B-cos layer with B = 2.* stays plain",
    ),
    "a layer that is set plain": (lambda m: setattr(m.classifier, "b", None), "plain BcosLinear"),
    "unit rows": (lambda m: setattr(m.classifier, "normalize_weights", True), "normalize_weights=True"),
    "a bias that was put back": (
        lambda m: m.bert.encoder.layer[0].attention.self.value.register_parameter(
            "bias", nn.Parameter(torch.ones(32))
        ),
        "value' .*'bias'.*no token",
    ),
    "a bias of a norm": (
        lambda m: setattr(m.bert.embeddings.LayerNorm, "bias", nn.Parameter(torch.ones(32))),
        "embeddings.LayerNorm' .*'bias'",
    ),
}


@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES)
def test_what_the_config_does_not_tell_of_is_refused(tmp_path, change, message):
    model = converted()
    attribute(model, **tiny.inputs())
    change(model)
    with pytest.raises(ValueError, match=message):
        model.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    with pytest.raises(ValueError, match=message):
        attribute(model, **tiny.inputs())
    with pytest.raises(ValueError, match=message):
        adapted(model)
    assert not hasattr(model, "peft_config")


def test_ways_to_say_that_a_layer_is_meant(tmp_path):
    load = AutoModelForSequenceClassification.from_pretrained
    plain, layer = converted(), converted()
    head(plain)
    plain.config.bcos["exclude_modules"] = ["classifier"]
    head(layer, cls=BcosLinear, b=2.0)
    for name, model in {"plain": plain, "layer": layer}.items():
        assert residual(model, "bert") < 1e-5
        model.eval().save_pretrained(tmp_path / name)
        again = load(tmp_path / name)
        assert distance(logits(again, "bert"), logits(model, "bert")) < 1e-6
        assert again.classifier.__dict__.get("b") == model.classifier.__dict__.get("b")


@pytest.mark.parametrize(
    ("excluded", "meant"),
    [(["dense"], r"\['dense', 'classifier'\]"), (r".*\.dense", r"'\(\.\*\\\\\.dense\)\|classifier'")],
)
def test_what_is_excluded_already_stays_so(excluded, meant):
    model = converted(exclude_modules=excluded)
    head(model)
    with pytest.raises(ValueError, match=meant):
        check_modules(model)


@pytest.mark.parametrize("family", ["roberta", "deberta", "gpt2", "llama", "mixtral"])
def test_other_families(family):
    model = converted(family)
    check_modules(model)
    stock = tiny.model(family, task_of(family))
    swapped = 0
    for name, module in list(model.named_modules()):
        old = stock.get_submodule(name) if name else None
        if name and type(old) is not type(module) and not list(module.children()) and list(old.parameters()):
            other = copy.copy(model)
            other._modules = copy.deepcopy(model._modules)
            other.set_submodule(name, copy.deepcopy(old))
            with pytest.raises(ValueError, match=rf"'{name}' of this"):
                check_modules(other)
            swapped += 1
    assert swapped > 4


def test_adapters_and_wrappers_are_looked_through(tmp_path):
    model = converted()
    model = adapted(model, modules_to_save=["classifier"])
    check_modules(model.get_base_model())
    model.get_base_model().bert.encoder.layer[0].output.dense.base_layer = nn.Linear(64, 32, bias=False)
    with pytest.raises(ValueError, match="'bert.encoder.layer.0.output.dense' .*exclude_modules"):
        model.save_pretrained(tmp_path / "adapter")
    assert not (tmp_path / "adapter" / "adapter_model.safetensors").exists()


def test_a_compiled_part_has_the_name_of_the_part():
    model = converted("llama")
    model.model.layers[0].mlp = torch.compile(model.model.layers[0].mlp)
    check_modules(model)
    model.set_b(2)
    assert {module.b for name, module in model.named_modules() if name.endswith("up_proj")} == {2.0}
    assert model.bcos_name("model.layers.0.mlp._orig_mod.up_proj") == "model.layers.0.mlp.up_proj"


def test_models_without_a_head_and_with_another_one(tmp_path):
    converted("llama").save_pretrained(tmp_path)
    for cls in (AutoModelForCausalLM, AutoModelForSequenceClassification):
        check_modules(cls.from_pretrained(tmp_path))
    from transformers import AutoModel

    body = AutoModel.from_pretrained(tmp_path)
    check_modules(body)
    body.layers[1].mlp.up_proj = nn.Linear(32, 64, bias=False)
    with pytest.raises(ValueError, match="'model.layers.1.mlp.up_proj'"):
        body.save_pretrained(tmp_path / "body")


@pytest.mark.parametrize("change", [lambda: nn.Linear(32, 32, bias=False), lambda: BcosLinear(32, 32, b=1.5)])
def test_a_square_layer_the_wrong_way_round(tmp_path, change):
    """GPT-2's weights are transposed: a linear layer in the place of one would be loaded without a word."""
    model = converted("gpt2", "CausalLM")
    model.transformer.h[0].attn.c_proj = change()
    if not isinstance(model.transformer.h[0].attn.c_proj, BcosLinear):
        model.config.bcos["exclude_modules"] = ["transformer.h.0.attn.c_proj"]
    with pytest.raises(ValueError, match=r"'transformer.h.0.attn.c_proj' .*Linear .*loaded has a BcosConv1D"):
        model.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_a_head_of_another_size_needs_the_config(tmp_path):
    model = converted()
    model.classifier = BcosLinear(32, 7, b=1.5)
    with pytest.raises(ValueError, match=r"'classifier' .*\(7, 32\), but .*\(3, 32\).*num_labels"):
        model.save_pretrained(tmp_path)
    model.config.num_labels = 7
    model.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert distance(logits(again, "bert"), logits(model, "bert")) < 1e-6
