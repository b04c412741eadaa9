"""B-cos layers over the quantised weights of bitsandbytes: exact for the quantised model, trained with LoRA."""

import copy

import pytest
import torch
from helpers import tiny
from helpers.adapters import adapted, distance, logits, residual
from helpers.functions import gradients, reference
from helpers.launching import start
from helpers.paths import TESTS
from helpers.quantised import WIDTHS, both, checkpoint, layers, quantisation, quantised
from helpers.trainers import losses, rows, trainer
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from torch.autograd import gradcheck
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import bcos_peft
from bcos_peft import BcosConfig, attribute, get_bcos_model, merge_gains, train_only
from bcos_peft.lora import BcosLora
from bcos_peft.nn import BcosLinear, bcos_scale
from bcos_peft.nn.numerics import _row_norms


pytestmark = pytest.mark.newest  # bitsandbytes is not among the oldest dependencies


def in_float(model, folder, **config):
    """The float model that the quantised one stands for: its weights, dequantised."""
    twin = get_bcos_model(AutoModelForCausalLM.from_pretrained(folder), BcosConfig(**{"b": 1.5} | config))
    for name, module in layers(model).items():
        if hasattr(module, "dequantized"):
            twin.get_submodule(name.replace(".base_layer", "")).weight.data = module.dequantized().float().clone()
    return twin


@pytest.mark.parametrize("b", [1.0, 1.25, 2.0])
@pytest.mark.parametrize("unit_rows", [False, True], ids=["as is", "unit rows"])
@pytest.mark.parametrize("hold_scale", [False, True])
def test_the_transform_of_a_product(b, unit_rows, hold_scale):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    options = {"normalize_weights": unit_rows, "hold_scale": hold_scale}

    def layer(x, weight):
        norms = weight.norm(dim=-1)
        return bcos_scale(x, x @ weight.t(), norms.detach() if hold_scale else norms, b, **options)

    exact = gradients(reference, x, weight, b, unit_rows, hold_scale)
    torch.testing.assert_close(gradients(layer, x, weight), exact)
    if not hold_scale:
        assert gradcheck(layer, (x, weight), atol=1e-7)


@both
@pytest.mark.parametrize("unit_rows", [False, True], ids=["as is", "unit rows"])
def test_the_model_of_the_dequantised_weights(tmp_path, bits, unit_rows):
    folder = checkpoint(tmp_path)
    model = quantised(folder, bits, normalize_weights=unit_rows)
    assert len([m for m in layers(model).values() if hasattr(m, "dequantized")]) == 14
    assert {name.rpartition(".")[2] for name, m in layers(model).items() if m.b is None} == {
        "q_proj",
        "k_proj",
        "v_proj",
    }
    twin = in_float(model, folder, normalize_weights=unit_rows)
    assert distance(logits(model), logits(twin)) < 1e-5
    assert residual(model) < 1e-5
    found, exact = (attribute(m, **tiny.inputs()) for m in (model, twin))
    assert distance(found.scores, exact.scores) < 1e-4


@both
def test_predicting_first_takes_no_gradient_away(tmp_path, bits):
    """bitsandbytes rearranges 4-bit weights at the first prediction on some CPUs; gradients were lost from then on."""
    folder = checkpoint(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(folder, quantization_config=quantisation(bits), dtype=torch.float32)
    logits(plain.eval())
    model = get_bcos_model(plain, BcosConfig(b=1.5))
    for _ in range(2):
        logits(model)
        assert residual(model) < 1e-5
        embedded = model.get_input_embeddings()(tiny.inputs()["input_ids"]).detach().requires_grad_()
        model(inputs_embeds=embedded).logits.sum().backward()
        assert embedded.grad.abs().max() > 0


@both
def test_lora_over_quantised_weights(tmp_path, bits):
    """Values and gradients are those of LoRA over the dequantised weights."""
    folder = checkpoint(tmp_path)
    model = quantised(folder, bits)
    before = logits(model)
    model = adapted(model, task_type="CAUSAL_LM")
    kinds = {type(module).__name__ for module in model.modules() if "Lora" in type(module).__name__}
    assert ({"4 bits": "BcosLora4bit", "8 bits": "BcosLora8bit"}[bits]) in kinds
    twin = adapted(in_float(model.get_base_model(), folder), task_type="CAUSAL_LM")
    twin.load_state_dict({k: v for k, v in model.state_dict().items() if "lora_" in k}, strict=False)
    assert distance(logits(model), logits(twin)) < 1e-5
    assert distance(logits(model), before) > 0.05
    assert residual(model) < 1e-5
    batch = tiny.inputs() | {"labels": tiny.inputs()["input_ids"]}
    for m in (model, twin):
        m(**batch).loss.backward()
    expected = {name: p.grad for name, p in twin.named_parameters() if p.grad is not None}
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys()
    assert all(distance(found[name], expected[name]) < 1e-3 for name in found)
    with model.disable_adapter():
        assert torch.equal(logits(model), before)
        assert residual(model) < 1e-5


@both
def test_merging_rounds_again_and_takes_norms_again(tmp_path, bits):
    model = adapted(quantised(checkpoint(tmp_path / "base"), bits), task_type="CAUSAL_LM")
    layer = next(module for module in model.modules() if isinstance(module, BcosLora))
    base = layer.get_base_layer()
    weight, norms = base.dequantized().clone(), base.row_norms().clone()
    with pytest.warns(UserWarning, match="rounding errors"):
        model.merge_adapter()
    step = 0.2 if bits == "4 bits" else 0.02
    target = weight + layer.get_delta_weight("default")
    assert distance(base.dequantized(), target) < step
    torch.testing.assert_close(base.row_norms(), _row_norms(base.dequantized()))
    assert distance(base.row_norms(), norms) > 1e-3
    assert residual(model) < 1e-5
    merged = logits(model)
    plain = model.merge_and_unload()
    assert distance(logits(plain), merged) < 1e-6
    assert residual(plain) < 1e-5
    plain.save_pretrained(tmp_path / "merged")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert distance(logits(again), merged) < 1e-6


def test_scaling_rows_is_scaling_the_rows_of_a_float_weight(tmp_path):
    folder = checkpoint(tmp_path)
    model = quantised(folder, "8 bits")
    twin = in_float(model, folder)
    factors = torch.linspace(-1, 2, 128)
    model.model.layers[1].mlp.gate_proj.scale_rows(factors)
    twin.model.layers[1].mlp.gate_proj.weight.data *= factors[:, None]
    assert distance(logits(model), logits(twin)) < 1e-5


@both
def test_parts_that_are_not_quantised_stay_b_cos(tmp_path, bits):
    """transformers leaves a head in float, if it is asked to or finds it without a bias."""
    tiny.model("bert", **WIDTHS).save_pretrained(tmp_path / "base")
    config = quantisation(bits)
    config.llm_int8_skip_modules = ["classifier"]
    load = AutoModelForSequenceClassification.from_pretrained
    get_bcos_model(load(tmp_path / "base"), BcosConfig(b=1.5)).save_pretrained(tmp_path / "bcos")
    model = load(tmp_path / "bcos", quantization_config=config, dtype=torch.float32)
    assert type(model.classifier) is BcosLinear
    assert model.classifier.b == 1.5
    converted = get_bcos_model(
        load(tmp_path / "base", quantization_config=config, dtype=torch.float32), BcosConfig(b=1.5)
    )
    assert distance(logits(model, "bert"), logits(converted, "bert")) < 1e-6
    assert residual(model, "bert") < 1e-5
    model.save_pretrained(tmp_path / "again")
    assert distance(logits(load(tmp_path / "again"), "bert"), logits(model, "bert")) < 1e-6


@both
def test_training_with_the_trainer(tmp_path, bits):
    model = quantised(checkpoint(tmp_path / "base"), bits, b=1.25)
    model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    model = get_peft_model(model, LoraConfig(r=4, task_type="CAUSAL_LM", target_modules="all-linear"))
    weights = {name: m.dequantized().clone() for name, m in layers(model).items() if hasattr(m, "dequantized")}
    run = trainer(
        model, tmp_path / "run", data=rows("CausalLM", family="llama"), loss=None, max_steps=30, learning_rate=1e-2
    )
    run.train()
    history = losses(run)
    assert sum(history[-5:]) < 0.9 * sum(history[:5])
    for name, module in layers(model).items():
        if name in weights:
            assert torch.equal(module.dequantized(), weights[name])
    assert residual(model) < 1e-4


def test_copies_and_refusals(tmp_path):
    model = quantised(checkpoint(tmp_path / "base"), "4 bits")
    assert distance(logits(copy.deepcopy(model)), logits(model)) < 1e-6
    model.save_pretrained(tmp_path / "bcos")
    from bcos_peft.models.quantized_loading import _quantize_layers

    class Other:
        quantization_config = type("Config", (), {"quant_method": "gptq"})

    with pytest.raises(ValueError, match="not by 'gptq'"):
        _quantize_layers(model, Other, set(), model.bcos_config, model.bcos_family)


def test_bitsandbytes_is_imported_for_quantised_models_only():
    code = """
import sys, peft
from helpers import tiny
from bcos_peft import BcosConfig, attribute, get_bcos_model, merge_gains, train_only
model = get_bcos_model(tiny.model("llama", "CausalLM"), BcosConfig())
attribute(peft.get_peft_model(model, peft.LoraConfig(target_modules="all-linear")), **tiny.inputs())
print("bcos_peft.nn.quantized_layers" in sys.modules)
"""
    run = start(["-c", code], cwd=TESTS)
    assert run.stdout.split()[-1:] == ["False"], run.stderr


@both
def test_the_summary_counts_numbers_and_not_bytes(tmp_path, bits):
    whole = get_bcos_model(AutoModelForCausalLM.from_pretrained(checkpoint(tmp_path)), BcosConfig(b=1.5))
    assert quantised(tmp_path, bits).bcos_summary().parameters == whole.bcos_summary().parameters


@both
def test_gains_are_trained_beside_an_adapter(tmp_path, bits):
    """And a saved quantised base finds them again, by every way of loading."""
    quantised(checkpoint(tmp_path / "base"), bits).save_pretrained(tmp_path / "bcos")
    model = adapted(AutoModelForCausalLM.from_pretrained(tmp_path / "bcos"), task_type="CAUSAL_LM")
    with pytest.raises(ValueError, match="'all' has quantised weights, which cannot be trained"):
        train_only(model, "all")
    train_only(model, "lora", "gain")
    for name, parameter in model.named_parameters():
        if "gain" in name:
            assert parameter.requires_grad
            parameter.data += torch.linspace(-0.5, 0.5, len(parameter))
    after = logits(model)
    assert residual(model) < 1e-5
    assert merge_gains(model) == 8, "quantised weights cannot take them"
    model.save_pretrained(tmp_path / "adapter")
    assert distance(logits(bcos_peft.load(tmp_path / "adapter")), after) < 1e-5
    assert distance(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "adapter").eval()), after) < 1e-5


@both
@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dequantising_keeps_the_layers(tmp_path, bits, family, dtype):
    """Also the transposed ones of GPT-2, whose square weights would be loaded the wrong way round without a word."""
    folder = checkpoint(tmp_path / "base", family)
    stock = AutoModelForCausalLM.from_pretrained(folder, quantization_config=quantisation(bits), dtype=dtype)
    model = get_bcos_model(stock, BcosConfig(b=1.5))
    gained = next(module for module in layers(model).values() if hasattr(module, "dequantized") and module.b)
    gained.scale_rows(torch.linspace(0.5, 2, gained.out_features))
    before, rounding = logits(model, family), 1e-5 if dtype == torch.float32 else 0.05
    assert model.dequantize() is model
    assert not any(hasattr(module, "dequantized") for module in model.modules())
    assert distance(logits(model, family), before) < rounding
    assert residual(model, family) < rounding
    assert not hasattr(model.config, "quantization_config")
    model.save_pretrained(tmp_path / "bcos")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "bcos").eval()
    assert torch.equal(logits(again, family), logits(model, family))


@both
def test_dequantising_is_refused_under_adapters_and_without_quantisation(tmp_path, bits):
    model = adapted(quantised(checkpoint(tmp_path), bits), task_type="CAUSAL_LM")
    before = logits(model)
    with pytest.raises(ValueError, match="adapters: .*merge_and_unload"):
        model.dequantize()
    assert torch.equal(logits(model), before)
    with pytest.warns(UserWarning, match="rounding errors"):
        merged = model.merge_and_unload()
    before = logits(merged)
    assert distance(logits(merged.dequantize()), before) < 1e-5
    with pytest.raises(ValueError, match="quantize"):
        merged.dequantize()


@both
def test_stock_ways_to_dequantise_are_seen(tmp_path, bits):
    from transformers.integrations.bitsandbytes import dequantize_and_replace

    model = quantised(checkpoint(tmp_path), bits)
    dequantize_and_replace(model, model.config.quantization_config)
    with pytest.raises(ValueError, match="plain Linear"):
        residual(model)
    with pytest.raises(ValueError, match="plain Linear"):
        model.save_pretrained(tmp_path / "saved")
