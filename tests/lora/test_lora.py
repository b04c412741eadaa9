"""LoRA inside the B-cos layer, through every way that peft and transformers offer."""

import copy

import peft
import pytest
import torch
from helpers import tiny
from helpers.adapters import adapted, converted, distance, layer_types, logits, randomize, residual
from peft import LoraConfig, get_peft_model

from bcos_peft import attribute
from bcos_peft.lora import BcosLora
from bcos_peft.models import BcosModel
from bcos_peft.nn import BcosLinear


FAMILIES = tiny.FAMILIES + tiny.DECODERS


@pytest.mark.parametrize("family", FAMILIES)
def test_certificate_and_merging_in_every_family(family):
    """Exact with adapters active, disabled, merged and unloaded; merged is unmerged."""
    model = converted(family, torch.float64)
    before = logits(model, family)
    model = adapted(model)
    inside = [name for name, cls in layer_types(model).items() if cls is BcosLora]
    assert inside
    after = logits(model, family)
    assert distance(after, before) > 0.05
    assert residual(model, family) < 1e-12
    with model.disable_adapter():
        assert torch.equal(logits(model, family), before)
        assert residual(model, family) < 1e-12
    model.merge_adapter()
    assert distance(logits(model, family), after) < 1e-13
    assert residual(model, family) < 1e-12
    model.unmerge_adapter()
    assert distance(logits(model, family), after) < 1e-13
    plain = model.merge_and_unload()
    assert isinstance(plain, BcosModel)
    assert not layer_types(plain)
    assert distance(logits(plain, family), after) < 1e-13
    assert residual(plain, family) < 1e-12


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("unit_rows", [False, True], ids=["as is", "unit rows"])
def test_merging_a_layer_in_float32(family, unit_rows):
    model = adapted(converted(family, normalize_weights=unit_rows))
    for name, layer in model.named_modules():
        if isinstance(layer, BcosLora):
            x = torch.randn(64, layer.in_features, generator=torch.Generator().manual_seed(0))
            apart, weight = layer(x), layer.get_base_layer().weight.detach().clone()
            layer.merge(safe_merge=True)
            assert distance(layer(x), apart) < 1e-6, name
            layer.unmerge()
            assert distance(layer(x), apart) < 1e-6, name
            assert distance(layer.get_base_layer().weight, weight) < 1e-6
            naive = copy.deepcopy(layer.get_base_layer())
            naive.weight.data += layer.get_delta_weight("default")
            assert distance(apart, naive(x)) < 1e-6, name


def test_merged_is_unmerged_in_bfloat16_to_rounding():
    model = adapted(converted(dtype=torch.float64), r=8)
    exact, rounding = logits(model), []
    for adapters in (torch.float32, torch.bfloat16):
        half = copy.deepcopy(model).bfloat16()
        for name, parameter in half.named_parameters():
            if "lora_" in name:
                parameter.data = parameter.data.to(adapters)
        apart = logits(half)
        assert apart.dtype == torch.bfloat16
        half.merge_adapter()
        together = logits(half)
        rounding.append((distance(apart, exact), distance(together, exact), distance(apart, together)))
    for apart, together, between in rounding:
        assert max(apart, together) < 0.05
        assert between < 0.05
    # peft's own LoRA, outside, would be far off after merging
    outside = copy.deepcopy(model)
    for module in outside.modules():
        if isinstance(module, BcosLora):
            module.__class__ = peft.tuners.lora.layer.Linear
            module.fan_in_fan_out = False
    apart = logits(outside)
    outside.merge_adapter()
    assert distance(logits(outside), apart) > 0.1


def test_nothing_changes_until_training():
    model = converted()
    before = logits(model)
    model = get_peft_model(model, LoraConfig(target_modules="all-linear")).eval()
    assert distance(logits(model), before) < 1e-6


def test_where_b_is_1_it_is_peft_s_own_lora():
    model = adapted(converted(b=1.0), seed=1)
    inside = logits(model)
    assert BcosLora in layer_types(model).values(), "for B may be raised later"
    for module in model.modules():
        if isinstance(module, BcosLora):
            module.__class__ = peft.tuners.lora.layer.Linear
    assert distance(logits(model), inside) < 1e-6


def test_plain_layers_get_peft_s_own_lora():
    types = layer_types(adapted(converted(), target_modules=["q_proj", "v_proj", "up_proj", "lm_head"]))
    assert {cls for name, cls in types.items() if not name.endswith("up_proj")} == {peft.tuners.lora.layer.Linear}
    assert {cls for name, cls in types.items() if name.endswith("up_proj")} == {BcosLora}
    transposed = layer_types(adapted(converted("gpt2")))
    assert {cls.__name__ for name, cls in transposed.items() if name.endswith("c_attn")} == {"Linear"}
    assert {cls for name, cls in transposed.items() if not name.endswith("c_attn")} == {BcosLora}


TARGETS = {
    "default of the architecture": ({"target_modules": None}, {"q_proj", "v_proj"}),
    "all-linear": (
        {"target_modules": "all-linear"},
        {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
    ),
    "regular expression": ({"target_modules": r".*\.mlp\.(up|gate)_proj"}, {"up_proj", "gate_proj"}),
    "excluded": (
        {"target_modules": "all-linear", "exclude_modules": r".*self_attn.*"},
        {"gate_proj", "up_proj", "down_proj"},
    ),
    "some layers": ({"target_modules": ["o_proj"], "layers_to_transform": [1]}, {"o_proj"}),
}


@pytest.mark.parametrize(("options", "names"), TARGETS.values(), ids=TARGETS)
def test_targets(options, names):
    model = adapted(converted(dtype=torch.float64), **options)
    types = layer_types(model)
    assert {name.rpartition(".")[2] for name in types} == names
    assert residual(model) < 1e-12
    if "layers_to_transform" in options:
        assert len(types) == 1


def test_rank_and_scale_patterns():
    model = adapted(
        converted(dtype=torch.float64),
        rank_pattern={"up_proj": 2},
        alpha_pattern={"down_proj": 64},
        use_rslora=True,
        lora_alpha=8,
    )
    layers = {
        name.rpartition(".")[2]: module for name, module in model.named_modules() if isinstance(module, BcosLora)
    }
    assert layers["up_proj"].r["default"] == 2
    assert layers["down_proj"].scaling["default"] == 64 / 4**0.5
    assert layers["up_proj"].scaling["default"] == 8 / 2**0.5
    apart = logits(model)
    assert residual(model) < 1e-12
    assert distance(logits(model.merge_and_unload(safe_merge=True)), apart) < 1e-12


@pytest.mark.parametrize("kind", ["pissa", "olora", "orthogonal", "gaussian"])
def test_initialisations_of_peft(kind):
    model = converted()
    before = logits(model)
    model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=kind)).eval()
    if kind in ("pissa", "olora", "gaussian"):  # they leave the function as it is
        assert distance(logits(model), before) < 1e-4
    apart = logits(model)
    model.merge_adapter()
    assert distance(logits(model), apart) < 1e-5


def test_modules_to_save():
    model = adapted(converted("bert", torch.float64), task_type="SEQ_CLS", modules_to_save=["classifier", "LayerNorm"])
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert any("classifier" in name for name in trained)
    assert any("LayerNorm" in name for name in trained)
    assert residual(model, "bert") < 1e-12
    head = model.base_model.model.classifier.modules_to_save["default"]
    assert isinstance(head, BcosLinear)
    head.weight.data *= 2
    assert residual(model, "bert") < 1e-12
    after = logits(model, "bert")
    assert distance(logits(model.merge_and_unload(), "bert"), after) < 1e-12


def test_lora_on_embeddings():
    model = adapted(converted("bert", torch.float64), target_modules=["word_embeddings", "query", "dense"])
    assert residual(model, "bert") < 1e-12


def test_experts_by_their_parameters():
    model = converted("mixtral", torch.float64)
    before = logits(model, "mixtral")
    parameters = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    model = adapted(model, target_modules=["o_proj"], target_parameters=parameters)
    after = logits(model, "mixtral")
    assert distance(after, before) > 0.01
    assert residual(model, "mixtral") < 1e-12
    with model.disable_adapter():
        assert torch.equal(logits(model, "mixtral"), before)
    assert distance(logits(model.merge_and_unload(), "mixtral"), after) < 1e-12


def test_several_adapters():
    model = adapted(converted(dtype=torch.float64))
    one = logits(model)
    model.add_adapter("other", LoraConfig(r=2, target_modules=["up_proj", "q_proj"]))
    randomize(model, seed=0)  # the first as before
    model.set_adapter("other")
    other = logits(model)
    assert distance(other, one) > 0.05
    assert residual(model) < 1e-12
    model.set_adapter("default")
    one = logits(model)
    model.base_model.set_adapter(["default", "other"])
    both = logits(model)
    assert residual(model) < 1e-12
    model.merge_adapter()
    assert distance(logits(model), both) < 1e-12
    model.unmerge_adapter()
    batch = tiny.inputs(batch=3)
    with torch.no_grad():
        mixed = model(**batch, adapter_names=["other", "__base__", "default"]).logits
    for row, adapter in enumerate(["other", None, "default"]):
        alone = {key: value[row : row + 1] for key, value in batch.items()}
        with torch.no_grad():
            if adapter is None:
                with model.disable_adapter():
                    expected = model(**alone).logits
            else:
                model.set_adapter(adapter)
                expected = model(**alone).logits
        assert distance(mixed[row : row + 1], expected) < 1e-12


def test_weighted_combinations():
    model = adapted(converted(dtype=torch.float64), target_modules=["up_proj", "o_proj"])
    model.add_adapter("other", LoraConfig(r=4, target_modules=["up_proj", "o_proj"]))
    randomize(model, seed=3)
    deltas = {
        name: [module.get_delta_weight(adapter) for adapter in ("default", "other")]
        for name, module in model.named_modules()
        if isinstance(module, BcosLora)
    }
    model.add_weighted_adapter(["default", "other"], [0.5, -2.0], "mixed", combination_type="cat")
    model.set_adapter("mixed")
    combined = logits(model)
    assert residual(model) < 1e-12
    plain = model.unload()
    for name, (first, second) in deltas.items():
        plain.get_submodule(name.removeprefix("base_model.model.")).weight.data += 0.5 * first - 2 * second
    assert distance(logits(plain), combined) < 1e-12


def test_dropout_acts_in_training_only():
    model = adapted(converted(dtype=torch.float64), lora_dropout=0.5)
    apart = logits(model)
    assert torch.equal(logits(model), apart)
    model.train()
    assert distance(logits(model), apart) > 1e-3
    result = attribute(model, **tiny.inputs())
    assert float((result.residual.abs() / result.scores.abs().sum(-1)).max()) < 1e-12, "explained without dropout"
    assert model.training
