"""Models whose metrics can be computed by hand: words have weights, and a logit is their sum."""

from __future__ import annotations

import torch
from torch import nn

from helpers import tiny


class BagOfWords(nn.Module):
    """Logits `[0, Σ weight(token)]` over the visible tokens. It counts its forwards and the rows in them."""

    def __init__(self, weights: dict[int, float], size: int = tiny.VOCAB_SIZE):
        super().__init__()
        table = torch.zeros(size)
        for token, weight in weights.items():
            table[token] = weight
        self.weight = nn.Parameter(table)
        self.rows: list[int] = []

    def forward(self, input_ids, attention_mask):
        self.rows.append(len(input_ids))
        total = (self.weight[input_ids] * attention_mask).sum(1)
        return torch.stack([torch.zeros_like(total), total], dim=1)


class WeightOf:
    """The method that is right about a bag of words: each token's weight, for class 1."""

    name = "weights"

    def __call__(self, model, question):
        sign = 1 if question.target == 1 else -1
        return sign * model.weight.detach()[question.input_ids]


class Noise:
    """Random scores that depend on the text alone."""

    name = "noise"

    def __call__(self, model, question):
        seed = int((question.input_ids * torch.arange(1, len(question) + 1)).sum()) + 7 * question.target
        return torch.randn(len(question), generator=torch.Generator().manual_seed(seed))


class Gradient:
    """Input × gradient, for any model of transformers."""

    name = "gradient"

    def __call__(self, model, question):
        from bcos_peft.evaluation import score

        kept = []

        def hook(module, args, output):
            leaf = output.detach().requires_grad_()
            kept.append(leaf)
            return leaf

        handle = model.get_input_embeddings().register_forward_hook(hook)
        try:
            value = score(model, question)
        finally:
            handle.remove()
        (gradient,) = torch.autograd.grad(value, kept)
        return (gradient * kept[0]).sum(-1)[0].detach()
