"""TRL's trainers after SFT, on converted models: preferences, rewards, online."""

import copy
import functools

import pytest
import torch
from helpers import tiny
from helpers.sft_data import PAIRS, converted, options, tokenizer, weights
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from bcos_peft import BcosConfig, attribute, get_bcos_model, train_only


pytestmark = pytest.mark.newest  # trl asks for newer packages than the oldest run has


def preferences(rows=16):
    """The right answer is preferred to the wrong one."""
    from datasets import Dataset

    other = {"good": "bad", "bad": "good"}
    turn = lambda role, content: [{"role": role, "content": content}]  # noqa: E731
    pairs = [PAIRS[row % len(PAIRS)] for row in range(rows)]
    return Dataset.from_list(
        [
            {
                "prompt": turn("user", text),
                "chosen": turn("assistant", answer),
                "rejected": turn("assistant", other[answer]),
            }
            for text, answer in pairs
        ]
    )


def ratings():
    """Each answer with a thumb up or down."""
    from datasets import Dataset

    return Dataset.from_list(
        [
            {"prompt": row["prompt"], "completion": row[part], "label": part == "chosen"}
            for row in preferences()
            for part in ("chosen", "rejected")
        ]
    )


def dpo(model, folder, reference=None, **changes):
    from trl import DPOConfig, DPOTrainer

    return DPOTrainer(
        model,
        ref_model=reference,
        args=DPOConfig(**options(folder, **{"beta": 0.5, **changes})),
        train_dataset=preferences(),
        processing_class=tokenizer(),
    )


def logged(trainer, name):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def assert_explained(model, **inputs):
    found = attribute(model, **inputs)
    assert (found.residual.abs() <= 1e-4 * found.logit.abs().clamp_min(1e-2)).all()


@pytest.fixture
def saved(tmp_path):
    """A function that converts a model, saves it, and gives the folder: where trainers look for the reference."""

    def save(family="llama"):
        converted(family).save_pretrained(tmp_path / "model")
        return str(tmp_path / "model")

    return save


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("given", [True, False], ids=["copy", "reloaded"])
def test_dpo(family, given, saved, tmp_path):
    model = converted(family) if given else AutoModelForCausalLM.from_pretrained(saved(family))
    before = weights(model)
    trainer = dpo(model, tmp_path, copy.deepcopy(model) if given else None)
    assert type(trainer.ref_model) is type(model)
    assert trainer.ref_model is not model
    assert trainer.ref_model.bcos_config.b == 1.25
    trainer.train()
    margins = logged(trainer, "rewards/margins")
    assert_close(margins[0], 0.0, atol=1e-3, rtol=0), "both start as the same model"
    assert margins[-1] > margins[0] + 0.1
    assert logged(trainer, "loss")[-1] < logged(trainer, "loss")[0]
    assert_close(weights(trainer.ref_model), before)
    trainer.save_model(tmp_path / "trained")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "trained")
    inputs = tiny.inputs(2, 9, family=family)
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits, model.eval()(**inputs).logits)
    assert_explained(model, **inputs)


def test_dpo_by_the_path_of_a_model(saved, tmp_path):
    trainer = dpo(saved(), tmp_path)
    assert type(trainer.model).__name__ == type(trainer.ref_model).__name__ == "BcosLlamaForCausalLM"
    trainer.train()
    assert logged(trainer, "loss")[-1] < logged(trainer, "loss")[0]


def test_dpo_with_precomputed_reference(tmp_path):
    model = converted()
    live = dpo(model, tmp_path, copy.deepcopy(model))
    live.train()
    stored = dpo(converted(), tmp_path, precompute_ref_log_probs=True)
    stored.train()
    assert_close(logged(stored, "loss"), logged(live, "loss"), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["DPO", "KTO"])
def test_a_reference_that_would_move_with_what_is_trained_beside_the_adapter(kind, tmp_path):
    import trl
    from peft import LoraConfig, get_peft_model

    def build(*parts, **settings):
        model = get_peft_model(converted(), LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
        train_only(model, *parts)
        return getattr(trl, f"{kind}Trainer")(
            model,
            args=getattr(trl, f"{kind}Config")(**options(tmp_path, beta=0.5, **settings)),
            train_dataset=preferences() if kind == "DPO" else ratings(),
            processing_class=tokenizer(),
        )

    with pytest.raises(ValueError, match=r"is the model itself.*norm.*is trained beside.*precompute_ref_log_probs"):
        build("lora", "norms")
    assert build("lora", "norms", precompute_ref_log_probs=True).ref_model is None
    assert build("lora").ref_model is None


@pytest.mark.parametrize("kind", ["DPO", "KTO", "GRPO", "RLOO"])
def test_the_stock_model_as_a_reference_by_mistake(kind, tmp_path):
    """These trainers load a reference by the model's name: for a model just converted, that of the stock model."""
    import trl

    tiny.model("llama", "CausalLM").save_pretrained(tmp_path / "stock")
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "stock")
    model = get_bcos_model(copy.deepcopy(stock), BcosConfig(b=1.25))
    settings = options(tmp_path)
    more = {}
    if kind in ("GRPO", "RLOO"):
        settings.pop("max_length")
        settings |= {"num_generations": 4, "beta": 0.1}
        more = {"reward_funcs": lambda completions, **kwargs: [1.0] * len(completions)}
    train = ratings() if kind == "KTO" else preferences()
    build = functools.partial(
        getattr(trl, f"{kind}Trainer"),
        args=getattr(trl, f"{kind}Config")(**settings),
        train_dataset=train,
        processing_class=tokenizer(),
        **more,
    )
    with pytest.raises(ValueError, match=r"reference model by loading.*stock.*a LlamaForCausalLM.*copy\.deepcopy"):
        build(model)
    assert "forward" not in vars(model), "nothing was changed"
    build(stock)
    if kind == "DPO":  # who names it has chosen it
        assert build(model, ref_model=AutoModelForCausalLM.from_pretrained(tmp_path / "stock")).ref_model is not None


# Calling an old name of transformers is TRL's own doing.
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_:FutureWarning")
def test_dpo_with_gradient_checkpointing_and_bf16(tmp_path):
    trainer = dpo(converted(), tmp_path, converted(), bf16=True, activation_checkpointing=True)
    trainer.train()
    assert logged(trainer, "loss")[-1] < logged(trainer, "loss")[0]
    assert_explained(trainer.model, **tiny.inputs(2, 9, family="llama"))


def test_dpo_refuses_a_bcos_head(tmp_path):
    with pytest.raises(ValueError, match="convert_head=False"):
        dpo(converted(convert_head=True), tmp_path, converted())


def test_kto(tmp_path):
    from trl import KTOConfig, KTOTrainer

    model = converted()
    trainer = KTOTrainer(
        model,
        ref_model=copy.deepcopy(model),
        args=KTOConfig(**options(tmp_path)),
        train_dataset=ratings(),
        processing_class=tokenizer(),
    )
    trainer.train()
    assert logged(trainer, "rewards/chosen")[-1] > logged(trainer, "rewards/rejected")[-1]
    assert_explained(model, **tiny.inputs(2, 9, family="llama"))


def test_reward_model(tmp_path):
    from trl import RewardConfig, RewardTrainer

    stock = tiny.model("llama", "SequenceClassification", num_labels=1)
    model = get_bcos_model(stock, BcosConfig(b=1.25)).train()
    trainer = RewardTrainer(
        model, args=RewardConfig(**options(tmp_path)), train_dataset=preferences(), processing_class=tokenizer()
    )
    trainer.train()
    assert logged(trainer, "loss")[-1] < logged(trainer, "loss")[0]
    trainer.save_model(tmp_path / "saved")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    inputs = tiny.inputs(2, 9, family="llama")
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits, model.eval()(**inputs).logits)
    assert_explained(again, **inputs)


def test_grpo(tmp_path):
    from trl import GRPOConfig, GRPOTrainer

    model = converted()
    before = weights(model)
    settings = options(tmp_path, max_steps=2, num_generations=4, max_completion_length=6, temperature=1.5)
    settings.pop("max_length")
    trainer = GRPOTrainer(
        model,
        reward_funcs=lambda completions, **kwargs: [float(len(set(str(text)))) for text in completions],
        args=GRPOConfig(**settings),
        train_dataset=preferences().select_columns(["prompt"]),
        processing_class=tokenizer(),
    )
    trainer.train()
    assert any(not torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    assert_explained(model, **tiny.inputs(2, 9, family="llama"))
