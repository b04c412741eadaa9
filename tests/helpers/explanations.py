"""Explanations made by hand."""

from bcos_peft.explanation import Explanation


FIELDS = {
    "tokens": ["[CLS]", "un", "##happy", ",", "happy", "[SEP]"],
    "scores": [0.5, -1.0, -2.0, 0.25, 3.0, -0.25],
    "text": "unhappy, happy",
    "offsets": [None, (0, 2), (2, 7), (7, 8), (9, 14), None],
    "sequence_ids": [None, 0, 0, 0, 0, None],
    "special": [True, False, False, False, False, True],
    "token_ids": [101, 1, 2, 3, 2, 102],
    "target": 1,
    "target_label": "positive",
    "predicted": 0,
    "predicted_label": "negative",
    "logit": 0.5,
    "probability": 0.5,
}


def make(**changes):
    return Explanation(**{**FIELDS, **changes})


def pair(**changes):
    fields = {
        "tokens": ["good", "</s>", "good", "ness"],
        "scores": [1.0, 0.5, -1.0, -2.0],
        "text": ("good", " goodness"),
        "offsets": [(0, 4), None, (0, 5), (5, 9)],
        "sequence_ids": [0, None, 1, 1],
        "special": [False, True, False, False],
        "token_ids": [5, 2, 5, 6],
        "logit": -1.5,
    }
    return make(**{**fields, **changes})


def empty():
    return make(
        tokens=[], scores=[], text="", offsets=[], sequence_ids=[], special=[], token_ids=[], logit=0.0
    )  # fmt: skip
