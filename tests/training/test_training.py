"""The stock Trainer on converted models: the loss, resuming, checkpointing, mixed precision."""

import functools

import pytest
import torch
from helpers import tiny
from helpers.trainers import CHECKPOINTING, converted, losses, rows, trainer, weights
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorForLanguageModeling,
    DataCollatorForTokenClassification,
)

from bcos_peft import BcosConfig, bcos_bce_loss


def no_dropout(family="bert"):
    own = {"modernbert": {}, "distilbert": {"dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.0}}
    return own.get(family, {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0})


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


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_the_trainers_label_smoothing_of_a_language_model_is_of_the_next_token(family, tmp_path):
    """The Trainer shifts labels for classes that it finds in a table of names."""
    model = converted(family, "CausalLM")
    data = [{"input_ids": row["input_ids"]} for row in rows(count=4, family=family)]
    collator = DataCollatorForLanguageModeling(tiny.tokenizer("bpe"), mlm=False)
    run = trainer(model, tmp_path, data, None, eval_data=data, collator=collator, label_smoothing_factor=0.1)
    found = run.evaluate()["eval_loss"]
    batch = collator(data)
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    expected = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), batch["labels"][:, 1:].flatten(), label_smoothing=0.1
    )
    assert found == pytest.approx(float(expected), rel=1e-4)


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
