"""A tiny chat task and trainers for it, shared by the tests of TRL's trainers."""

from __future__ import annotations

import torch
from transformers import PreTrainedTokenizerFast

from bcos_peft import BcosConfig, get_bcos_model
from helpers import tiny


PAIRS = [("A gripping film", "good"), ("terrible", "bad"), ("so boring", "bad"), ("wonderful acting", "good")]
TEMPLATE = (
    "{% for message in messages %}<s>{{ message['role'] }}:{% if message['role'] == 'assistant' %}{% generation %}"
    "{{ message['content'] }}</s>{% endgeneration %}{% else %}{{ message['content'] }}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant:{% endif %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """With a chat template that marks what the assistant says."""
    tok = tiny.tokenizer("bpe")
    tok.chat_template = TEMPLATE
    return tok


def dataset(rows: int = 16, kind: str = "conversational"):
    """Questions and answers: `"conversational"`, `"standard"` (strings), `"messages"` or `"text"`."""
    from datasets import Dataset

    pairs = [PAIRS[row % len(PAIRS)] for row in range(rows)]
    user = [{"role": "user", "content": text} for text, _ in pairs]
    assistant = [{"role": "assistant", "content": answer} for _, answer in pairs]
    if kind == "conversational":
        columns = {"prompt": [[turn] for turn in user], "completion": [[turn] for turn in assistant]}
    elif kind == "standard":
        columns = {"prompt": [text for text, _ in pairs], "completion": [f" {answer}" for _, answer in pairs]}
    elif kind == "messages":
        columns = {"messages": [list(turns) for turns in zip(user, assistant, strict=True)]}
    else:
        columns = {"text": [f"{text}: {answer}" for text, answer in pairs]}
    return Dataset.from_dict(columns)


def converted(family: str = "llama", **config):
    """In training mode, as the trainers have it."""
    return get_bcos_model(tiny.model(family, "CausalLM"), BcosConfig(**{"b": 1.25, **config})).train()


def options(folder, **changes) -> dict:
    """Arguments of the configs of all of TRL's trainers: a short, exact training on the CPU."""
    return {
        "output_dir": str(folder),
        "use_cpu": True,
        "bf16": False,
        "activation_checkpointing": False,
        "max_steps": 6,
        "learning_rate": 3e-3,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "max_length": tiny.MAX_LENGTH,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        **changes,
    }


def losses(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def weights(model) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
