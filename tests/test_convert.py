"""get_bcos_model: what it makes of a model, what it refuses, and that a refusal leaves no trace."""

import copy
import dataclasses
import pickle

import pytest
import tiny
import torch
from accelerate import cpu_offload, dispatch_model
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from torch import nn
from transformers import (
    BertForSequenceClassification,
    BertModel,
    BertPreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from bcos_peft import BcosConfig, attribute, get_bcos_model
from bcos_peft.families import Family, find_family, hold
from bcos_peft.layers import BcosLinear
from bcos_peft.verify import probe_residual


every_task = pytest.mark.parametrize("task", tiny.TASKS)
every_family = pytest.mark.parametrize("family", tiny.FAMILIES)


def snapshot(model):
    """Everything that a conversion could change, objects by identity."""
    return {
        "weights": {name: value.clone() for name, value in model.state_dict().items()},
        "parameters": [(name, id(p), p.requires_grad) for name, p in model.named_parameters(remove_duplicate=False)],
        "modules": [
            (name, id(module), type(module), module.training, sorted(vars(module)), list(module._forward_hooks))
            for name, module in model.named_modules()
        ],
        "forwards": {name: id(vars(module).get("forward")) for name, module in model.named_modules()},
        "config": (id(model.config), type(model.config), copy.deepcopy(model.config.to_dict())),
        "owners": [id(module.config) for module in model.modules() if "config" in vars(module)],
        "tied": dict(model.all_tied_weights_keys),
        "gradients": [p.grad for p in model.parameters()],
    }


def assert_same(model, before):
    after = snapshot(model)
    weights = before.pop("weights"), after.pop("weights")
    assert list(weights[0]) == list(weights[1])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    for key, value in before.items():
        assert after[key] == value, key


def assert_refused(model, config=None, match=None, error=ValueError, **arguments):
    before = snapshot(model)
    with pytest.raises(error, match=match):
        get_bcos_model(model, config, **arguments)
    assert_same(model, before)


def run(model, family="bert", **changes):
    with torch.no_grad():
        return model(**(tiny.inputs(3, 9, "right", family) | changes))


def zero_biases(model):
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data.zero_()
    return model


# What a conversion does.


@every_family
@every_task
def test_with_b_1_and_without_biases_it_is_the_stock_model(family, task):
    model = zero_biases(tiny.model(family, task, torch.float64))
    expected = run(model, family)
    converted = get_bcos_model(model, BcosConfig(b=1.0, pooler_activation="dynamic"))
    assert converted is model
    tolerance = {"rtol": 0, "atol": 1e-5 if family == "deberta" else 1e-9}  # whose stock norm rounds to float32
    visible = tiny.inputs(3, 9, "right", family)["attention_mask"].bool()
    for key, value in run(model, family).items():
        if value.shape[:2] == visible.shape:  # what stands at padding is nobody's concern
            torch.testing.assert_close(value[visible], expected[key][visible], **tolerance)
        else:
            torch.testing.assert_close(value, expected[key], **tolerance)


@every_family
@every_task
def test_parameters_keep_their_names_and_identity(family, task):
    model = tiny.model(family, task)
    names, parameters = list(model.state_dict()), dict(model.named_parameters())
    get_bcos_model(model, BcosConfig(b=2.0))
    removed = set(names) - set(model.state_dict())
    assert removed == {name for name in names if name.endswith("bias")}
    assert list(model.state_dict()) == [name for name in names if name not in removed]
    for name, parameter in model.named_parameters():
        assert parameter is parameters[name]
    assert type(model).__name__ == "Bcos" + tiny.model_class(family, task).__name__
    assert isinstance(model, tiny.model_class(family, task))
    assert model.config.model_type == "bcos_" + family


@every_family
@every_task
def test_which_layers_have_an_exponent(family, task):
    model = get_bcos_model(tiny.model(family, task), BcosConfig(b=1.5))
    plain = {name for name, module in model.named_modules() if type(module) is nn.Linear}
    aligned = {name for name, module in model.named_modules() if isinstance(module, BcosLinear)}
    attention = ("query", "key", "value", "q_lin", "k_lin", "v_lin", "Wqkv", "in_proj", "_proj", "pos_q_proj")
    others = ("decoder", "vocab_projector", "generator_lm_head", "embeddings_project", "lm_head.dense")
    assert all(name.endswith(attention + others) for name in plain)
    assert not any(name.endswith(attention) for name in aligned - {"classifier.out_proj"})
    assert len(aligned) >= 6
    heads = {"classifier", "qa_outputs", "classifier.out_proj"}
    assert (task == "MaskedLM") != bool(heads & aligned)
    assert all(model.get_submodule(name).b == 1.5 for name in aligned)


def test_what_it_says_about_itself():
    model = tiny.model()
    model.config._name_or_path = "some/checkpoint"
    get_bcos_model(model, BcosConfig(b=1.5))
    assert model.bcos_config.base_model_name_or_path == "some/checkpoint"
    assert 0 <= model.bcos_config.probe_residual < 1e-5
    assert model.bcos_config.bcos_version
    assert "BcosLinear(in_features=32, out_features=3, b=1.5)" in repr(model)
    unverified = get_bcos_model(tiny.model(), verify=False)
    assert unverified.bcos_config.probe_residual is None
    assert unverified.bcos_config.b == 1.25


def test_the_config_given_is_not_touched_and_not_shared():
    config = BcosConfig(b=1.5, b_pattern={"classifier": 1.0})
    first, second = get_bcos_model(tiny.model(), config), get_bcos_model(tiny.model(), config)
    assert config == BcosConfig(b=1.5, b_pattern={"classifier": 1.0})
    first.config.bcos["b"] = 3.0
    assert second.bcos_config.b == config.b == 1.5


def test_models_that_share_a_config():
    stock_config = tiny.config("bert")
    first, second = BertForSequenceClassification(stock_config), BertForSequenceClassification(stock_config)
    before, logits = snapshot(second), run(second.eval()).logits
    get_bcos_model(first)
    assert_same(second, before | {"modules": snapshot(second)["modules"]})
    assert type(stock_config).__name__ == "BertConfig"
    assert not hasattr(stock_config, "bcos")
    assert torch.equal(run(second).logits, logits)
    assert all(module.config is first.config for module in first.modules() if "config" in vars(module))


def test_b_pattern():
    pattern = {r"layer\.0\..*": 2.0, r".*intermediate\.dense": 1.5, "classifier": 1.0}
    model = get_bcos_model(tiny.model(), BcosConfig(b=1.25, b_pattern=pattern))
    assert model.bert.encoder.layer[0].intermediate.dense.b == 2.0, "the first match wins"
    assert model.bert.encoder.layer[1].intermediate.dense.b == 1.5
    assert model.bert.encoder.layer[1].output.dense.b == 1.25
    assert model.classifier.b == 1.0


@pytest.mark.parametrize("targets", [["intermediate.dense", "classifier"], r".*intermediate\.dense|classifier"])
def test_target_modules(targets):
    model = get_bcos_model(tiny.model(dtype=torch.float64), BcosConfig(b=2.0, target_modules=targets))
    aligned = [name for name, module in model.named_modules() if isinstance(module, BcosLinear)]
    assert aligned == [*(f"bert.encoder.layer.{i}.intermediate.dense" for i in range(2)), "classifier"]
    assert not any(name.endswith("bias") for name in model.state_dict()), "what is no target loses its bias"
    assert attribute(model, **tiny.inputs()).residual.abs().max() < 1e-10


def test_query_and_value_as_targets():
    """They may be aligned too: it stays exact."""
    model = get_bcos_model(tiny.model(dtype=torch.float64), BcosConfig(b=2.0, target_modules=["query", "value"]))
    assert isinstance(model.bert.encoder.layer[0].attention.self.query, BcosLinear)
    assert attribute(model, **tiny.inputs()).residual.abs().max() < 1e-10


def test_exclude_modules_win():
    config = BcosConfig(target_modules=["dense", "classifier"], exclude_modules=["pooler.dense", "output.dense"])
    model = get_bcos_model(tiny.model(), config)
    assert type(model.bert.pooler.dense) is nn.Linear
    assert type(model.bert.encoder.layer[0].attention.output.dense) is nn.Linear
    assert isinstance(model.bert.encoder.layer[0].intermediate.dense, BcosLinear)


def test_alignment_off_removes_the_biases_only():
    stock = zero_biases(tiny.model(dtype=torch.float64))
    model = get_bcos_model(
        tiny.model(dtype=torch.float64), BcosConfig(b=2.0, align=False, pooler_activation="dynamic")
    )
    torch.testing.assert_close(run(model).logits, run(stock).logits)
    assert not any(name.endswith("bias") for name in model.state_dict())


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "deberta-v2", "electra"])
def test_the_poolers_activation(family):
    """It is dropped or kept, and either way the logits sum."""
    identity, dynamic = (
        get_bcos_model(tiny.model(family, dtype=torch.float64), BcosConfig(b=1.0, pooler_activation=activation))
        for activation in ("identity", "dynamic")
    )
    inputs = tiny.inputs(3, 9, "right", family)
    stock = zero_biases(tiny.model(family, dtype=torch.float64))
    torch.testing.assert_close(run(dynamic, family).logits, run(stock, family).logits)
    for model in (identity, dynamic):
        assert attribute(model, **inputs).residual.abs().max() < 1e-10
    changed = not torch.allclose(run(identity, family).logits, run(dynamic, family).logits)
    # DeBERTa's and ELECTRA's heads have a GELU, which is no saturating function and stays.
    assert changed == (family not in ("deberta-v2", "electra"))


@every_family
def test_tied_embeddings_stay_tied(family):
    for convert_head in (False, True):
        model = tiny.model(family, "MaskedLM", torch.float64)
        tied = {key: value for key, value in model.all_tied_weights_keys.items() if not key.endswith("bias")}
        get_bcos_model(model, BcosConfig(b=1.5, convert_head=convert_head))
        assert model.all_tied_weights_keys == tied
        assert tied
        words, head = model.get_input_embeddings().weight, model.get_output_embeddings()
        assert head.weight is words
        assert head.bias is None
        assert isinstance(head, BcosLinear) == convert_head
        model.tie_weights()
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
        result = attribute(model, **tiny.inputs(2, 8, "right", family), target=77)
        assert result.residual.abs().max() < 1e-10
        assert result.logit.abs().min() > 1e-6


def test_untied_embeddings_stay_untied():
    model = get_bcos_model(tiny.model(task="MaskedLM", tie_word_embeddings=False))
    assert model.get_output_embeddings().weight is not model.get_input_embeddings().weight


@every_family
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision(family, dtype):
    model = get_bcos_model(tiny.model(family, dtype=dtype), BcosConfig(b=1.25))
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert model.bcos_config.probe_residual < 0.05
    assert run(model, family).logits.dtype == dtype
    exact = get_bcos_model(tiny.model(family, dtype=dtype).float(), BcosConfig(b=1.25))
    torch.testing.assert_close(run(model, family).logits.float(), run(exact, family).logits, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta", "deberta"])
def test_copies(family):
    model = get_bcos_model(tiny.model(family), BcosConfig(b=1.5, pooler_activation="dynamic"))
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(twin) is type(model)
        assert twin.config is not model.config
        assert torch.equal(run(twin, family).logits, run(model, family).logits)
        inputs = tiny.inputs(2, 8, "right", family)
        assert torch.equal(attribute(twin, **inputs).scores, attribute(model, **inputs).scores)


def test_training_mode_and_frozen_parameters_are_kept():
    model = tiny.model().train()
    model.bert.requires_grad_(False)
    get_bcos_model(model)
    assert all(module.training for module in model.modules())
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["classifier.weight"]


def test_on_the_meta_device():
    with torch.device("meta"):
        model = BertForSequenceClassification(tiny.config("bert"))
    get_bcos_model(model, BcosConfig(b=1.5))
    assert model.bcos_config.probe_residual is None
    assert model.classifier.b == 1.5
    model.to_empty(device="cpu").load_state_dict(get_bcos_model(tiny.model()).state_dict())
    model.tie_weights()


# Refusals.


@every_family
def test_a_refusal_leaves_no_trace(family):
    """The late ones too: here every change has been made when the check fails."""
    table = find_family(family)
    for task in tiny.TASKS:
        model = tiny.model(family, task)
        assert_refused(model, BcosConfig(b_pattern={"no_such_layer": 1.0}), "b_pattern: 'no_such_layer' matches no")
        live = dataclasses.replace(table, held={})
        assert_refused(model, match="not linear in its input", family=live)
        assert find_family(family) is table, "a table that failed is not kept"
        get_bcos_model(model)
        assert probe_residual(model) < 1e-4


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
            TypeError, match=f"must be a transformers PreTrainedModel, got torch.nn.*{type(model).__name__}"
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


def test_refuses_unknown_architectures():
    config = T5Config(vocab_size=99, d_model=8, d_ff=8, d_kv=4, num_layers=1, num_heads=2)
    assert_refused(T5ForConditionalGeneration(config), match="Unknown architecture.*'t5'.*bert.*Adding a family")


def test_refuses_a_model_without_head():
    assert_refused(
        BertModel(tiny.config("bert")), match="BertModel is not an architecture that the 'bert' family covers"
    )


def test_refuses_to_convert_twice():
    model = get_bcos_model(tiny.model(), BcosConfig(b=1.5))
    assert_refused(model, match=r"is converted already \(B = 1.5\)")


def test_refuses_decoders_in_encoders_clothing():
    assert_refused(tiny.model("bert", is_decoder=True), match="config.is_decoder=True")
    assert_refused(tiny.model("roberta", is_decoder=True, add_cross_attention=True), match="config.is_decoder=True")


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
def test_refuses_modules_that_it_does_not_know_by_name(where, module):
    model = tiny.model()
    parent, _, name = where.rpartition(".")
    setattr(model.get_submodule(parent), name, module)
    assert_refused(model, match=rf"Cannot convert module '{where}' \(.*{type(module).__name__}\)")


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


# Classes of the user's own.


class Squashed(BertForSequenceClassification):
    """Something non-linear in a forward, where no table and no module shows it."""

    def forward(self, input_ids=None, attention_mask=None, **kwargs):
        pooled = self.bert(input_ids, attention_mask=attention_mask).pooler_output
        return SequenceClassifierOutput(logits=self.classifier(torch.tanh(pooled)))


def family_for(*architectures, **changes):
    return dataclasses.replace(find_family("bert"), architectures=architectures, **changes)


@pytest.fixture
def keep_tables():
    """Conversions with a table of one's own register it; put the package's back."""
    from bcos_peft.families import base, register_family
    from bcos_peft.registration import register

    before = dict(base._FAMILIES)
    yield
    base._FAMILIES.clear()
    for table in before.values():
        register_family(table)
    register(find_family("bert"))


def test_verification_refuses_what_is_not_linear(keep_tables):
    model = tiny.model(cls=Squashed)
    assert_refused(model, match="The converted BcosSquashed is not linear in its input", family=family_for("Squashed"))
    assert find_family("bert").architectures != ("Squashed",)
    get_bcos_model(model, family=family_for("Squashed"), verify=False)
    result = attribute(model, **tiny.inputs())
    assert (result.residual.abs() > 1e-3 * result.logit.abs()).all(), "the residual tells"


def test_a_class_without_a_table_is_refused():
    assert_refused(tiny.model(cls=Squashed), match="Squashed is not an architecture.*pass family=")


def test_a_class_with_the_name_of_a_stock_one_is_itself():
    """What decides is the class, not its name: the forward that verification sees is the model's own."""
    namesake = type("BertForSequenceClassification", (Squashed,), {"__module__": __name__})
    assert_refused(tiny.model(cls=namesake), match="is not linear in its input")


class MeanPooled(BertPreTrainedModel):
    """A head of one's own on a stock encoder."""

    def __init__(self, config):
        super().__init__(config)
        self.bert = BertModel(config, add_pooling_layer=False)
        self.rank = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(self, input_ids=None, attention_mask=None):
        hidden = self.bert(input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask[..., None].to(hidden.dtype)
        return SequenceClassifierOutput(logits=self.rank((hidden * mask).sum(1) / mask.sum(1)))


def test_a_family_of_ones_own(keep_tables, tmp_path):
    model = tiny.model(cls=MeanPooled, dtype=torch.float64)
    get_bcos_model(model, BcosConfig(b=1.5), family=family_for("MeanPooled"))
    assert isinstance(model, MeanPooled)
    assert type(model).__name__ == "BcosMeanPooled"
    inputs = tiny.inputs(3, 9, "left")
    result = attribute(model, **inputs)
    assert result.residual.abs().max() < 1e-10
    twin = pickle.loads(pickle.dumps(model))
    assert torch.equal(attribute(twin, **inputs).scores, result.scores)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, dtype=torch.float64)
    assert torch.equal(attribute(loaded, **inputs).scores, result.scores)


def test_a_changed_table_for_a_stock_class_counts(keep_tables):
    """What is held constant is what the table that was passed in says."""
    seen = []

    def watch(config, output):
        seen.append(config.model_type)
        return hold(config, output)

    table = dataclasses.replace(find_family("bert"), held={r"attention\.self\.(query|key)": watch})
    model = get_bcos_model(tiny.model(), family=table)
    assert model.bcos_family is table
    assert set(seen) == {"bcos_bert"}


@pytest.mark.parametrize(
    ("family", "error", "match"),
    [
        ("bert", TypeError, "family must be a bcos_peft.families.Family, got str"),
        (find_family("roberta"), ValueError, "family is for model_type 'roberta'; this model's is 'bert'"),
        (dataclasses.replace(find_family("bert"), embeddings="embedings"), ValueError, "has no such module"),
    ],
    ids=["not a table", "another architecture", "a typing error"],
)
def test_refuses_tables_that_do_not_fit(family, error, match):
    assert_refused(tiny.model(), error=error, match=match, family=family)


def test_a_table_says_where_the_input_enters():
    assert isinstance(find_family("bert"), Family)
    with pytest.raises(dataclasses.FrozenInstanceError):
        find_family("bert").embeddings = "x"


# Hooks of accelerate: each keeps the stock forward on the instance, in `_old_forward`.


class Counting(ModelHook):
    def __init__(self):
        self.calls = 0

    def pre_forward(self, module, *args, **kwargs):
        self.calls += 1
        return args, kwargs


def offload(model):
    return cpu_offload(model, execution_device=torch.device("cpu"))


def dispatch(model):
    return dispatch_model(model, device_map={"bert": "cpu", "classifier": "cpu"}, main_device="cpu", force_hooks=True)


def add_hooks(model):
    for module in model.modules():
        add_hook_to_module(module, Counting())
    return model


@pytest.mark.parametrize("attach", [offload, dispatch, add_hooks])
@pytest.mark.parametrize("when", ["before", "after"])
def test_hooks_of_accelerate(attach, when):
    expected = get_bcos_model(tiny.model(), BcosConfig(b=2.0))
    model = tiny.model()
    if when == "before":
        attach(model)
        get_bcos_model(model, BcosConfig(b=2.0))
        assert model.bcos_config.probe_residual < 1e-4
    else:
        get_bcos_model(model, BcosConfig(b=2.0))
        attach(model)
    inputs, exact = tiny.inputs(), attribute(expected, **tiny.inputs(), target=1)
    torch.testing.assert_close(run(model).logits, run(expected).logits)
    flags = [(name, p.requires_grad) for name, p in model.named_parameters()]
    torch.testing.assert_close(attribute(model, **inputs, target=1).scores, exact.scores)
    assert [(name, p.requires_grad) for name, p in model.named_parameters()] == flags, "offloading makes new ones"
    torch.testing.assert_close(run(model).logits, run(expected).logits)
    remove_hook_from_module(model, recurse=True)
    assert "_hf_hook" not in vars(model.classifier)
    if not any(p.is_meta for p in model.parameters()):
        torch.testing.assert_close(run(model).logits, run(expected).logits)
        torch.testing.assert_close(attribute(model, **inputs, target=1).scores, exact.scores)


def test_hooks_of_accelerate_are_called():
    model = add_hooks(tiny.model())
    hook = model.classifier._hf_hook
    get_bcos_model(model)
    before = hook.calls
    run(model)
    assert hook.calls == before + 1


@pytest.mark.parametrize("attach", [offload, dispatch, add_hooks])
def test_a_refusal_keeps_the_hooks_of_accelerate(attach):
    model = attach(tiny.model())
    expected = run(model).logits
    before = [(id(vars(m).get("_hf_hook")), id(vars(m).get("_old_forward"))) for m in model.modules()]
    live = dataclasses.replace(find_family("bert"), held={})
    with pytest.raises(ValueError, match="not linear in its input"):
        get_bcos_model(model, family=live)
    assert [(id(vars(m).get("_hf_hook")), id(vars(m).get("_old_forward"))) for m in model.modules()] == before
    assert type(model) is BertForSequenceClassification
    torch.testing.assert_close(run(model).logits, expected)


def test_a_model_whose_hooks_were_removed():
    """accelerate leaves the stock forward, bound, on each instance."""
    model = add_hooks(tiny.model())
    remove_hook_from_module(model, recurse=True)
    get_bcos_model(model, BcosConfig(b=2.0))
    torch.testing.assert_close(run(model).logits, run(get_bcos_model(tiny.model(), BcosConfig(b=2.0))).logits)


def test_a_head_as_target_needs_convert_head():
    model = tiny.model(task="MaskedLM")
    with pytest.raises(ValueError, match="convert_head=True"):
        get_bcos_model(model, BcosConfig(target_modules=["decoder"]))
    get_bcos_model(model, BcosConfig(target_modules=["decoder"], convert_head=True))
    assert isinstance(model.cls.predictions.decoder, BcosLinear)
