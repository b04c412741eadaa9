"""Explanations that views have to draw, evil ones among them."""

import io

from rich.console import Console

from bcos_peft.explanation import Explanation, show


HOSTILE = """</style></title><script>alert('x')</script> "quoted" <img src=x onerror='y'> {{ 7*7 }} &amp;"""


def make(text, pieces, scores, special=(), **changes):
    """An explanation of `text`; pieces are substrings in order, or special tokens where `special` names them."""
    offsets, cursor = [], 0
    for piece in pieces:
        if piece in special:
            offsets.append(None)
            continue
        start = text.index(piece, cursor)
        cursor = start + len(piece)
        offsets.append((start, cursor))
    fields = {
        "tokens": list(pieces),
        "scores": scores,
        "text": text,
        "offsets": offsets,
        "sequence_ids": [None if span is None else 0 for span in offsets],
        "special": [piece in special for piece in pieces],
        "token_ids": list(range(len(pieces))),
        "target": 1,
        "target_label": "positive",
        "predicted": 1,
        "predicted_label": "positive",
        "logit": sum(scores) + 1e-7,
        "probability": 0.875,
    }
    return Explanation(**{**fields, **changes})


def review(**changes):
    pieces = ["[CLS]", "A", "grip", "ping", ",", "dull", "film", "[SEP]"]
    scores = [0.25, 0.01, 1.5, 0.5, -0.02, -1.25, 0.3, -0.13]
    return make("A gripping,  dull film", pieces, scores, special=("[CLS]", "[SEP]"), **changes)


def pair(**changes):
    fields = {
        "tokens": ["<s>", "Up", "</s>", "Down", "</s>"],
        "scores": [0.0, 1.0, 0.5, -2.0, 0.0],
        "text": ("Up", "Down"),
        "offsets": [None, (0, 2), None, (0, 4), None],
        "sequence_ids": [None, 0, None, 1, None],
        "special": [True, False, True, False, True],
        "token_ids": [0] * 5,
        "target": 0,
        "target_label": "same",
        "predicted": 2,
        "predicted_label": "other",
        "logit": -0.5,
        "probability": 0.2,
    }
    return Explanation(**{**fields, **changes})


def plain(explanation, width=200, encoding="utf-8", **options):
    """What a file or a pipe receives."""
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    show(explanation, width=width, console=Console(file=file, width=width, force_terminal=False), **options)
    file.flush()
    return file.buffer.getvalue().decode(encoding)
