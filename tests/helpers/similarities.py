"""Explained similarities that views have to draw, evil ones among them."""

import io

import numpy as np
from rich.console import Console

from bcos_peft.similarity import SimilarityExplanation, TextTokens
from helpers.views import HOSTILE


def tokens(text, pieces=None, special=("[CLS]", "[SEP]"), start=10):
    """A text between two special tokens; pieces are substrings in order, by default its words."""
    pieces = text.split() if pieces is None else pieces
    offsets, cursor = [None], 0
    for piece in pieces:
        cursor = text.index(piece, cursor)
        offsets.append((cursor, cursor + len(piece)))
        cursor += len(piece)
    flags = [True, *(False for _ in pieces), True]
    names = [special[0], *pieces, special[1]]
    return TextTokens(text, names, list(range(start, start + len(names))), [*offsets, None], flags)


def pair(a, b, seed=0, **changes):
    """Two texts with numbers drawn at random, a whole multiple of 1/1024 each, so that sums are exact."""
    numbers = np.random.default_rng(seed).integers(-60, 100, (len(a.tokens), len(b.tokens))) / 1024
    fields = {"a": a, "b": b, "matrix": numbers, "similarity": float(numbers.sum()) + 2.0**-26}
    return SimilarityExplanation(**{**fields, **changes})


def near(**changes):
    """Words of more than one token, `gripping` with `movie` the strongest pair."""
    a, b = tokens("A gripping film.", ["A", "grip", "ping", "film", "."]), tokens("This movie,  seat")
    matrix = np.zeros((7, 5))
    matrix[2, 2], matrix[3, 2], matrix[4, 2], matrix[2, 3], matrix[0, 2] = 0.25, 0.125, 0.1875, -0.0625, 0.03125
    fields = {"a": a, "b": b, "matrix": matrix, "similarity": 0.5, "constants": -0.03125}
    return SimilarityExplanation(**{**fields, **changes})


def far():
    """The same query, with another document."""
    b = tokens("Salty soup", start=50)
    matrix = np.zeros((7, 4))
    matrix[2, 1], matrix[4, 2], matrix[6, 3] = 0.125, 0.25, -0.125
    return SimilarityExplanation(a=near().a, b=b, matrix=matrix, similarity=0.25)


def hostile(seed=0):
    """Texts, and special tokens, that want to be more."""
    evil = '"><script>alert(1)</script>', "$x_{1}$"
    return pair(tokens(HOSTILE, special=evil), tokens("\x1b[2J [bold]x[/] $y^2$ " + HOSTILE), seed)


def right_to_left():
    return pair(tokens("متى تصل الرحلة"), tokens("הטיסה מגיעה flight"))


def printed(found, width=120, encoding="utf-8", **options):
    """What a file or a pipe receives."""
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    found.show(width=width, console=Console(file=file, width=width, force_terminal=False), **options)
    file.flush()
    return file.buffer.getvalue().decode(encoding)
