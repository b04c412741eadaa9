"""Explained generations made by hand."""

from bcos_peft import GenerationExplanation


def make(**changes):
    """Two documents and a question; the answer has three tokens, the last of them special."""
    fields = {
        "text": "Paris big. Rome old. Old? Rome it is</s>",
        "tokens": ["<s>", "Paris big.", " Rome old.", " Old?", " Rome", " it is", "</s>"],
        "token_ids": [1, 10, 11, 12, 13, 14, 2],
        "offsets": [None, (0, 10), (10, 20), (20, 25), (25, 30), (30, 36), (36, 40)],
        "special": [True, False, False, False, False, False, True],
        "prompt_length": 4,
        "scores": [[0.5, 1.0, 4.0, 2.0], [0.0, 0.5, 1.0, 0.25, 8.0], [1.0, 0.0, 0.0, -3.0, 0.5, 0.25]],
        "logits": [7.5, 9.75, -1.25 + 1e-9],
        "probabilities": [0.5, 0.8, 0.25],
        "predicted": [13, 14, 15],
        "foils": [10, 15, 15],
        "labels": {2: "</s>", 10: " Paris", 13: " Rome", 14: " it is", 15: "."},
        "segments": {"prompt": (0, 25), "answer": (25, 36)},
    }
    return GenerationExplanation(**(fields | changes))
