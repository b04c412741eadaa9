"""The stock Trainer on converted models: the loss, the schedule of B, resuming, checkpointing, mixed precision."""

import functools
import json
import logging
import math
from types import SimpleNamespace

import pytest
import tiny
import torch
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorForLanguageModeling,
    DataCollatorForTokenClassification,
    EarlyStoppingCallback,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)
from transformers.modeling_outputs import CausalLMOutputWithPast, SequenceClassifierOutput, TokenClassifierOutput

from bcos_peft import BcosConfig, BcosScheduleCallback, bcos_bce_loss, get_bcos_model


bce = torch.nn.functional.binary_cross_entropy_with_logits


# transformers has renamed gradient checkpointing; the oldest supported release knows the old name only.
CHECKPOINTING = "activation_checkpointing"
if not hasattr(PreTrainedModel, f"{CHECKPOINTING}_enable"):
    CHECKPOINTING = "gradient_checkpointing"


def converted(family="bert", task="SequenceClassification", config=None, **changes):
    return get_bcos_model(tiny.model(family, task, **changes), config or BcosConfig(b=1.25), verify=False)


def rows(task="SequenceClassification", count=32, length=8, family="bert", seed=0):
    """A task that a tiny model learns in a few steps: the answer is in the ids themselves."""
    ids = tiny.inputs(count, length, padding=None, family=family, seed=seed)["input_ids"]
    mask = torch.ones_like(ids)
    if task == "SequenceClassification":
        ids[:, 1] = 10 + torch.arange(count) % 3
        labels = {"labels": torch.arange(count) % 3}
    elif task == "QuestionAnswering":
        where = torch.arange(count) % (length - 2)
        ids[torch.arange(count), where] = 11
        labels = {"start_positions": where, "end_positions": where + 1}
    elif task == "TokenClassification":
        ids = 10 + ids % 8
        labels = {"labels": torch.where(ids % 4 == 3, -100, ids % 4)}
    else:
        labels = {"labels": torch.where(ids % 2 == 0, ids, -100)}
    columns = {"input_ids": ids, "attention_mask": mask, **labels}
    return [{name: column[i] for name, column in columns.items()} for i in range(count)]


def trainer(model, path, data=None, loss=bcos_bce_loss, callbacks=(), eval_data=None, collator=None, **arguments):
    options = {
        "per_device_train_batch_size": 8,
        "learning_rate": 3e-3,
        "max_steps": 8,
        "lr_scheduler_type": "constant",
    }
    options |= {"report_to": "none", "use_cpu": True, "disable_tqdm": True, "logging_steps": 1, "save_strategy": "no"}
    return Trainer(
        model=model,
        args=TrainingArguments(output_dir=str(path), **options | arguments),
        train_dataset=rows() if data is None else data,
        eval_dataset=eval_data,
        compute_loss_func=loss,
        callbacks=list(callbacks),
        data_collator=collator,
    )


def losses(run):
    return [entry["loss"] for entry in run.state.log_history if "loss" in entry]


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def exponents(model):
    return {name: module.b for name, module in model.named_modules() if hasattr(module, "normalize_weights")}


def no_dropout(family="bert"):
    own = {"modernbert": {}, "distilbert": {"dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.0}}
    return own.get(family, {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0})


# The loss.


def test_one_class_per_row_is_torchs_bce_on_one_hot_labels():
    logits = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 2, 1, 1, 0])
    expected = bce(logits, torch.nn.functional.one_hot(labels, 3).double())
    torch.testing.assert_close(bcos_bce_loss(SequenceClassifierOutput(logits=logits), labels), expected)
    torch.testing.assert_close(bcos_bce_loss((logits,), labels.unsqueeze(1)), expected)
    total = bcos_bce_loss({"logits": logits}, labels, class_reduction="sum")
    torch.testing.assert_close(total, 3 * expected)
    (gradient,) = torch.autograd.grad(expected, logits)
    (ours,) = torch.autograd.grad(bcos_bce_loss(logits, labels), logits)
    torch.testing.assert_close(ours, gradient)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.long, torch.bool])
def test_several_classes_per_row_are_used_as_they_are(dtype):
    logits = torch.randn(4, 3)
    labels = torch.tensor([[0, 1, 1], [0, 0, 0], [1, 1, 1], [1, 0, 0]])
    torch.testing.assert_close(bcos_bce_loss(logits, labels.to(dtype)), bce(logits, labels.float()))
    torch.testing.assert_close(
        bcos_bce_loss(logits, labels.to(dtype), class_reduction="sum"), 3 * bce(logits, labels.float())
    )


def test_soft_labels_and_ignored_entries_of_several_classes():
    logits = torch.randn(2, 3, requires_grad=True)
    labels = torch.tensor([[0.25, 1.0, -100.0], [-100.0, -100.0, 0.0]])
    counted = labels != -100
    loss = bcos_bce_loss(logits, labels)
    torch.testing.assert_close(loss, bce(logits[counted], labels[counted]))
    loss.backward()
    assert torch.equal(logits.grad != 0, counted)


def test_ignored_tokens_train_nothing():
    logits = torch.randn(2, 4, 5, requires_grad=True)
    labels = torch.tensor([[-100, 0, 3, -100], [4, -100, -100, -100]])
    kept = torch.stack([logits[0, 1], logits[0, 2], logits[1, 0]])
    expected = bce(kept, torch.nn.functional.one_hot(torch.tensor([0, 3, 4]), 5).float())
    loss = bcos_bce_loss(TokenClassifierOutput(logits=logits), labels)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert torch.equal(logits.grad.abs().sum(-1) != 0, labels != -100)


@pytest.mark.parametrize("items", [None, 0, 7, torch.tensor(0), torch.tensor(7)])
@pytest.mark.parametrize("labels", [torch.full((2, 4), -100), torch.full((2, 4, 5), -100.0)])
def test_a_batch_of_ignored_labels_gives_zero(labels, items):
    logits = torch.randn(2, 4, 5, requires_grad=True)
    loss = bcos_bce_loss(logits, labels, items)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("class_reduction", ["mean", "sum"])
def test_parts_add_up_to_the_whole_batch(several, class_reduction):
    """With -100 spread unevenly, and counted as the Trainer counts."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(8, 4, 3, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 2, (8, 4, 3) if several else (8, 4), generator=generator)
    labels[:2], labels[2:4, 1:], labels[5, 0] = -100, -100, -100
    labels = labels.double() if several else labels
    items = labels.ne(-100).sum()
    loss = functools.partial(bcos_bce_loss, class_reduction=class_reduction)
    parts = [loss(logits[i : i + 2], labels[i : i + 2], items) for i in range(0, 8, 2)]
    torch.testing.assert_close(sum(parts), loss(logits, labels))
    torch.testing.assert_close(sum(parts), loss(logits, labels, int(items)))


def test_the_count_that_data_parallel_repeats():
    """Over two devices the Trainer gives the count twice, and multiplies the mean of the loss by two."""
    logits, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    repeated = torch.tensor(4).unsqueeze(0).expand(2, -1)
    torch.testing.assert_close(2 * bcos_bce_loss(logits, labels, repeated).mean(), bcos_bce_loss(logits, labels))


def test_confident_mistakes_keep_their_gradient():
    logits = torch.tensor([[-200.0, 200.0]], requires_grad=True)
    loss = bcos_bce_loss(logits, torch.tensor([0]))
    loss.backward()
    assert loss.item() == 200
    torch.testing.assert_close(logits.grad, torch.tensor([[-0.5, 0.5]]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_give_a_float32_loss(dtype):
    logits = torch.randn(64, 3).to(dtype)
    labels = torch.arange(64) % 3
    loss = bcos_bce_loss(logits, labels)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, bce(logits.float(), torch.nn.functional.one_hot(labels, 3).float()))


def test_label_smoothing():
    logits, labels = torch.randn(2, 4), torch.tensor([3, 1])
    targets = torch.tensor([[0.025, 0.025, 0.025, 0.925], [0.025, 0.925, 0.025, 0.025]])
    torch.testing.assert_close(bcos_bce_loss(logits, labels, label_smoothing=0.1), bce(logits, targets))


def test_causal_language_models_are_shifted():
    logits, labels = torch.randn(2, 5, 7), torch.randint(0, 7, (2, 5))
    labels[0, 3] = -100
    expected = bcos_bce_loss(logits[:, :-1], labels[:, 1:])
    torch.testing.assert_close(bcos_bce_loss(CausalLMOutputWithPast(logits=logits), labels), expected)


TWO, ONE = torch.zeros(2, 3), torch.zeros(2, 1)


@pytest.mark.parametrize(
    ("outputs", "labels", "options", "match"),
    [
        (TWO, torch.tensor([0, 3]), {}, r"from 0 to 2: the model has 3 classes; got 3\. .*-100"),
        (TWO, torch.tensor([0, -1]), {}, "got -1"),
        (TWO, torch.tensor([0.0, 1.0]), {}, r"integers of shape \(2,\) .*numbers of shape \(2, 3\).*float32"),
        (TWO, torch.tensor([0, 1, 2]), {}, r"int64 of shape \(3,\)"),
        (TWO, torch.full((2, 3), 1.5), {}, "numbers from 0 to 1; got 1.5"),
        (TWO, torch.full((2, 3), math.nan), {}, "got nan"),
        (TWO, None, {}, "start_positions and end_positions.*leave compute_loss_func out"),
        (ONE, torch.tensor([0.3, 2.0]), {}, "num_labels=1.*leave compute_loss_func out.*num_labels=2"),
        (ONE, torch.tensor([[1.0], [0.0]]), {}, "num_labels=1"),
        ((torch.tensor(0.5), TWO), torch.tensor([0, 1]), {}, r"got \(\)\. .*without labels"),
        ({"start_logits": TWO}, torch.tensor([0, 1]), {}, "must have logits.*NoneType"),
        (TWO, torch.tensor([0, 1]), {"label_smoothing": 1.0}, "label_smoothing must be.*got 1.0"),
        (TWO, torch.tensor([0, 1]), {"class_reduction": "max"}, "class_reduction must be.*'max'"),
        (TWO, torch.zeros(2, 3), {"label_smoothing": 0.1}, "smooth the labels themselves"),
    ],
)
def test_what_does_not_fit_is_refused(outputs, labels, options, match):
    with pytest.raises(ValueError, match=match):
        bcos_bce_loss(outputs, labels, **options)


def test_labels_must_be_a_tensor():
    with pytest.raises(TypeError, match="labels must be a tensor, got list"):
        bcos_bce_loss(TWO, [0, 1])


# Training.


@pytest.mark.parametrize("task", tiny.TASKS)
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_loss_falls(family, task, tmp_path):
    model = converted(family, task)
    loss = None if task == "QuestionAnswering" else bcos_bce_loss
    run = trainer(model, tmp_path, rows(task, family=family), loss, max_steps=30, learning_rate=5e-3)
    run.train()
    seen = losses(run)
    assert len(seen) == 30
    assert sum(seen[-4:]) < 0.85 * sum(seen[:4]), seen


def test_evaluation_reports_the_mean_over_the_data(tmp_path):
    model, data = converted(), rows(count=12)
    run = trainer(model, tmp_path, eval_data=data, per_device_eval_batch_size=4)
    with torch.no_grad():
        logits = model(torch.stack([row["input_ids"] for row in data])).logits
    expected = bcos_bce_loss(logits, torch.tensor([row["labels"] for row in data]))
    assert run.evaluate()["eval_loss"] == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("task", ["SequenceClassification", "TokenClassification"])
def test_accumulated_batches_train_and_log_as_one(task, tmp_path):
    data = rows(task, count=8)
    if task == "TokenClassification":  # labels in some of the small batches only
        for row in data[:5]:
            row["labels"][1:] = -100
    runs = []
    for size, accumulate in ((8, 1), (2, 4)):
        model = converted(task=task, **no_dropout())
        options = {"optim": "sgd", "learning_rate": 1.0, "max_grad_norm": 0.0, "max_steps": 3}
        run = trainer(
            model, tmp_path, data, per_device_train_batch_size=size, gradient_accumulation_steps=accumulate, **options
        )
        run.train()
        runs.append(run)
    assert losses(runs[1]) == pytest.approx(losses(runs[0]), rel=1e-5)
    ours, expected = weights(runs[1].model), weights(runs[0].model)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    assert not torch.equal(expected["classifier.weight"], converted(task=task, **no_dropout()).classifier.weight)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_models_own_loss_accumulates_as_one(family, tmp_path):
    data, gradients = rows(count=8, family=family), []
    for size, accumulate in ((8, 1), (2, 4)):
        options = {"optim": "sgd", "learning_rate": 1.0, "max_grad_norm": 0.0, "max_steps": 1}
        options |= {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulate}
        run = trainer(converted(family, **no_dropout(family)), tmp_path, data, loss=None, **options)
        run.train()
        gradients.append((losses(run), weights(run.model)))
    assert gradients[0][0] == pytest.approx(gradients[1][0], rel=1e-5)
    torch.testing.assert_close(gradients[1][1], gradients[0][1], rtol=1e-4, atol=1e-5)


def test_masked_language_modelling_with_the_stock_collator(tmp_path):
    tokenizer = tiny.tokenizer("wordpiece")
    data = [tokenizer(text) for text in ["A gripping film.", "Two hours that I shall not get back: dull."] * 8]
    loss = functools.partial(bcos_bce_loss, class_reduction="sum")
    collator = DataCollatorForLanguageModeling(tokenizer)
    run = trainer(converted(task="MaskedLM"), tmp_path, data, loss, collator=collator, max_steps=20)
    run.train()
    seen = losses(run)
    assert sum(seen[-4:]) < 0.75 * sum(seen[:4]), seen


def test_token_classification_with_the_stock_collator(tmp_path):
    tokenizer = tiny.tokenizer("wordpiece")
    data = [tokenizer(text) for text in ["A gripping film.", "Two hours that I shall not get back: dull."] * 8]
    for row in data:
        row["labels"] = [-100] + [index % 3 for index in row["input_ids"][1:-1]] + [-100]
    collator = DataCollatorForTokenClassification(tokenizer)
    run = trainer(converted(task="TokenClassification"), tmp_path, data, collator=collator, max_steps=20)
    run.train()
    seen = losses(run)
    assert sum(seen[-4:]) < 0.75 * sum(seen[:4]), seen


def test_question_answering_is_told_to_use_the_models_loss(tmp_path):
    run = trainer(converted(task="QuestionAnswering"), tmp_path, rows("QuestionAnswering"))
    with pytest.raises(ValueError, match="start_positions.*leave compute_loss_func out"):
        run.train()


def test_the_trainers_label_smoothing_is_refused_before_a_step(tmp_path):
    model = converted()
    before = weights(model)
    with pytest.raises(ValueError, match=r"label_smoothing_factor=0\.1.*functools\.partial.*label_smoothing=0\.1"):
        trainer(model, tmp_path, label_smoothing_factor=0.1).train()
    assert all(torch.equal(before[name], weight) for name, weight in weights(model).items())


def test_label_smoothing_of_the_loss_and_of_the_stock_loss_train(tmp_path):
    smoothed = functools.partial(bcos_bce_loss, label_smoothing=0.1)
    for loss, factor in ((smoothed, 0.0), (smoothed, 0.1), (None, 0.1)):
        run = trainer(converted(), tmp_path, loss=loss, label_smoothing_factor=factor, max_steps=20)
        run.train()
        assert losses(run)[-1] < losses(run)[0]


@pytest.mark.parametrize(
    ("family", "use_reentrant"),
    # The stock DeBERTa-v2 cannot train with reentrant checkpoints: its layers share the relative embeddings.
    [(family, mode) for family in tiny.FAMILIES for mode in (True, False) if (family, mode) != ("deberta-v2", True)],
)
def test_gradient_checkpointing_gives_the_same_gradients(family, use_reentrant):
    batch = tiny.inputs(3, 8, family=family)
    gradients = []
    for checkpointing in (False, True):
        model = converted(family, config=BcosConfig(b=1.5)).train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        if checkpointing:
            getattr(model, f"{CHECKPOINTING}_enable")({"use_reentrant": use_reentrant})
        bcos_bce_loss(model(**batch), torch.tensor([0, 2, 1])).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    assert any(name.startswith("classifier") for name in gradients[0])
    torch.testing.assert_close(gradients[1], gradients[0])


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_the_trainer_checkpoints_gradients(use_reentrant, tmp_path):
    options = {CHECKPOINTING: True, f"{CHECKPOINTING}_kwargs": {"use_reentrant": use_reentrant}}
    plain = trainer(converted(), tmp_path)
    plain.train()
    checkpointed = trainer(converted(), tmp_path, **options)
    checkpointed.train()
    assert losses(checkpointed) == pytest.approx(losses(plain), rel=1e-5)


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_bf16_autocast(family, tmp_path):
    model = converted(family)
    seen = set()
    head = model.get_submodule("classifier")
    head.register_forward_hook(lambda module, args, output: seen.add(output.dtype))
    run = trainer(model, tmp_path, rows(family=family), bf16=True, max_steps=25)
    run.train()
    assert seen == {torch.bfloat16}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert sum(losses(run)[-4:]) < 0.75 * sum(losses(run)[:4])


def test_the_best_model_is_loaded(tmp_path):
    model = converted()
    run = trainer(
        model,
        tmp_path,
        eval_data=rows(count=8),
        eval_strategy="steps",
        save_strategy="steps",
        eval_steps=2,
        save_steps=2,
        max_steps=6,
        load_best_model_at_end=True,
        metric_for_best_model="step",
        greater_is_better=False,
    )
    run.compute_metrics = lambda prediction: {"step": abs(run.state.global_step - 4)}
    run.train()
    assert run.state.best_model_checkpoint.endswith("checkpoint-4")
    best = AutoModelForSequenceClassification.from_pretrained(tmp_path / "checkpoint-4")
    last = AutoModelForSequenceClassification.from_pretrained(tmp_path / "checkpoint-6")
    assert type(best) is type(model)
    assert all(torch.equal(weights(model)[name], weight) for name, weight in weights(best).items())
    assert not torch.equal(weights(model)["classifier.weight"], weights(last)["classifier.weight"])


# The schedule of B.


def test_set_b_changes_layers_and_config():
    model = converted(config=BcosConfig(b=1.5, b_pattern={"classifier": 1.1}))
    model.set_b(2)
    assert model.bcos_config.b == 2
    values = exponents(model)
    assert values.pop("classifier") == 1.1
    assert set(values.values()) == {2.0}
    with pytest.raises(ValueError, match="b must be .*0.5"):
        model.set_b(0.5)
    assert model.bcos_config.b == 2
    assert set(exponents(model).values()) == {1.1, 2.0}


class Record:
    """Notes the B of every training and evaluation step."""

    def __init__(self, model):
        self.training, self.evaluation = [], []
        model.get_submodule("classifier").register_forward_hook(self.note)
        self.model = model

    def note(self, module, args, output):
        (self.training if module.training else self.evaluation).append(module.b)
        assert len(set(exponents(self.model).values())) == 1
        assert module.b == self.model.config.bcos["b"]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_b_rises_to_its_target_and_stays(accumulate, tmp_path):
    model = converted(config=BcosConfig(b=2.0))
    record = Record(model)
    options = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 2}
    options |= {"per_device_eval_batch_size": 8, "gradient_accumulation_steps": accumulate, "max_steps": 8}
    run = trainer(model, tmp_path, eval_data=rows(count=8), callbacks=[BcosScheduleCallback()], **options)
    run.train()
    b = [1.0, 1.25, 1.5, 1.75, 2.0, 2.0, 2.0, 2.0, 2.0]
    assert record.training == [value for value in b[:8] for _ in range(accumulate)]
    assert record.evaluation == b[1:]
    assert model.config.bcos["b"] == 2.0
    assert set(exponents(model).values()) == {2.0}
    for step in (2, 4, 8):
        saved = AutoModelForSequenceClassification.from_pretrained(tmp_path / f"checkpoint-{step}")
        assert saved.bcos_config.b == b[step]
        assert set(exponents(saved).values()) == {b[step]}


def test_the_last_step_may_be_the_end_of_the_schedule(tmp_path):
    model = converted(config=BcosConfig(b=1.3))
    record = Record(model)
    trainer(model, tmp_path, callbacks=[BcosScheduleCallback(start=1.1, share=1.0)], max_steps=3).train()
    assert record.training == pytest.approx([1.1, 1.1 + 0.2 / 3, 1.1 + 0.4 / 3])
    assert model.bcos_config.b == 1.3


@pytest.mark.parametrize("source", ["converted", "checkpoint"])
@pytest.mark.parametrize("restore", [False, True])
def test_a_resumed_training_equals_an_uninterrupted_one(source, restore, tmp_path):
    """With dropout on, in the middle of the schedule, without being told the target again."""
    options = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2, "lr_scheduler_type": "linear"}
    options |= {"restore_callback_states_from_checkpoint": restore}
    whole = trainer(converted(), tmp_path / "whole", callbacks=[BcosScheduleCallback(share=0.9)], **options)
    whole.train()

    checkpoint = tmp_path / "whole" / "checkpoint-2"
    model = converted(seed=1)
    if source == "checkpoint":
        model = AutoModelForSequenceClassification.from_pretrained(checkpoint)
        assert 1 < model.bcos_config.b < 1.25
    record = Record(model)
    resumed = trainer(model, tmp_path / "resumed", callbacks=[BcosScheduleCallback(share=0.9)], **options)
    resumed.train(resume_from_checkpoint=str(checkpoint))

    assert model.bcos_config.b == 1.25
    assert record.training[0] == pytest.approx(1 + 0.25 * 2 / 6)
    assert losses(resumed) == losses(whole)
    expected = weights(whole.model)
    assert all(torch.equal(expected[name], weight) for name, weight in weights(model).items())


def test_resuming_what_had_no_schedule(tmp_path):
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    trainer(converted(), tmp_path, **options).train()
    model = converted(config=BcosConfig(b=1.5))
    run = trainer(model, tmp_path, callbacks=[BcosScheduleCallback(share=1.0)], **options)
    run.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert model.bcos_config.b == 1.5
    state = json.loads((tmp_path / "checkpoint-4" / "trainer_state.json").read_text())
    assert state["stateful_callbacks"]["BcosScheduleCallback"]["attributes"]["final_b"] == 1.5


def best_model_run(path, schedule, stop=(), max_steps=6):
    """A training whose metric is best at the first evaluation."""
    run = trainer(
        converted(config=BcosConfig(b=2.0)),
        path,
        eval_data=rows(count=8),
        callbacks=[schedule, *stop],
        eval_strategy="steps",
        save_strategy="steps",
        eval_steps=1,
        save_steps=1,
        max_steps=max_steps,
        load_best_model_at_end=True,
        metric_for_best_model="step",
        greater_is_better=False,
    )
    run.compute_metrics = lambda prediction: {"step": run.state.global_step}
    run.train()
    return run


def test_the_best_model_is_one_with_the_final_b(tmp_path):
    run = best_model_run(tmp_path, BcosScheduleCallback(share=0.5))
    assert run.state.best_model_checkpoint.endswith("checkpoint-3")
    assert run.model.bcos_config.b == 2.0
    saved = AutoModelForSequenceClassification.from_pretrained(tmp_path / "checkpoint-3")
    assert saved.bcos_config.b == 2.0
    assert all(torch.equal(weights(run.model)[name], weight) for name, weight in weights(saved).items())


def test_a_best_model_from_before_keeps_its_own_b(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    run = best_model_run(tmp_path, BcosScheduleCallback(share=1.0), [EarlyStoppingCallback(2)])
    assert run.state.global_step == 3
    assert run.state.best_model_checkpoint.endswith("checkpoint-1")
    assert run.model.bcos_config.b == pytest.approx(1 + 1 / 6)
    assert "step 1, with B = 1.16667 on the way to 2" in caplog.text


class Interrupt(TrainerCallback):
    """Ends a training as Ctrl-C does, once."""

    done = False

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 2 and not self.done:
            self.done = True
            raise KeyboardInterrupt


def test_an_interrupted_training_keeps_its_target(tmp_path):
    model = converted(config=BcosConfig(b=1.5))
    run = trainer(model, tmp_path, callbacks=[BcosScheduleCallback(), Interrupt()])
    with pytest.raises(KeyboardInterrupt):
        run.train()
    assert model.bcos_config.b == 1.25
    run.train()
    assert model.bcos_config.b == 1.5
    model.set_b(1.75)
    run.train()
    assert model.bcos_config.b == 1.75


def test_layers_with_their_own_b_keep_it(tmp_path):
    model = converted(config=BcosConfig(b=1.5, b_pattern={"classifier": 1.1}))
    seen = set()
    model.classifier.register_forward_hook(lambda module, args, output: seen.add(module.b))
    trainer(model, tmp_path, callbacks=[BcosScheduleCallback()], max_steps=4).train()
    assert seen == {1.1}
    assert model.bcos_config.b_pattern == {"classifier": 1.1}
    assert set(exponents(model).values()) == {1.1, 1.5}


@pytest.mark.parametrize("config", [BcosConfig(align=False), BcosConfig(b_pattern={".*": 1.5})])
def test_a_schedule_without_layers_is_refused(config, tmp_path):
    with pytest.raises(ValueError, match="nothing to schedule"):
        trainer(converted(config=config), tmp_path, callbacks=[BcosScheduleCallback()]).train()


def test_wrapped_models_are_scheduled():
    model = converted(config=BcosConfig(b=2.0))
    schedule, state = BcosScheduleCallback(share=1.0), TrainerState(max_steps=4)
    arguments = SimpleNamespace(load_best_model_at_end=False)
    wrapped = torch.nn.DataParallel(model)
    schedule.on_train_begin(arguments, state, None, model=wrapped)
    assert model.bcos_config.b == 1
    state.global_step = 2
    schedule.on_step_end(arguments, state, None, model=torch.compile(model))
    assert set(exponents(model).values()) == {1.5}
    state.global_step = 4
    schedule.on_train_end(arguments, state, None, model=wrapped)
    assert model.bcos_config.b == 2


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"target": 0.9}, ValueError, "target must be .*0.9"),
        ({"start": math.nan}, ValueError, "start must be .*nan"),
        ({"share": 0}, ValueError, "share must be .*0"),
        ({"share": 1.5}, ValueError, "share must be .*1.5"),
        ({"start": None}, TypeError, "start must be a number"),
        ({"target": "2"}, TypeError, "target must be a number, got '2'"),
    ],
)
def test_bad_schedules_are_refused(arguments, error, match):
    with pytest.raises(error, match=match):
        BcosScheduleCallback(**arguments)


def test_the_target_is_unknown_before_training():
    with pytest.raises(ValueError, match="read when training begins"):
        BcosScheduleCallback().b_at(1, 4)
