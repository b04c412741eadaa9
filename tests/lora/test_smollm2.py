"""LoRA on a real language model, SmolLM2-135M, in float32 and over 4-bit weights."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from bcos_peft import BcosConfig, attribute, get_bcos_model


pytestmark = [pytest.mark.slow, pytest.mark.newest]


@pytest.fixture
def smollm2(smollm2_folder):
    """The folder of a plain checkpoint in float32, and some text in ids."""
    tokenizer = AutoTokenizer.from_pretrained(smollm2_folder)
    return smollm2_folder, tokenizer("The capital of France is", return_tensors="pt")


def trained_a_little(model, batch, steps, left):
    """So many steps on one sentence: the adapters do something."""
    config = LoraConfig(r=8, lora_alpha=16, task_type="CAUSAL_LM", target_modules="all-linear")
    model = get_peft_model(model, config).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for _ in range(steps):
        loss = model(**batch, labels=batch["input_ids"]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < left * losses[0], losses
    return model.eval()


def residual(model, batch):
    result = attribute(model, **batch)
    return float((result.residual.abs() / result.scores.abs().sum(-1)).max())


def test_float32(smollm2):
    folder, batch = smollm2
    model = get_bcos_model(AutoModelForCausalLM.from_pretrained(folder), BcosConfig(b=1.25))
    with torch.no_grad():
        before = model.eval()(**batch).logits
    model = trained_a_little(model, batch, steps=12, left=0.5)
    with torch.no_grad():
        after = model(**batch).logits
        with model.disable_adapter():
            assert torch.equal(model(**batch).logits, before)
    assert residual(model, batch) < 1e-5
    model.merge_adapter()
    with torch.no_grad():
        assert (model(**batch).logits - after).abs().max() < 1e-4 * after.abs().max()
    assert residual(model, batch) < 1e-5


def test_four_bits(smollm2):
    folder, batch = smollm2
    nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    stock = AutoModelForCausalLM.from_pretrained(folder, quantization_config=nf4, dtype=torch.float32)
    model = trained_a_little(get_bcos_model(stock, BcosConfig(b=1.25)), batch, steps=6, left=0.8)
    assert residual(model, batch) < 1e-5
