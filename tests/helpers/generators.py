"""Explainers of tiny language models, and prompts."""

import torch

from bcos_peft import BcosConfig, BcosExplainer, get_bcos_model
from helpers import tiny


FAMILIES = ("llama", "gpt2", "gemma2", "qwen2", "mixtral", "opt")


PROMPT = "A gripping film"


PROMPTS = [PROMPT, "It is not bad, not good either, and", "We loved"]


TEMPLATE = (
    "{% for m in messages %}<s>{{ m.role }}\n{{ m.content | trim }}"
    "{% if not loop.last or not continue_final_message %}</s>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)


def explainer(family="llama", dtype=torch.float64, batch_size=16, **changes):
    model = get_bcos_model(tiny.model(family, "CausalLM", dtype=dtype, **changes), BcosConfig(b=1.25))
    model.generation_config.update(eos_token_id=2, pad_token_id=0)
    tokenizer = tiny.tokenizer("bpe", padding_side="left")
    tokenizer.chat_template = TEMPLATE
    return BcosExplainer(model, tokenizer, batch_size=batch_size)
