"""Adapters of all types of peft: on a B-cos model they are exact and load again, or are refused; never silent."""

import importlib
import json
import pickle

import peft
import pytest
import torch
from helpers import tiny
from helpers.adapters import distance, logits
from packaging import version
from peft import PeftModel, PeftType, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import bcos_peft
from bcos_peft import BcosConfig, attribute, get_bcos_model


PROMPTS = {"PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT", "CARTRIDGE", "MULTITASK_PROMPT_TUNING"}
REFUSED = {"ADAPTION_PROMPT", "BEFT", "C3A", "LILY", "POLY", "SHADOW", "XLORA"}
TARGETS = {"llama": ["q_proj", "v_proj"], "gpt2": ["c_attn"], "bert": ["query", "value"]}
TARGETS |= {"modernbert": ["Wqkv"], "phi3": ["qkv_proj"], "gpt_neox": ["query_key_value"]}
NORMS = {"llama": ["norm"], "gpt2": ["ln_f"], "bert": ["LayerNorm"]}
EMBEDDINGS = {"llama": "embed_tokens", "gpt2": "wte", "bert": "word_embeddings"}
FIELDS = {
    "ADALORA": {"total_step": 10},
    "ADAPTION_PROMPT": {"adapter_len": 4, "adapter_layers": 2},
    "BOFT": {"boft_block_size": 4},
    "C3A": {"block_size": 8},
    "CPT": {"cpt_token_ids": [1, 2], "cpt_mask": [1, 1], "cpt_tokens_type_mask": [1, 2]},
    "FOURIERFT": {"n_frequency": 8},
    "IA3": {"feedforward_modules": []},
    "MISS": {"r": 4},
    "MULTITASK_PROMPT_TUNING": {"num_tasks": 2},
    "OFT": {"oft_block_size": 4},
    "PSOFT": {"r": 4},
    "RANDLORA": {"r": 4},
    "ROAD": {"group_size": 8},
    "SHIRA": {"r": 2},
    "VBLORA": {"vector_length": 8, "num_vectors": 16},
    "WAVEFT": {"n_frequency": 8},
}
ALL = sorted(kind.value for kind in PeftType if kind in PEFT_TYPE_TO_CONFIG_MAPPING and kind.value != "BCOS")


def config_of(kind, family):
    fields = {"task_type": "CAUSAL_LM" if family in tiny.DECODERS else "SEQ_CLS"} | FIELDS.get(kind, {})
    if kind == "LN_TUNING":
        fields["target_modules"] = NORMS[family]
    elif kind == "TRAINABLE_TOKENS":
        fields |= {"target_modules": [EMBEDDINGS[family]], "token_indices": [11, 12, 13]}
    elif kind in PROMPTS - {"CPT"}:
        fields["num_virtual_tokens"] = 4
    elif kind not in PROMPTS | {"ADAPTION_PROMPT", "XLORA", "SHADOW"}:
        fields["target_modules"] = TARGETS[family]
    elif kind == "XLORA":
        fields |= {"hidden_size": 32, "adapters": {"0": "nowhere"}}
    return PEFT_TYPE_TO_CONFIG_MAPPING[kind](**fields)


def base(folder, family):
    task = "CausalLM" if family in tiny.DECODERS else "SequenceClassification"
    auto = AutoModelForCausalLM if family in tiny.DECODERS else AutoModelForSequenceClassification
    if not folder.exists():
        tiny.model(family, task).save_pretrained(folder)
    return auto.from_pretrained(folder)


def shake(model):
    """Adapters that have learnt something."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.is_floating_point():
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator).to(parameter)
    return model.eval()


def put_on(model, config):
    try:
        return get_peft_model(model, config), None
    except (ValueError, TypeError, NotImplementedError) as error:
        return None, str(error)


def outputs(model, family, kind):
    inputs = tiny.inputs(family=family)
    if kind == "MULTITASK_PROMPT_TUNING":
        inputs["task_ids"] = torch.ones(len(inputs["input_ids"]), dtype=torch.long)
    with torch.no_grad():
        return model(**inputs).logits


@pytest.mark.filterwarnings("ignore")  # what peft says of layers that it does not know
@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
@pytest.mark.parametrize("kind", ALL)
def test_exact_and_loads_or_refused(kind, family, tmp_path):
    model = get_bcos_model(base(tmp_path / "base", family), BcosConfig(b=1.5))
    if kind == "CPT" and family not in tiny.DECODERS:
        pytest.skip("for causal language models alone")
    if family == "gpt2" and kind in ("DELORA", "OSF") and version.parse(peft.__version__) < version.parse("0.21"):
        pytest.skip("an older peft fails on its layers, in a stock model too")
    before = {name: (id(parameter), parameter.requires_grad) for name, parameter in model.named_parameters()}
    adapted, refusal = put_on(model, config_of(kind, family))
    if adapted is None:
        # By us, with the reason; what peft refuses are GPT-2's layers, say.
        assert kind in REFUSED or any(part in refusal for part in ("upported", "not a plain", "not support"))
        assert {name: (id(p), p.requires_grad) for name, p in model.named_parameters()} == before
        assert not any(isinstance(module, BaseTunerLayer) for module in model.modules())
        return
    assert kind not in REFUSED
    shake(adapted)
    if kind in PROMPTS:
        with pytest.raises(ValueError, match="puts virtual tokens in front"):
            attribute(adapted, **tiny.inputs(family=family))
    else:
        result = attribute(adapted, **tiny.inputs(family=family))
        assert float((result.residual.abs() / result.scores.abs().sum(-1)).max()) < 1e-5
    expected = outputs(adapted, family, kind)
    adapted.save_pretrained(tmp_path / "adapter")
    stored = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert stored["peft_type"] == f"BCOS_{kind}"  # which a peft without this package does not know
    stock = base(tmp_path / "base", family)
    untouched = outputs(stock, family, None)
    with pytest.raises(ValueError, match=r"trained inside the layers of a B-cos model.*B = 1\.5"):
        PeftModel.from_pretrained(stock, tmp_path / "adapter")
    assert torch.equal(outputs(stock, family, None), untouched)
    auto = peft.AutoPeftModelForCausalLM if family in tiny.DECODERS else peft.AutoPeftModelForSequenceClassification
    for load in (bcos_peft.load, auto.from_pretrained):
        assert distance(outputs(load(tmp_path / "adapter"), family, kind), expected) < 1e-5
    again = PeftModel.from_pretrained(
        get_bcos_model(base(tmp_path / "base", family), BcosConfig(b=1.5)), tmp_path / "adapter"
    )
    assert distance(outputs(again, family, kind), expected) < 1e-5
    wrong = get_bcos_model(base(tmp_path / "base", family), BcosConfig(b=1.25))
    with pytest.raises(ValueError, match=r"b=1\.5 \(here 1\.25\)"):
        PeftModel.from_pretrained(wrong, tmp_path / "adapter")


@pytest.mark.parametrize("kind", ["IA3", "PREFIX_TUNING"])
def test_another_base_is_refused(kind, tmp_path):
    model = get_peft_model(
        get_bcos_model(base(tmp_path / "base", "llama"), BcosConfig(b=1.5)), config_of(kind, "llama")
    )
    shake(model).save_pretrained(tmp_path / "adapter")
    other = get_bcos_model(tiny.model("llama", "CausalLM", seed=1), BcosConfig(b=1.5))
    with pytest.raises(ValueError, match="does not give the logits of before saving"):
        PeftModel.from_pretrained(other, tmp_path / "adapter")


def test_a_second_adapter_of_virtual_tokens_is_protected_too(tmp_path):
    model = get_bcos_model(base(tmp_path / "base", "llama"), BcosConfig(b=1.5))
    model = get_peft_model(model, config_of("PREFIX_TUNING", "llama"))
    model.add_adapter("second", config_of("PREFIX_TUNING", "llama"))
    model.save_pretrained(tmp_path / "adapter")
    with pytest.raises(ValueError, match="trained inside the layers of a B-cos model"):
        PeftModel.from_pretrained(base(tmp_path / "base", "llama"), tmp_path / "adapter" / "second")


def test_through_transformers(tmp_path):
    model = get_bcos_model(base(tmp_path / "base", "llama"), BcosConfig(b=1.5))
    model.add_adapter(config_of("IA3", "llama"))
    expected = logits(shake(model))
    model.save_pretrained(tmp_path / "adapter")
    with pytest.raises(ValueError, match="trained inside the layers of a B-cos model"):
        base(tmp_path / "base", "llama").load_adapter(tmp_path / "adapter")
    again = get_bcos_model(base(tmp_path / "base", "llama"), BcosConfig(b=1.5))
    again.load_adapter(tmp_path / "adapter")
    assert distance(logits(again), expected) < 1e-6


def test_configs_of_ones_own(tmp_path):
    """A subclass of a config of peft is no way round."""

    class Mine(peft.LoraConfig):
        pass

    model = get_bcos_model(base(tmp_path / "base", "llama"), BcosConfig(b=1.5))
    model = get_peft_model(model, Mine(task_type="CAUSAL_LM", target_modules=["up_proj"]))
    model.save_pretrained(tmp_path / "adapter")
    with pytest.raises(ValueError, match="trained inside the layers of a B-cos model"):
        PeftModel.from_pretrained(base(tmp_path / "base", "llama"), tmp_path / "adapter")


def test_configs_can_be_pickled():
    model = get_bcos_model(tiny.model("llama", "CausalLM"), BcosConfig(b=1.5))
    config = get_peft_model(model, config_of("IA3", "llama")).peft_config["default"]
    copied = pickle.loads(pickle.dumps(config))
    assert copied == config
    assert type(copied).__name__ == "BcosIA3Config"


def test_an_adapter_that_an_earlier_version_saved_loads_as_before(tmp_path):
    """It has the plain type."""
    model = get_bcos_model(base(tmp_path / "base", "llama"), BcosConfig(b=1.5))
    model = shake(get_peft_model(model, config_of("IA3", "llama")))
    expected = logits(model)
    model.save_pretrained(tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    stored = json.loads(path.read_text()) | {"peft_type": "IA3"}
    del stored["bcos"]
    path.write_text(json.dumps(stored))
    again = get_bcos_model(base(tmp_path / "base", "llama"), BcosConfig(b=1.5))
    assert distance(logits(PeftModel.from_pretrained(again, tmp_path / "adapter")), expected) < 1e-6


# ---- When an adapter is put on --------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Unsupported layer type")
@pytest.mark.parametrize("family", ["gpt2", "modernbert", "phi3", "gpt_neox"])
@pytest.mark.parametrize("kind", ["DEFT", "ROAD", "OFT", "BOFT"])
def test_what_mixes_the_outputs_of_a_fused_projection(kind, family):
    """Query and key are held where they come out of the adapter, which may make them of all that comes out inside."""
    if kind not in ALL or (family == "gpt2" and kind != "DEFT"):
        pytest.skip("peft does not have it, or not for this layer")
    task = "CausalLM" if family in tiny.DECODERS else "SequenceClassification"
    model = get_bcos_model(tiny.model(family, task), BcosConfig(b=1.5))
    model = shake(get_peft_model(model, config_of(kind, family)))
    result = attribute(model, **tiny.inputs(family=family))
    assert float((result.residual.abs() / result.scores.abs().sum(-1)).max()) < 1e-5


class Wrong(torch.autograd.Function):
    """The identity, with a gradient that is not."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return 0.5 * gradient


def spoil(monkeypatch):
    """A method of peft whose gradient is wrong, or that is not linear, shows only once it has learnt something."""
    layer = importlib.import_module("peft.tuners.loha.layer").Linear
    original = layer._get_delta_activations
    monkeypatch.setattr(layer, "_get_delta_activations", lambda self, name, x: Wrong.apply(original(self, name, x)))


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("native", [False, True], ids=["peft", "transformers"])
def test_an_adapter_that_is_not_exact_is_taken_off_again(native, second, monkeypatch, tmp_path):
    model = get_bcos_model(tiny.model("llama", "CausalLM"), BcosConfig(b=1.5))
    config = config_of("LOHA", "llama")
    host = model
    if second:
        model.add_adapter(config, "first") if native else None
        host = model if native else get_peft_model(model, config, "first")
    layers = {name: (type(module), module.training) for name, module in model.named_modules()}
    state = {name: (id(parameter), parameter.requires_grad) for name, parameter in model.named_parameters()}
    before = logits(host)
    spoil(monkeypatch)
    put = get_peft_model
    if native or second:
        put = (lambda host, *args: host.add_adapter(*args)) if native else (lambda host, c, n: host.add_adapter(n, c))
    with pytest.raises(ValueError, match=r"LOHA is not linear in its input.*The model was not changed"):
        put(host, config, "new")
    assert {name: (type(module), module.training) for name, module in model.named_modules()} == layers
    assert {name: (id(p), p.requires_grad) for name, p in model.named_parameters()} == state
    assert torch.equal(logits(host), before)
    assert "new" not in getattr(host, "peft_config", {})


def test_putting_an_adapter_on_says_so_and_changes_no_number(caplog):
    model = get_bcos_model(tiny.model("llama", "CausalLM"), BcosConfig(b=1.5))
    before = logits(model.eval())
    with caplog.at_level("INFO", logger="bcos_peft"):
        model = get_peft_model(model, config_of("IA3", "llama"))
    assert "Contributions are exact with this IA3 adapter" in caplog.text
    assert torch.equal(logits(model), before)


def test_a_model_that_cannot_be_explained_is_adapted_all_the_same(caplog):
    """A part of it is compiled: training goes on, and explaining says what to do."""
    model = get_bcos_model(tiny.model("llama", "CausalLM"), BcosConfig(b=1.5))
    model.model.layers[0].mlp = torch.compile(model.model.layers[0].mlp)
    model = get_peft_model(model, config_of("IA3", "llama"))
    assert "could not be tried" in caplog.text
    assert any(isinstance(module, BaseTunerLayer) for module in model.modules())
