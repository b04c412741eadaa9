"""Calibrated tiny models, and how far they are from the stock ones."""

from __future__ import annotations

import torch

from bcos_peft import BcosConfig, get_bcos_model
from helpers import tiny


def texts(count: int = 120, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(6, 30, (count,), generator=generator).tolist()
    return [torch.randint(5, tiny.VOCAB_SIZE, (n,), generator=generator).tolist() for n in lengths]


def make(family: str, **kwargs):
    return tiny.model(family, "SequenceClassification" if family in tiny.FAMILIES else "CausalLM", **kwargs)


def calibrated(model, data=None, b: float = 1.5, **changes):
    changes = {"calibration_replay": 0} | changes
    data = texts() if data is None else data
    return get_bcos_model(model, BcosConfig(b=b, **changes), calibration_data=data, progress=False)


def gap(model, stock) -> float:
    """Distance of the logits on other texts, relative to their size."""
    ids = torch.randint(5, tiny.VOCAB_SIZE, (8, 16), generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        ids = ids if stock.config.pad_token_id is not None else ids[:1]
        wanted = stock(input_ids=ids).logits
        return float((model(input_ids=ids).logits - wanted).norm() / wanted.norm())


def divergence(stock, model, factor: float = 1.0) -> float:
    """KL(stock ‖ model) on the texts that the report is about, with the model's logits multiplied by a factor."""
    total = 0.0
    for text in texts()[9::10]:
        ids = torch.tensor([text])
        with torch.no_grad():
            wanted = stock(input_ids=ids).logits.log_softmax(-1)
            found = (factor * model(input_ids=ids).logits).log_softmax(-1)
        total += float(torch.nn.functional.kl_div(found, wanted, log_target=True, reduction="sum"))
    return total
