"""Training, saving and loading LoRA inside the B-cos layer."""

import copy

import pytest
import torch
import transformers
from helpers import tiny
from helpers.adapters import adapted, converted, distance, layer_types, logits, randomize, residual
from helpers.trainers import losses, rows, trainer
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from bcos_peft import BcosConfig, BcosScheduleCallback, attribute, explanation_mode, get_bcos_model, load
from bcos_peft.lora import BcosLora
from bcos_peft.nn import BcosLayer


@pytest.mark.parametrize("unit_rows", [False, True], ids=["as is", "unit rows"])
def test_gradients_of_the_model_are_those_of_the_merged_weights(unit_rows):
    """d/dA and d/dB by the chain rule from d/dW of the merged model, a check that knows no closed form."""
    model = adapted(converted(dtype=torch.float64, normalize_weights=unit_rows), target_modules=["up_proj", "o_proj"])
    batch = tiny.inputs() | {"labels": tiny.inputs()["input_ids"]}
    model(**batch).loss.backward()
    merged = copy.deepcopy(model).merge_and_unload()
    for parameter in merged.parameters():
        parameter.requires_grad_(True)
        parameter.grad = None
    merged(**batch).loss.backward()
    count = 0
    for name, module in model.named_modules():
        if isinstance(module, BcosLora):
            grad = merged.get_submodule(name.removeprefix("base_model.model.")).weight.grad
            a, b, scale = module.lora_A["default"].weight, module.lora_B["default"].weight, module.scaling["default"]
            torch.testing.assert_close(a.grad, scale * b.t() @ grad)
            torch.testing.assert_close(b.grad, scale * grad @ a.t())
            assert module.get_base_layer().weight.grad is None
            count += 1
    assert count == 4


def test_gradient_checkpointing():
    for reentrant in (False, True):
        model = adapted(converted(dtype=torch.float64)).train()
        batch = tiny.inputs() | {"labels": tiny.inputs()["input_ids"]}
        model(**batch).loss.backward()
        expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
        model.zero_grad()
        bcos = model.base_model.model
        enable = getattr(bcos, "activation_checkpointing_enable", None) or bcos.gradient_checkpointing_enable
        enable({"use_reentrant": reentrant})
        model.enable_input_require_grads()
        model(**batch).loss.backward()
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                torch.testing.assert_close(parameter.grad, expected[name])


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_trainer_on_a_classifier(family, tmp_path):
    """The adapters learn, the base does not move, and what the Trainer saves loads."""
    model = get_bcos_model(tiny.model(family, "SequenceClassification"), BcosConfig(b=1.25))
    model.save_pretrained(tmp_path / "base")
    weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    config = LoraConfig(r=8, lora_alpha=32, task_type="SEQ_CLS", target_modules="all-linear", lora_dropout=0.1)
    model = get_peft_model(model, config)
    run = trainer(model, tmp_path / "run", data=rows(family=family), max_steps=60, learning_rate=1e-2)
    run.train()
    history = losses(run)
    assert sum(history[-5:]) < 0.5 * sum(history[:5])
    for name, parameter in model.get_base_model().named_parameters():
        stock = name.replace(".base_layer", "").replace(".original_module", "")
        if stock in weights and "score" not in name and "classifier" not in name:
            assert torch.equal(parameter, weights[stock]), name
    assert residual(model, family) < 1e-5
    run.save_model(str(tmp_path / "adapter"))
    base = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base")
    loaded = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    assert distance(logits(loaded, family), logits(model.eval(), family)) < 1e-5


def test_b_can_be_raised_while_adapters_train(tmp_path):
    model = get_bcos_model(tiny.model("bert", "SequenceClassification"), BcosConfig(b=1.0))
    model = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", target_modules="all-linear"))
    trainer(model, tmp_path, callbacks=[BcosScheduleCallback(2.0)]).train()
    bcos = model.get_base_model()
    assert {m.b for m in bcos.modules() if isinstance(m, BcosLayer) and m.b is not None} == {2.0}
    assert residual(model, "bert") < 1e-5


def test_explanations_leave_adapters_as_they_were():
    model = adapted(converted()).train()
    state = {name: (p.requires_grad, p.grad) for name, p in model.named_parameters()}
    with explanation_mode(model):
        assert not model.training
    attribute(model, **tiny.inputs())
    assert {name: (p.requires_grad, p.grad) for name, p in model.named_parameters()} == state
    assert not any(m.explaining for m in model.modules() if isinstance(m, BcosLayer))


def test_save_and_load_an_adapter(tmp_path):
    model = converted()
    model.save_pretrained(tmp_path / "base")
    model = adapted(model)
    after = logits(model)
    model.save_pretrained(tmp_path / "adapter")
    assert "_custom_modules" not in (tmp_path / "adapter" / "adapter_config.json").read_text()

    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    loaded = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    assert BcosLora in layer_types(loaded).values()
    assert distance(logits(loaded), after) < 1e-6  # loaded weights lie elsewhere in memory
    loaded.load_adapter(tmp_path / "adapter", "again")
    loaded.set_adapter("again")
    assert distance(logits(loaded), after) < 1e-6  # loaded weights lie elsewhere in memory

    native = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    native.load_adapter(tmp_path / "adapter")
    assert BcosLora in layer_types(native).values()
    assert distance(logits(native.eval()), after) < 1e-6

    merged = loaded.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert type(again).__name__ == "BcosLlamaForCausalLM"
    assert distance(logits(again), after) < 1e-6


@pytest.mark.parametrize(
    ("task", "task_type", "head"),
    [
        ("SequenceClassification", "SEQ_CLS", "classifier"),
        ("TokenClassification", "TOKEN_CLS", "classifier"),
        ("QuestionAnswering", "QUESTION_ANS", "qa_outputs"),
    ],
)
def test_a_task_type_saves_its_head_with_the_adapter(task, task_type, head, tmp_path):
    cls = getattr(transformers, f"AutoModelFor{task}")
    tiny.model("bert", task).save_pretrained(tmp_path / "stock")
    model = get_bcos_model(cls.from_pretrained(tmp_path / "stock"), BcosConfig(b=1.5))
    model.save_pretrained(tmp_path / "base")
    config = LoraConfig(task_type=task_type, target_modules=["query", "intermediate.dense"], modules_to_save=[])
    with pytest.raises(ValueError, match="lora_bias=True"):
        get_peft_model(model, LoraConfig(task_type=task_type, target_modules=["intermediate.dense"], lora_bias=True))
    assert not any(isinstance(module, BaseTunerLayer) for module in model.modules())
    assert not hasattr(model, "peft_config")

    adapted = randomize(get_peft_model(model, config)).eval()
    assert type(config) is LoraConfig
    assert config.modules_to_save == [], "the config can serve again"
    weight = adapted.get_submodule(f"base_model.model.{head}.modules_to_save.default").weight
    assert weight.requires_grad
    weight.data *= 1.5
    adapted.save_pretrained(tmp_path / "adapter")
    expected = adapted(**tiny.inputs()).to_tuple()
    base = cls.from_pretrained(tmp_path / "base")
    for loaded in (PeftModel.from_pretrained(base, tmp_path / "adapter"), load(tmp_path / "adapter")):
        assert type(loaded) is type(adapted)
        found = loaded.eval()(**tiny.inputs()).to_tuple()
        assert all(distance(one, other) < 1e-6 for one, other in zip(found, expected, strict=True))


def test_the_adapters_of_transformers():
    model = converted(dtype=torch.float64)
    before = logits(model)
    model.add_adapter(LoraConfig(r=4, target_modules=["up_proj", "q_proj"]), "first")
    randomize(model)
    assert {cls.__name__ for cls in layer_types(model).values()} == {"BcosLora", "Linear"}
    assert residual(model) < 1e-12
    assert distance(logits(model), before) > 0.01
    model.disable_adapters()
    assert torch.equal(logits(model), before)


def test_changing_b_follows_the_names_below_the_adapters():
    model = adapted(converted(b_pattern={"mlp.up_proj": 2.0}))
    bcos = model.base_model.model
    bcos.set_b(1.25)
    found = {name: module.b for name, module in bcos.named_modules() if isinstance(module, BcosLayer) and module.b}
    assert {b for name, b in found.items() if "up_proj" in name} == {2.0}
    assert {b for name, b in found.items() if "up_proj" not in name} == {1.25}
    assert bcos.bcos_summary().bcos_layers == {1.25: 6, 2.0: 2}
    assert bcos.bcos_summary().plain_layers == 7
