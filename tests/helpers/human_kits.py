"""Explanations for readers, kits of them, and simulated answers."""

import json

import numpy as np

from bcos_peft import Explanation
from bcos_peft.evaluation import HumanKit
from bcos_peft.text.words import _split_words


TEXTS = [
    "A gripping, beautifully shot film that I did not want to end.",
    "Two hours that I shall not get back: dull, overlong.",
    "Who made this </script><b>boring</b> thing?",
    "We loved the wonderful acting.",
]


def explanation(text, seed=0, label="positive", scores=None, foil=None):
    spans = _split_words(text)
    count = len(spans)
    scores = np.random.default_rng(seed).normal(size=count) if scores is None else scores
    return Explanation(
        tokens=[text[start:end] for start, end in spans], scores=scores, text=text, offsets=spans,
        sequence_ids=[0] * count, special=[False] * count, token_ids=list(range(count)), target=1, target_label=label,
        predicted=1, predicted_label=label, logit=2.0, probability=0.9, foil=None if foil is None else 0,
        foil_label=foil,
    )  # fmt: skip


def explanations(texts=4, methods=("secretive", "covert"), **options):
    return {
        name: [explanation(TEXTS[i % 4] + " " * (i // 4), seed=10 * place + i, **options) for i in range(texts)]
        for place, name in enumerate(methods)
    }


def kit_of(texts=4, methods=("secretive", "covert"), **options):
    return HumanKit.build(explanations(texts, methods), **options)


def simulated(tmp_path, kit, reader, choices, **changes):
    answers = [
        {"pair": pair.name, "choice": choice, "seconds": 4.0}
        for pair, choice in zip(kit.pairs, choices, strict=True)
        if choice is not None
    ]
    content = {
        "format": "bcos_peft.human_answers", "version": 1, "kit": kit.kit, "reader": reader, "code": "",
        "simulated": True, "started": None, "finished": None, "answers": answers,
    }  # fmt: skip
    path = tmp_path / f"{reader}.json"
    path.write_text(json.dumps(content | changes))
    return path


def prefer(kit, method, but=()):
    """Choices of a simulated reader who prefers a method, except in some pairs."""
    return [("left" if (pair.left == method) != (i in but) else "right") for i, pair in enumerate(kit.pairs)]
