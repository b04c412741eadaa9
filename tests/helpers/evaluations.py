"""A small evaluation."""

from bcos_peft.evaluation import (
    evaluate,
)
from helpers import tiny
from helpers.toys import Gradient, Noise


TEXTS = [
    "A gripping, beautifully shot film.", "Two hours that I shall not get back.", "We loved the music.",
    "The story isn't good.", "Who made this boring thing?", "An awful movie.", "Don't miss it!",
]  # fmt: skip


def stock():
    return tiny.model(num_labels=2)


def run(model=None, methods=None, metrics=None, texts=TEXTS, tokenizer=None, **options):
    model = stock() if model is None else model
    methods = [Gradient(), Noise()] if methods is None else methods
    return evaluate(model, tokenizer or tiny.tokenizer(), texts, methods, metrics, progress=False, **options)
