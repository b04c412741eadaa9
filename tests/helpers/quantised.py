"""Models with quantised weights."""

import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from bcos_peft import BcosConfig, get_bcos_model
from bcos_peft.nn import BcosLayer
from helpers import tiny


WIDTHS = {"hidden_size": 64, "intermediate_size": 128}


BITS = ["4 bits", "8 bits"]


both = pytest.mark.parametrize("bits", BITS)


def quantisation(bits):
    if bits == "8 bits":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)


def checkpoint(folder, family="llama", task="CausalLM"):
    widths = WIDTHS if family != "gpt2" else {"n_embd": 64}
    tiny.model(family, task, **widths).save_pretrained(folder)
    return folder


def quantised(folder, bits, **config):
    """A plain model that is quantised when it is loaded, and then converted."""
    model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=quantisation(bits), dtype=torch.float32)
    return get_bcos_model(model, BcosConfig(**{"b": 1.5} | config))


def layers(model):
    return {name: module for name, module in model.named_modules() if isinstance(module, BcosLayer)}
