"""Tiny embedding models."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from bcos_peft import BcosConfig, get_bcos_model
from helpers import tiny


A = "a film that is good and long"
B = "not bad at all, this one"


def plain(family="bert", dtype=torch.float32, converted=True, seed=0):
    """A model without a head."""
    from transformers import AutoModel

    stock = AutoModel.from_config(tiny.config(family))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in stock.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    stock = stock.to(dtype).eval()
    return get_bcos_model(stock, BcosConfig(b=1.5)) if converted else stock


def sentence_transformer(
    *more, family="bert", converted=True, dtype=torch.float32, cls=None, kind="wordpiece", **options
):
    """A model of sentence-transformers: a tiny transformer, and `more` modules behind it."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer

    with tempfile.TemporaryDirectory() as folder:
        plain(family, dtype, converted=False).save_pretrained(folder)
        tiny.tokenizer().save_pretrained(folder)
        first = Transformer(folder, model_kwargs={"dtype": dtype}, max_seq_length=24)
    model = (cls or SentenceTransformer)(modules=[first, *more], device="cpu", **options)
    if converted:
        get_bcos_model(first.auto_model, BcosConfig(b=1.5))
    return model.eval()


def saved(model, folder) -> Path:
    model.save_pretrained(str(folder))
    return Path(folder)
