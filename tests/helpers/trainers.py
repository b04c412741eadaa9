"""A trainer of tiny models."""

import torch
from transformers import PreTrainedModel, Trainer, TrainingArguments

from bcos_peft import BcosConfig, bcos_bce_loss, get_bcos_model
from helpers import tiny


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
