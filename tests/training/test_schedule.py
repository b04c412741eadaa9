"""The schedule of B while the stock Trainer trains: its target, resuming, the best model, and what it refuses."""

import json
import logging
import math
import pickle
from types import SimpleNamespace

import pytest
import torch
from helpers import tiny
from helpers.trainers import converted, exponents, losses, rows, trainer, weights
from transformers import AutoModelForSequenceClassification, EarlyStoppingCallback, TrainerCallback, TrainerState

from bcos_peft import BcosConfig, BcosScheduleCallback, get_bcos_model


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


def test_a_schedule_that_is_used_again_takes_the_target_of_its_new_model():
    """Though the new one has the B at which the last training stopped."""
    schedule = BcosScheduleCallback()

    def begin(b, steps):
        model = get_bcos_model(tiny.model(), BcosConfig(b=b))
        state = TrainerState(max_steps=8)
        schedule.on_train_begin(None, state, None, model=model)
        state.global_step = steps
        schedule.on_step_end(None, state, None, model=model)
        return model, state

    model, state = begin(1.5, steps=2)
    assert model.bcos_config.b == 1.25
    schedule.on_train_begin(None, state, None, model=model)
    assert schedule.final_b == 1.5, "the same model goes on"
    begin(1.25, steps=8)
    assert schedule.final_b == 1.25
    assert pickle.loads(pickle.dumps(schedule)).final_b == 1.25


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
