"""Other weights in an adapter that is there, and adapters on compiled models: the logits of before, or an error."""

import importlib

import peft
import pytest
import torch
from helpers import tiny
from helpers.adapters import adapted, distance, logits, randomize, residual
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.hotswap import hotswap_adapter
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import bcos_peft
from bcos_peft import BcosConfig, BcosScheduleCallback, get_bcos_model, train_only


TARGETS = ["up_proj", "v_proj"]


def stock(tmp_path):
    if not (tmp_path / "base").exists():
        tiny.model("llama", "CausalLM").save_pretrained(tmp_path / "base")
    return AutoModelForCausalLM.from_pretrained(tmp_path / "base")


def converted(tmp_path, b=1.5):
    return get_bcos_model(stock(tmp_path), BcosConfig(b=b))


def saved(tmp_path, name, b=1.5, seed=0, model=None, **options):
    """An adapter in a folder, and the logits with it."""
    model = converted(tmp_path, b) if model is None else model
    model = adapted(model, seed=seed, **({"task_type": "CAUSAL_LM", "target_modules": TARGETS} | options))
    model.save_pretrained(tmp_path / name)
    return tmp_path / name, logits(model)


def hotswap(model, folder):
    hotswap_adapter(model, str(folder), "default")


def load_again(model, folder):
    model.load_adapter(str(folder), "default")


def load_into_transformers(model, folder):
    model.load_adapter(str(folder), adapter_name="default", hotswap=True)


def host(tmp_path, folder, native):
    model = converted(tmp_path)
    if native:
        model.load_adapter(str(folder))
        return model.eval()
    return PeftModel.from_pretrained(model, folder)


WAYS = [(hotswap, False), (load_again, False), (load_into_transformers, True)]
ways = pytest.mark.parametrize(("swap", "native"), WAYS, ids=[way.__name__ for way, _ in WAYS])


@ways
def test_the_logits_of_before_saving(swap, native, tmp_path):
    one, first = saved(tmp_path, "one")
    two, second = saved(tmp_path, "two", seed=1)
    model = host(tmp_path, one, native)
    swap(model, two)
    assert distance(logits(model), second) < 1e-6
    assert distance(first, second) > 0.01
    swap(model, one)
    assert distance(logits(model), first) < 1e-6
    model.save_pretrained(tmp_path / "again")
    assert distance(logits(bcos_peft.load(tmp_path / "again")), first) < 1e-6


@ways
def test_another_b_is_refused(swap, native, tmp_path):
    one, first = saved(tmp_path, "one")
    two, _ = saved(tmp_path, "two", b=2.0, seed=1)
    model = host(tmp_path, one, native)
    with pytest.raises(ValueError, match=r"b=2\.0 \(here 1\.5\).*model\.set_b\(2\)"):
        swap(model, two)
    assert torch.equal(logits(model), first) or distance(logits(model), first) < 1e-7
    bcos = model if native else model.get_base_model()
    bcos.set_b(2.0)
    swap(model, two)


@ways
def test_an_adapter_of_another_base_is_refused(swap, native, tmp_path):
    one, first = saved(tmp_path, "one")
    other = get_bcos_model(tiny.model("llama", "CausalLM", seed=1), BcosConfig(b=1.5))
    two, _ = saved(tmp_path, "two", seed=1, model=other)
    model = host(tmp_path, one, native)
    with pytest.raises(ValueError, match="does not give the logits of before saving"):
        swap(model, two)
    assert distance(logits(model), first) < 1e-7
    model.save_pretrained(tmp_path / "again")
    assert distance(logits(bcos_peft.load(tmp_path / "again")), first) < 1e-6


def test_another_scale_swaps_with_it_or_is_refused(tmp_path):
    """peft swaps the scale in; transformers does not."""
    one, first = saved(tmp_path, "one")
    two, second = saved(tmp_path, "two", seed=1, lora_alpha=64)
    model = host(tmp_path, one, native=False)
    hotswap(model, two)
    assert distance(logits(model), second) < 1e-6
    for swap, native in WAYS[1:]:
        model = host(tmp_path, one, native)
        with pytest.raises(ValueError, match="does not give the logits of before saving"):
            swap(model, two)
        assert distance(logits(model), first) < 1e-7


def test_an_adapter_with_gains_is_not_swapped_in_without_them(tmp_path):
    one, first = saved(tmp_path, "one")
    model = adapted(converted(tmp_path), task_type="CAUSAL_LM", target_modules=TARGETS)
    train_only(model, "lora", "gain")
    for name, parameter in model.named_parameters():
        if ".gain." in name:
            parameter.data += 0.5
    model.save_pretrained(tmp_path / "two")
    expected = logits(model)
    model = host(tmp_path, one, native=False)
    with pytest.raises(ValueError, match="does not give the logits of before saving"):
        hotswap(model, tmp_path / "two")
    assert distance(logits(model), first) < 1e-7
    load_again(model, tmp_path / "two")  # which has the folder, and the gains in it
    assert distance(logits(model), expected) < 1e-6


def test_a_stock_model_does_not_take_one_by_swapping(tmp_path):
    folder, _ = saved(tmp_path, "bcos")
    plain = get_peft_model(stock(tmp_path), LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=TARGETS)).eval()
    before = logits(plain)
    with pytest.raises(ValueError, match="trained inside the layers of a B-cos model"):
        hotswap(plain, folder)
    with pytest.raises(ValueError, match="trained inside the layers of a B-cos model"):
        load_again(plain, folder)
    assert torch.equal(logits(plain), before)
    plain = stock(tmp_path)
    plain.add_adapter(LoraConfig(r=4, target_modules=TARGETS))
    with pytest.raises(ValueError, match="trained inside the layers of a B-cos model"):
        load_into_transformers(plain, folder)
    assert torch.equal(logits(plain), before)


def test_stock_models_swap_as_before(tmp_path):
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=TARGETS)
    model = randomize(get_peft_model(stock(tmp_path), config), 1).eval()
    expected = logits(model)
    model.save_pretrained(tmp_path / "plain")
    model = randomize(get_peft_model(stock(tmp_path), config), 2).eval()
    hotswap(model, tmp_path / "plain")
    assert distance(logits(model), expected) < 1e-6


def test_a_training_goes_back_to_its_own_b(tmp_path, caplog):
    """A schedule sets B anew when the training begins; without one, B is what it was, and this is said."""
    folder, expected = saved(tmp_path, "early", b=1.25)
    model = get_peft_model(converted(tmp_path), LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=TARGETS))
    model.load_adapter(str(folder), "default", is_trainable=True)
    assert model.get_base_model().bcos_config.b == 1.25
    assert "is now 1.25 again" in caplog.text
    assert distance(logits(model.eval()), expected) < 1e-6
    caplog.clear()
    model = get_peft_model(converted(tmp_path), LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=TARGETS))
    BcosScheduleCallback(target=1.5).on_init_end(None, None, None, model=model)
    model.load_adapter(str(folder), "default")
    assert distance(logits(model.eval()), expected) < 1e-6
    assert "again" not in caplog.text


def test_mixed_adapters_are_checked_too(tmp_path):
    folder, expected = saved(tmp_path, "one")
    model = peft.PeftMixedModel.from_pretrained(converted(tmp_path), str(folder))
    assert distance(logits(model), expected) < 1e-6
    wrong = get_bcos_model(tiny.model("llama", "CausalLM", seed=1), BcosConfig(b=1.5))
    with pytest.raises(ValueError, match="does not give the logits of before saving"):
        peft.PeftMixedModel.from_pretrained(wrong, str(folder))


# ---- Compiled models ------------------------------------------------------------------------------------------------


def compiled(model):
    return torch.compile(model, backend="eager")


@pytest.mark.parametrize("kind", ["LORA", "IA3"])
def test_an_adapter_on_a_compiled_model_travels_as_any(kind, tmp_path):
    model = compiled(converted(tmp_path))
    config = LoraConfig(r=4, target_modules=TARGETS, task_type="CAUSAL_LM")
    if kind == "IA3":
        config = peft.IA3Config(target_modules=["v_proj"], feedforward_modules=[], task_type="CAUSAL_LM")
    model = get_peft_model(model, config).eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1
    expected = logits(model)
    assert residual(model) < 1e-5
    model.save_pretrained(tmp_path / "adapter")
    assert not any("_orig_mod" in name for name in load_file(tmp_path / "adapter" / "adapter_model.safetensors"))
    for plain in (stock(tmp_path), compiled(stock(tmp_path))):
        with pytest.raises(ValueError, match="trained inside the layers of a B-cos model"):
            PeftModel.from_pretrained(plain, tmp_path / "adapter")
    assert distance(logits(bcos_peft.load(tmp_path / "adapter")), expected) < 1e-5
    for base in (converted(tmp_path), compiled(converted(tmp_path))):
        assert distance(logits(PeftModel.from_pretrained(base, tmp_path / "adapter")), expected) < 1e-5


def test_what_would_attach_outside_is_refused_on_a_compiled_model(tmp_path):
    with pytest.raises(ValueError, match="LOHA would attach outside the B-cos layer"):
        get_peft_model(compiled(converted(tmp_path)), peft.LoHaConfig(target_modules=["up_proj"]))


class Wrapper(torch.nn.Module):
    """As of a value head, or of another package."""

    def __init__(self, model):
        super().__init__()
        self.inner, self.config = model, model.config

    def forward(self, *args, **kwargs):
        return self.inner(*args, **kwargs)


def test_an_adapter_on_a_wrapper_is_protected_and_says_what_it_needs(tmp_path):
    config = LoraConfig(r=4, target_modules=TARGETS)
    model = randomize(get_peft_model(Wrapper(converted(tmp_path)), config)).eval()
    expected = logits(model)
    model.save_pretrained(tmp_path / "adapter")
    with pytest.raises(ValueError, match="trained inside the layers of a B-cos model"):
        PeftModel.from_pretrained(Wrapper(stock(tmp_path)), tmp_path / "adapter")
    with pytest.raises(ValueError, match=r"It was put on a Wrapper.*PeftModel\.from_pretrained"):
        bcos_peft.load(tmp_path / "adapter")
    again = PeftModel.from_pretrained(Wrapper(converted(tmp_path)), tmp_path / "adapter")
    assert distance(logits(again), expected) < 1e-6


# ---- Targets by the type of the model -------------------------------------------------------------------------------


def trained_names(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


CONVERSION = "peft.utils.transformers_weight_conversion"


@pytest.mark.newest
@pytest.mark.parametrize(
    ("family", "targets"),
    [
        ("mixtral", "all-linear"),
        ("mixtral", ["w1", "w2", "w3"]),
        ("mixtral", ["gate"]),
        ("mixtral", ["q_proj", "down_proj"]),
        ("qwen3_moe", "all-linear"),
        ("qwen3_moe", ["gate_proj", "up_proj", "down_proj"]),
        ("qwen3_moe", r".*(gate|up|down)_proj"),
    ],
)
def test_experts_are_adapted_as_on_the_stock_model(family, targets, tmp_path):
    importlib.import_module(CONVERSION)
    config = LoraConfig(r=2, target_modules=targets, task_type="CAUSAL_LM")
    names = trained_names(get_peft_model(tiny.model(family, "CausalLM"), config))
    config = LoraConfig(r=2, target_modules=targets, task_type="CAUSAL_LM")
    model = get_peft_model(get_bcos_model(tiny.model(family, "CausalLM"), BcosConfig(b=1.5)), config)
    assert trained_names(model) == names
    randomize(model).eval()
    assert residual(model, family) < 1e-5
    model.save_pretrained(tmp_path / "adapter")
    again = get_bcos_model(tiny.model(family, "CausalLM"), BcosConfig(b=1.5))
    again = PeftModel.from_pretrained(again, tmp_path / "adapter")
    assert distance(logits(again, family), logits(model, family)) < 1e-6


@pytest.mark.newest
def test_single_experts_of_a_pair_are_refused_as_on_the_stock_model():
    for model in (tiny.model("mixtral", "CausalLM"), get_bcos_model(tiny.model("mixtral", "CausalLM"), BcosConfig())):
        with pytest.raises(ValueError, match="without also targeting w3"):
            get_peft_model(model, LoraConfig(target_modules=["w1"]))


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert", "qwen2", "gpt_neox"])
@pytest.mark.parametrize("kind", ["RandLora", "Vera", "Lora", "FourierFT", "LNTuning"])
def test_default_targets_are_those_of_the_stock_model(kind, family):
    task = "CausalLM" if family in tiny.DECODERS else "SequenceClassification"
    config = getattr(peft, f"{kind}Config")
    options = {"r": 4} if kind == "RandLora" else {"n_frequency": 8} if kind == "FourierFT" else {}
    models = tiny.model(family, task), get_bcos_model(tiny.model(family, task), BcosConfig(b=1.5))
    found = []
    for model in models:
        try:
            names = trained_names(get_peft_model(model, config(**options)))
            found.append({name for name in names if not name.endswith("bias")})
        except ValueError as error:
            found.append(str(error))
    if isinstance(found[1], str) and "outside the B-cos layer" in found[1]:
        assert isinstance(found[0], set)  # GPT-2's default of FourierFT is a B-cos layer: refused with the reason
    else:
        assert found[0] == found[1]


def test_defaults_that_would_attach_outside_are_refused():
    """Those of IA3 have the last layer of an MLP among them."""
    with pytest.raises(ValueError, match="IA3 would attach outside the B-cos layer"):
        get_peft_model(get_bcos_model(tiny.model("llama", "CausalLM"), BcosConfig(b=1.5)), peft.IA3Config())
