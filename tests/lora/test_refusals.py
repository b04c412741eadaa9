"""What of peft would attach outside the B-cos layers: refused with the reason, the model left as it was."""

import copy

import peft
import pytest
import torch
from helpers import tiny
from peft import LoraConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer

from bcos_peft import BcosConfig, attribute, get_bcos_model


def converted(family="llama", task="CausalLM", dtype=torch.float64):
    return get_bcos_model(tiny.model(family, task, dtype=dtype), BcosConfig(b=1.5))


def assert_refused(config, match, model=None):
    """By every way in, and nothing has changed."""
    model = converted() if model is None else model
    state = {name: (id(parameter), parameter.requires_grad) for name, parameter in model.named_parameters()}
    before = model(**tiny.inputs()).logits
    with pytest.raises(ValueError, match=match):
        get_peft_model(model, config)
    also = rf"{match}|uses shared state"  # what peft itself says about VeRA
    with pytest.raises(ValueError, match=also):
        peft.inject_adapter_in_model(config, model)
    with pytest.raises(ValueError, match=also):
        model.add_adapter(config)
    assert {name: (id(p), p.requires_grad) for name, p in model.named_parameters()} == state
    assert not any(isinstance(module, BaseTunerLayer) for module in model.modules())
    assert not hasattr(model, "peft_config")
    assert torch.equal(model(**tiny.inputs()).logits, before)


OUTSIDE = {
    "DoRA": LoraConfig(use_dora=True, target_modules=["q_proj", "up_proj"]),
    "activated LoRA": LoraConfig(alora_invocation_tokens=[5], task_type="CAUSAL_LM", target_modules=["up_proj"]),
    "AdaLoRA": peft.AdaLoraConfig(target_modules=["up_proj"], total_step=10),
    "IA3": peft.IA3Config(target_modules=["v_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "LoHa": peft.LoHaConfig(target_modules=["up_proj"]),
    "LoKr": peft.LoKrConfig(target_modules=["up_proj"]),
    "OFT": peft.OFTConfig(target_modules=["up_proj"], oft_block_size=4),
    "BOFT": peft.BOFTConfig(target_modules=["up_proj"], boft_block_size=4),
    "VeRA": peft.VeraConfig(target_modules=["up_proj"], r=4),
    "RandLoRA": peft.RandLoraConfig(target_modules=["up_proj"], r=4),
    "HRA": peft.HRAConfig(target_modules=["up_proj"]),
    "FourierFT": peft.FourierFTConfig(target_modules=["up_proj"], n_frequency=8),
    "MiSS": peft.MissConfig(target_modules=["up_proj"], r=4),
    "SHiRA": peft.ShiraConfig(target_modules=["up_proj"]),
    "C3A": peft.C3AConfig(target_modules=["up_proj"], block_size=4),
    "all linear layers": peft.LoHaConfig(target_modules="all-linear"),
}


@pytest.mark.parametrize("config", OUTSIDE.values(), ids=OUTSIDE)
def test_what_would_attach_outside(config):
    assert_refused(config, r"outside the B-cos layer 'model\.layers\.0\..*The model was not changed")


def test_a_bias():
    assert_refused(LoraConfig(lora_bias=True, target_modules=["v_proj"]), "lora_bias=True adds constants")


@pytest.mark.newest  # an older peft does not have them
@pytest.mark.parametrize(
    ("name", "reason"), [("Beft", "adds constants"), ("Lily", "weights that depend on the input")]
)
def test_methods_that_are_not_linear_in_the_input(name, reason):
    """Also on layers that stay plain."""
    assert_refused(getattr(peft, f"{name}Config")(target_modules=["v_proj"]), reason)


def test_a_whole_block_of_experts():
    model = get_bcos_model(tiny.model("mixtral", "CausalLM", dtype=torch.float64), BcosConfig(b=1.5))
    config = LoraConfig(target_modules=["experts"])
    assert_refused(config, r"target_parameters=\['experts\.gate_up_proj', 'experts\.down_proj'\]", model)


def test_mixtures_of_adapters(tmp_path):
    model = converted()
    adapter = get_peft_model(converted(), LoraConfig(target_modules=["up_proj"]))
    adapter.save_pretrained(tmp_path)
    model.config.use_cache = False
    config = peft.XLoraConfig(hidden_size=32, adapters={"0": str(tmp_path)}, task_type="CAUSAL_LM")
    with pytest.raises(ValueError, match="XLORA mixes its adapters"):
        get_peft_model(model, config)
    assert not any(isinstance(module, BaseTunerLayer) for module in model.modules())


def test_a_second_adapter():
    """The first stays, and works."""
    model = get_peft_model(converted(), LoraConfig(target_modules=["up_proj"])).eval()
    before = model(**tiny.inputs()).logits
    with pytest.raises(ValueError, match="use_dora"):
        model.add_adapter("second", LoraConfig(use_dora=True, target_modules=["down_proj", "up_proj"]))
    assert list(model.peft_config) == ["default"]
    assert torch.equal(model(**tiny.inputs()).logits, before)
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    assert len(layers) == 2
    assert all(set(layer.lora_A) == {"default"} for layer in layers)


PLAIN = {
    "DoRA": LoraConfig(use_dora=True, target_modules=["q_proj", "v_proj"]),
    "IA3": peft.IA3Config(target_modules=["v_proj"], feedforward_modules=[]),
    "LoHa": peft.LoHaConfig(target_modules=["v_proj"]),
    "OFT": peft.OFTConfig(target_modules=["v_proj"], oft_block_size=4),
    "AdaLoRA": peft.AdaLoraConfig(target_modules=["v_proj"], total_step=10),
    "norms": peft.LNTuningConfig(target_modules=["norm", "input_layernorm"]),
    "tokens": peft.TrainableTokensConfig(target_modules=["embed_tokens"], token_indices=[11, 12]),
}


@pytest.mark.parametrize("config", PLAIN.values(), ids=PLAIN)
def test_layers_that_stay_plain_take_any_method(config):
    model = get_peft_model(converted(), config).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator).to(parameter)
    result = attribute(model, **tiny.inputs())
    assert float((result.residual.abs() / result.scores.abs().sum(-1)).max()) < 1e-12


def test_virtual_tokens_are_not_explained():
    prompt = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    model = get_peft_model(converted(), prompt)
    with pytest.raises(ValueError, match="PROMPT_TUNING puts virtual tokens in front"):
        attribute(model, **tiny.inputs())
    result = attribute(model.get_base_model(), **tiny.inputs())
    assert float((result.residual.abs() / result.scores.abs().sum(-1)).max()) < 1e-12


@pytest.mark.parametrize("name", ["DoRA", "LoHa", "VeRA"])
def test_stock_models_take_what_they_took(name):
    model = get_peft_model(tiny.model("llama", "CausalLM"), copy.deepcopy(OUTSIDE[name]))
    assert any(isinstance(module, BaseTunerLayer) for module in model.modules())
