"""Fine-tuning converted models with TRL's SFTTrainer."""

import copy
import functools

import pytest
import torch
from helpers import tiny
from helpers.sft_data import converted, dataset, losses, options, tokenizer, weights
from torch.testing import assert_close
from transformers import AutoModelForCausalLM

from bcos_peft import BcosConfig, BcosExplainer, BcosScheduleCallback, attribute, bcos_bce_loss, get_bcos_model


pytestmark = pytest.mark.newest  # trl asks for newer packages than the oldest run has

FAMILIES = ["llama", "gpt2"]


def sft(model, folder, train=None, tok=None, callbacks=None, evaluate=None, loss=None, **changes):
    from trl import SFTConfig, SFTTrainer

    return SFTTrainer(
        model,
        args=SFTConfig(**options(folder, **changes)),
        train_dataset=dataset() if train is None else train,
        eval_dataset=evaluate,
        processing_class=tok or tokenizer(),
        callbacks=callbacks,
        compute_loss_func=loss,
    )


def first_batch(trainer):
    return next(iter(trainer.get_train_dataloader()))


def trained_with(first, second, family, folder, steps=2):
    """Two trainings of the same model, each from the same seed."""
    trainers = []
    for changes in (first, second):
        trainers.append(sft(converted(family), folder, max_steps=steps, **changes))
        trainers[-1].train()
    return trainers


def own_loss(model, batch):
    """Mean cross entropy of the labelled tokens, from the logits of the model's own forward."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "position_ids") if name in batch}
    with torch.no_grad():
        logits = model(**inputs).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten())


@pytest.mark.parametrize("family", FAMILIES)
def test_training_on_answers(family, tmp_path):
    """From start to end: the loss falls, what is saved loads as what was trained, and is explained exactly."""
    model, tok = converted(family), tokenizer()
    trainer = sft(model, tmp_path, tok=tok, max_steps=10)
    trainer.train()
    first, *_, last = losses(trainer)
    assert last < 0.7 * first
    trainer.save_model(tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert type(again) is type(model)
    assert again.bcos_config.b == 1.25
    inputs = tiny.inputs(3, 9, "right", family)
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits, model.eval()(**inputs).logits)
    for trained in (model, again):
        found = attribute(trained, **inputs)
        assert (found.residual.abs() <= 1e-4 * found.logit.abs().clamp_min(1e-2)).all()
    explanation = BcosExplainer(model, tok)("A gripping film")
    assert abs(explanation.residual) < 1e-4 * max(1, abs(explanation.logit))


def test_a_copy_of_a_trained_model_is_explained_as_itself(tmp_path):
    """The forward that TRL leaves on a model calls that model, from a copy of it too."""
    model = converted()
    sft(model, tmp_path, bf16=True, max_steps=1).train()
    twin = copy.deepcopy(model)
    twin.save_pretrained(tmp_path / "twin")
    inputs = tiny.inputs(2, 9, family="llama")
    expected = attribute(AutoModelForCausalLM.from_pretrained(tmp_path / "twin"), **inputs)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    found = attribute(twin, **inputs)
    assert torch.equal(found.scores, expected.scores)
    assert torch.equal(found.logit, expected.logit)
    assert {"forward", "_original_forward"} <= vars(twin).keys(), "put back"


@pytest.mark.parametrize("family", tiny.DECODERS)
def test_the_loss_is_that_of_the_models_own_logits(family, tmp_path):
    """TRL multiplies by the head's weight itself, for every family in one way: soft caps and scales have to be in."""
    model = converted(family)
    trainer = sft(model, tmp_path, evaluate=dataset(4), router_aux_loss_coef=0.0)
    batch = next(iter(trainer.get_eval_dataloader()))
    assert_close(trainer.evaluate()["eval_loss"], own_loss(model.eval(), batch).item(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["conversational", "standard"])
def test_completion_only_loss(kind, tmp_path):
    tok = tokenizer()
    trainer = sft(converted(), tmp_path, dataset(4, kind), tok)
    for row, batch in zip(trainer.train_dataset, dataset(4, kind), strict=True):
        answer = batch["completion"] if kind == "standard" else batch["completion"][0]["content"]
        learned = [label for label in row["labels"] if label != -100]
        assert tok.decode(learned).replace("</s>", "").strip() == answer.strip()
    everything = sft(converted(), tmp_path, dataset(4, kind), completion_only_loss=False)
    assert all(row["labels"] == row["input_ids"] for row in everything.train_dataset)


def test_assistant_only_loss(tmp_path):
    tok = tokenizer()
    trainer = sft(converted(), tmp_path, dataset(4, "messages"), tok, assistant_only_loss=True)
    for row, example in zip(trainer.train_dataset, dataset(4, "messages"), strict=True):
        learned = [label for label in row["labels"] if label != -100]
        assert tok.decode(learned) == example["messages"][1]["content"] + "</s>"
    trainer.train()
    assert losses(trainer)[-1] < losses(trainer)[0]


@pytest.mark.parametrize("family", [*FAMILIES, "qwen2"])
def test_packed_texts_do_not_see_each_other(family, tmp_path):
    model, train = converted(family), dataset(8, "text")
    packed = sft(model, tmp_path, train, packing=True, evaluate=train)
    batch = first_batch(packed)
    assert len(batch["input_ids"]) == 1, "one row without padding"
    assert (batch["position_ids"] == 0).sum() > 1, "several texts in it"
    apart = sft(converted(family), tmp_path, train, evaluate=train)
    assert_close(packed.evaluate()["eval_loss"], apart.evaluate()["eval_loss"], rtol=1e-4, atol=1e-5)
    packed.train()
    assert losses(packed)[-1] < losses(packed)[0]


@pytest.mark.parametrize("use_reentrant", [True, False], ids=["reentrant", "not reentrant"])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_checkpointing(family, use_reentrant, tmp_path):
    chosen = {"activation_checkpointing_kwargs": {"use_reentrant": use_reentrant}}
    plain, checkpointed = trained_with({}, {"activation_checkpointing": True} | chosen, family, tmp_path)
    assert checkpointed.model.is_gradient_checkpointing
    assert_close(losses(checkpointed), losses(plain))
    assert_close(weights(checkpointed.model), weights(plain.model), rtol=1e-4, atol=1e-5)
    assert attribute(checkpointed.model, **tiny.inputs(2, 8, family=family)).residual.abs().max() < 1e-4


# Passing on an old name of transformers is TRL's own doing.
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable`:FutureWarning")
def test_selective_checkpointing(tmp_path):
    chosen = {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"selective": True}}
    plain, checkpointed = trained_with({}, chosen, "llama", tmp_path)
    assert_close(weights(checkpointed.model), weights(plain.model), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_bf16(family, tmp_path):
    """Mixed precision, TRL's default: weights stay in float32, and explanations are computed in that."""
    model = converted(family)
    before = weights(model)
    trainer = sft(model, tmp_path, bf16=True, activation_checkpointing=True)
    trainer.train()
    assert losses(trainer)[-1] < losses(trainer)[0]
    assert all(not torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    found = attribute(model, **tiny.inputs(3, 9, family=family))
    assert (found.residual.abs() <= 1e-4 * found.logit.abs().clamp_min(1e-2)).all()


def test_a_model_in_bfloat16(tmp_path):
    model = get_bcos_model(tiny.model("llama", "CausalLM", dtype=torch.bfloat16), BcosConfig(b=1.25))
    trainer = sft(model, tmp_path, bf16=True, learning_rate=1e-2)
    trainer.train()
    assert losses(trainer)[-1] < losses(trainer)[0]
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_gradient_accumulation_is_one_large_batch(tmp_path):
    """Answers differ in length, so the mean must be over tokens, not over batches."""
    train = dataset(16).map(
        lambda row: {"completion": [{"role": "assistant", "content": row["completion"][0]["content"]}]}
    )
    split = sft(converted(), tmp_path, train, max_steps=2, gradient_accumulation_steps=4)
    whole = sft(converted(), tmp_path, train, max_steps=2, per_device_train_batch_size=16)
    for trainer in (split, whole):
        trainer.train()
    assert_close(losses(split), losses(whole), rtol=1e-4, atol=1e-5)
    assert_close(weights(split.model), weights(whole.model), rtol=1e-3, atol=1e-5)


def test_a_resumed_training_ends_where_an_uninterrupted_one_does(tmp_path):
    schedule = functools.partial(BcosScheduleCallback, target=1.5, share=0.9)
    saving = {"save_strategy": "steps", "save_steps": 2, "max_steps": 6}
    whole = sft(converted(), tmp_path / "whole", callbacks=[schedule()], **saving)
    whole.train()
    halfway = tmp_path / "whole" / "checkpoint-2"
    between = AutoModelForCausalLM.from_pretrained(halfway)
    assert 1 < between.bcos_config.b < 1.5
    resumed = sft(converted(b=1.5), tmp_path / "resumed", callbacks=[schedule()], **saving)
    resumed.train(resume_from_checkpoint=str(halfway))
    assert resumed.model.bcos_config.b == whole.model.bcos_config.b == 1.5
    assert losses(resumed)[-4:] == losses(whole)[-4:]
    for name, parameter in resumed.model.named_parameters():
        assert torch.equal(parameter, whole.model.get_parameter(name)), name
    last = AutoModelForCausalLM.from_pretrained(tmp_path / "resumed" / "checkpoint-6")
    inputs = tiny.inputs(2, 9, family="llama")
    with torch.no_grad():
        assert torch.equal(last(**inputs).logits, whole.model.eval()(**inputs).logits)


def test_evaluation_and_the_best_checkpoint(tmp_path):
    trainer = sft(
        converted(),
        tmp_path,
        evaluate={"seen": dataset(8), "other": dataset(4).select([1, 2])},
        eval_strategy="steps",
        save_strategy="steps",
        eval_steps=2,
        save_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_seen_loss",
    )
    trainer.train()
    seen = [entry["eval_seen_loss"] for entry in trainer.state.log_history if "eval_seen_loss" in entry]
    assert len(seen) == 3
    assert trainer.state.best_metric == min(seen)
    assert_close(trainer.evaluate(trainer.eval_dataset["seen"])["eval_loss"], min(seen))
    assert all(
        "eval_mean_token_accuracy" in entry for entry in trainer.state.log_history if "eval_other_loss" in entry
    )


def test_a_saved_model_by_its_path(tmp_path):
    from trl import SFTConfig, SFTTrainer

    model = converted()
    model.save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    trainer = SFTTrainer(str(tmp_path / "model"), args=SFTConfig(**options(tmp_path / "out")), train_dataset=dataset())
    assert type(trainer.model) is type(model)
    by_object = sft(converted(), tmp_path)
    for each in (trainer, by_object):
        each.train()
    assert_close(losses(trainer), losses(by_object))


def test_b_follows_its_schedule(tmp_path):
    model = converted(b=2.0)
    seen = []

    class Watch(BcosScheduleCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            super().on_step_end(args, state, control, model=model, **kwargs)
            seen.append(model.bcos_config.b)

    sft(model, tmp_path, callbacks=[Watch(share=0.5)], max_steps=4).train()
    assert seen == [1.5, 2.0, 2.0, 2.0]
    assert model.model.layers[0].mlp.up_proj.b == 2.0


def test_binary_cross_entropy_over_the_vocabulary(tmp_path):
    model, loss = converted(), functools.partial(bcos_bce_loss, class_reduction="sum")
    with pytest.warns(FutureWarning, match="compute_loss_func"):
        trainer = sft(model, tmp_path, loss=loss)
    batch = first_batch(trainer)
    labels = batch.pop("labels")
    with torch.no_grad():
        logits = model(**batch).logits[:, :-1][labels[:, 1:] != -100]
    wanted = torch.nn.functional.one_hot(labels[:, 1:][labels[:, 1:] != -100], logits.shape[-1]).float()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted, reduction="sum") / len(wanted)
    assert_close(loss(model(**batch), labels), expected)
    trainer.train()
    assert losses(trainer)[-1] < losses(trainer)[0]


def test_a_bcos_head_is_refused(tmp_path):
    model = converted("gpt2", convert_head=True)
    with pytest.raises(ValueError, match="head of this BcosGPT2LMHeadModel is a B-cos layer.*convert_head=False"):
        sft(model, tmp_path)
    assert "forward" not in vars(model)


def test_converting_what_a_trainer_has_patched_is_refused(tmp_path):
    """The other order works: train, save, load, convert."""
    stock = tiny.model("llama", "CausalLM")
    trainer = sft(stock, tmp_path)
    with pytest.raises(
        ValueError, match=r"Cannot convert this LlamaForCausalLM.*before a trainer is built.*load it again"
    ):
        get_bcos_model(stock, BcosConfig())
    trainer.save_model(tmp_path / "tuned")
    model = get_bcos_model(AutoModelForCausalLM.from_pretrained(tmp_path / "tuned"), BcosConfig(b=1.25))
    assert_close(model.model.embed_tokens.weight, stock.model.embed_tokens.weight)
    sft(model, tmp_path, max_steps=1).train()
