"""What is refused of B-cos adapters, by name and with a way out, before anything is changed."""

import peft
import pytest
import torch
from helpers.adapters import logits
from helpers.peft_method import made, state, stock
from peft import LoraConfig, PeftModel, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from peft.utils.hotswap import hotswap_adapter
from transformers import AutoModelForSequenceClassification

from bcos_peft import BcosConfig, get_bcos_model
from bcos_peft.lora.method import BcosPeftConfig


LORA = LoraConfig(target_modules=["query"])


def refused(do, model, error, match):
    before, numbers = state(model), logits(model, "bert")
    with pytest.raises(error, match=match):
        do(model)
    assert state(model) == before
    assert torch.equal(logits(model, "bert"), numbers)


@pytest.mark.parametrize(
    ("do", "error", "match"),
    [
        (
            lambda model: get_peft_model(model, BcosConfig(target_modules=["nope"])),
            ValueError,
            "'nope' matches no linear layer",
        ),
        (
            lambda model: get_peft_model(model, BcosConfig(remove_bias=False)),
            ValueError,
            "remove_bias=False cannot be exact",
        ),
        (
            lambda model: get_peft_model(model, BcosConfig(modules_to_save=["clasifier"])),
            ValueError,
            "modules_to_save: 'clasifier' is no module of the BertForSequenceClassification.*classifier",
        ),
        (lambda model: get_peft_model(model, BcosConfig(), mixed=True), ValueError, "'BCOS' is not compatible"),
        (
            lambda model: get_peft_model(model, BcosConfig(), adapter_name="classifier"),
            ValueError,
            "adapter_name='classifier' is the name of modules",
        ),
        (
            lambda model: get_peft_model(model, BcosConfig(), adapter_name="gain"),
            ValueError,
            "adapter_name='gain' is the name of modules",
        ),
        (
            lambda model: peft.inject_adapter_in_model(BcosConfig(), model),
            ValueError,
            "cannot be put into a BertForSequenceClassification without a PeftModel",
        ),
        (lambda model: model.add_adapter(BcosConfig()), ValueError, "without a PeftModel around it"),
    ],
)
def test_on_a_stock_model(do, error, match):
    refused(do, stock(), error, match)


@pytest.mark.parametrize("make", [made, lambda model: get_peft_model(model, LORA).eval()], ids=["bcos", "lora"])
@pytest.mark.parametrize("inside", [False, True])
def test_on_a_model_that_has_an_adapter(make, inside):
    model = make(stock())
    kind = "has LORA adapters" if model.peft_type == "LORA" else "has an adapter already.*add_adapter"
    target = model.get_base_model() if inside else model
    refused(lambda _: get_peft_model(target, BcosConfig(b=1.5)), model, ValueError, kind)


def test_added_to_lora():
    model = get_peft_model(stock(), LORA).eval()
    refused(lambda model: model.add_adapter("two", BcosConfig()), model, ValueError, "Convert first")


@pytest.mark.parametrize(
    "do",
    [
        lambda model: get_peft_model(model, LORA),
        lambda model: get_peft_model(model.get_base_model(), LORA),
        lambda model: get_peft_model(model.get_base_model(), LORA, mixed=True),
        lambda model: get_peft_model(model, PromptTuningConfig(num_virtual_tokens=2, task_type="SEQ_CLS")),
        lambda model: get_peft_model(
            model.get_base_model(), PrefixTuningConfig(num_virtual_tokens=2, task_type="SEQ_CLS")
        ),
        lambda model: model.add_adapter("two", LORA),
        lambda model: model.get_base_model().add_adapter(LORA),
        lambda model: peft.inject_adapter_in_model(LORA, model.get_base_model()),
    ],
)
def test_another_method_beside_it(do):
    refused(do, made(stock()), ValueError, "has a BCOS adapter, and no .* can be put beside it.*merge_and_unload")


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"b": 2.0}, r"b=2.0 \(the model has 1.5\)"),
        ({"normalize_weights": True}, "normalize_weights=True"),
        ({"gates": "hold"}, "gates='hold'"),
    ],
)
def test_a_second_one_of_another_conversion(config, match):
    config = BcosConfig(**{"b": 1.5} | config)
    refused(lambda model: model.add_adapter("two", config), made(stock()), ValueError, match)
    converted = get_bcos_model(stock(), BcosConfig(b=1.5))
    refused(lambda model: get_peft_model(model, config), converted, ValueError, f"{match}.*model.bcos_config")


@pytest.mark.parametrize(
    ("do", "match"),
    [
        (lambda model: model.merge_adapter(), "not merged in place.*merge_and_unload"),
        (lambda model: model.delete_adapter("default"), "the model's only BCOS adapter.*unload"),
        (lambda model: model.delete_adapter("two"), "does not exist"),
        (lambda model: get_bcos_model(model.get_base_model(), BcosConfig()), "is converted already"),
        (lambda model: model.get_base_model().save_pretrained("nowhere"), "Nothing was written. Save the PeftModel"),
    ],
)
def test_of_a_model_that_has_one(do, match):
    refused(do, made(stock()), ValueError, match)


@pytest.mark.parametrize("name", ["classifier", "gain", "LayerNorm"])
def test_a_second_one_with_the_name_of_a_module(name):
    match = f"adapter_name='{name}' is the name of modules"
    refused(lambda model: model.add_adapter(name, BcosConfig(b=1.5)), made(stock()), ValueError, match)


def test_what_fails_halfway_leaves_the_model_as_it_was(monkeypatch):
    """Wherever it is interrupted: after the conversion, or when half of the copies are made."""
    from bcos_peft.lora.method import stock as stock_module
    from bcos_peft.lora.method import tuner

    def interrupted(function, after):
        calls = []

        def call(*args, **kwargs):
            calls.append(args)
            if len(calls) > after:
                raise KeyboardInterrupt
            return function(*args, **kwargs)

        return call

    for module, name, after in (
        (stock_module, "_checksum", 3),
        (tuner._Copies, "__init__", 5),
        (tuner, "_add_gain", 2),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, interrupted(getattr(module, name), after))
            refused(lambda model: get_peft_model(model, BcosConfig()), stock(), KeyboardInterrupt, "")


def test_other_models():
    with pytest.raises(TypeError, match="transformers PreTrainedModel, or .*, got torch.nn.modules.linear.Linear"):
        get_peft_model(torch.nn.Linear(2, 2), BcosConfig())
    with pytest.raises(TypeError, match="before.*torch.compile"):
        get_peft_model(torch.compile(stock()), BcosConfig())


def test_unload_of_what_was_changed():
    change = {
        "the values of 'bert.pooler.dense.weight' are others": lambda model: (
            model.bert.pooler.dense.weight.data.neg_()
        ),
        "a BcosLinear was taken out of it": lambda model: setattr(model, "classifier", torch.nn.Linear(32, 2)),
        "cast from torch.float32 to torch.float16": lambda model: model.half(),
        "embeddings.weight' are others": lambda model: model.resize_token_embeddings(330),
        "'bert.pooler.dense.weight' was taken out": lambda model: delattr(model.bert.pooler.dense, "weight"),
    }
    for match, do in change.items():
        model = get_peft_model(stock(), BcosConfig())
        do(model.get_base_model())
        before = state(model)
        with pytest.raises(ValueError, match=f"stock model cannot be had back .*{match}.*merge_and_unload"):
            model.unload()
        assert state(model) == before


def test_on_disk(tmp_path):
    made(stock()).save_pretrained(tmp_path)
    refused(lambda model: model.load_adapter(tmp_path), stock(), ValueError, "without a PeftModel around it")
    lora = get_peft_model(stock(), LORA).eval()
    refused(lambda model: model.load_adapter(tmp_path, "two"), lora, ValueError, "has LORA adapters")
    other = made(stock(), b=2)
    two, match = stock(num_labels=2), "size mismatch for .*classifier"
    refused(lambda model: PeftModel.from_pretrained(model, tmp_path), two, RuntimeError, match)
    refused(lambda model: model.load_adapter(tmp_path, "default"), other, ValueError, "b=1.5.*the model has 2.0")
    refused(lambda model: hotswap_adapter(model, tmp_path, "default"), made(stock()), ValueError, "only supports LORA")
    lora.save_pretrained(tmp_path / "lora")
    refused(lambda model: model.load_adapter(tmp_path / "lora", "two"), other, ValueError, "beside it")


def test_weights_elsewhere():
    model = stock().to("meta")
    with pytest.raises(ValueError, match="are not here"):
        get_peft_model(model, BcosConfig())
    assert type(model).__name__ == "BertForSequenceClassification"


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("task_type", "SEQUENCE", ValueError),
        ("modules_to_save", "classifier", TypeError),
        ("modules_to_save", [1], TypeError),
        ("inference_mode", "no", TypeError),
    ],
)
def test_fields_for_peft(field, value, error):
    with pytest.raises(error, match=field):
        BcosConfig(**{field: value})


def test_a_config_without_a_conversion():
    for bcos in (None, {}, {"config": {"b": 0.5}}, {"config": {"c": 1}}):
        with pytest.raises(ValueError, match="bcos must say|b must be|no field"):
            BcosPeftConfig(bcos=bcos)


def test_a_folder_of_an_adapter_is_no_model(tmp_path):
    """transformers finds adapters in folders, and loads the base that they name."""
    stock().save_pretrained(tmp_path / "base")
    base = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base")
    made(base).save_pretrained(tmp_path / "adapter")
    with pytest.raises(ValueError, match="without a PeftModel around it.*PeftModel.from_pretrained"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path / "adapter")
