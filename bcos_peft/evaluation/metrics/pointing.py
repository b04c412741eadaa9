"""The sequence pointing game: of two texts of different classes, joined into one, does the right half light up?"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bcos_peft.evaluation.data import Example, SequencePair, Texts, build_pairs, check_options
from bcos_peft.evaluation.metrics.base import Metric, Value, _Method
from bcos_peft.evaluation.questions import max_length
from bcos_peft.text import Encoding, shares


def _positive_share(scores: Tensor, inside: Tensor, counted: Tensor) -> float:
    """The part of the positive scores that falls inside a segment; 0 where no score is positive.

    Args:
        scores (`torch.Tensor`): `(length,)`.
        inside (`torch.Tensor`): `(length,)`, how much of each token lies in the segment, 0 to 1.
        counted (`torch.Tensor`): `(length,)`, how much of it lies in any segment.

    Example:
        >>> import torch
        >>> _positive_share(torch.tensor([3.0, -5.0, 1.0]), torch.tensor([1.0, 1.0, 0.0]), torch.ones(3))
        0.75
    """
    positive = scores.clamp(min=0).to(counted.dtype)
    total = float(positive @ counted)
    return float(positive @ inside) / total if total > 0 else 0.0


class SequencePointingGame(Metric):
    """SeqPG: the share of the positive scores that falls on the text of the explained class. Larger is better.

    Each pair is joined into one text and explained twice, once for the class of each half; its value is the mean.
    Under random order it is the halves' mean share of the tokens: one half. Where no score is positive it is 0.

    Args:
        pairs (`Sequence[SequencePair]`, *optional*): from `build_pairs` or `load_pairs`. Default: made of the dataset
            with the model at hand.
        count (`int`, defaults to 200): of pairs that are made.
        confidence (`float`, defaults to 0.9): for pairs that are made; see `build_pairs`.
        seed (`int`, defaults to 0): for pairs that are made.
        joiner (`str`, defaults to a space): what stands between the texts.
        contrast (`bool`, defaults to `False`): explain each class against the other.

    Raises:
        ValueError: `count` or `confidence` is out of range.

    Example:
        >>> from bcos_peft.evaluation import SequencePair, SequencePointingGame
        >>> game = SequencePointingGame([SequencePair("Good.", "Bad.", 1, 0)])
        >>> game.values["seqpg"].heading
        'SeqPG ↑'

    Source: B-cos LM (arXiv 2502.12992), section 5, after the grid pointing game of B-cos networks (arXiv 2205.10268).
    """

    name = "seqpg"
    values = {"seqpg": Value("SeqPG", True)}

    def __init__(
        self,
        pairs: Sequence[SequencePair] | None = None,
        count: int = 200,
        confidence: float = 0.9,
        seed: int = 0,
        joiner: str = " ",
        contrast: bool = False,
    ):
        check_options(count, confidence)
        self._pairs = None if pairs is None else list(pairs)
        self.count, self.confidence, self.seed = count, confidence, seed
        self.joiner, self.contrast = joiner, contrast

    def examples(self, texts: Texts) -> list[Example]:
        """One for each pair, with two questions; a warning says how many pairs are longer than the model reads."""
        pairs = self._pairs
        if pairs is None:
            pairs = build_pairs(texts, self.count, self.confidence, seed=self.seed)
        keys = texts.keys([(pair.first, pair.second) for pair in pairs])
        wholes = [pair.first + self.joiner + pair.second for pair in pairs]
        encodings = [texts.tokenize(whole, f"pairs[{i}]") for i, whole in enumerate(wholes)]
        limit = max_length(texts.model, texts.tokenizer)
        cut = sum(_is_cut(encoding, whole, limit) for encoding, whole in zip(encodings, wholes, strict=True))
        if cut:
            warnings.warn(
                f"{cut} of {len(pairs)} pairs are longer than the {limit} tokens that the model reads, and their "
                "second text is cut. build_pairs makes pairs that fit.",
                stacklevel=2,
            )
        rows = zip(pairs, keys, wholes, encodings, strict=True)
        return [self._example(texts, *row) for row in rows]

    def _example(self, texts: Texts, pair: SequencePair, key: str, whole: str, encoding: Encoding) -> Example:
        places = [(0, len(pair.first)), (len(whole) - len(pair.second), len(whole))]
        classes = pair.first_class, pair.second_class
        foils = classes[::-1] if self.contrast else (None, None)
        questions = tuple(texts.ask(encoding, target, foil) for target, foil in zip(classes, foils, strict=True))
        weights = torch.tensor(shares(whole, encoding.offsets, places), dtype=torch.float64)
        weights[:, questions[0].special] = 0  # those that a text is written with belong to neither half
        if bool((weights.sum(1) == 0).any()):
            raise ValueError(f"The model reads too few tokens for the pair {pair.first!r} and {pair.second!r}.")
        return Example(key, f"{pair.first} | {pair.second}", questions, weights, {"seqpg": 0.5})

    def measure(
        self, model: nn.Module, examples: Sequence[Example], scores: Sequence[list[Tensor]], method: _Method
    ) -> list[dict[str, Any]]:
        """Mean of both classes, and the share of each."""
        rows = []
        for example, both in zip(examples, scores, strict=True):
            counted = example.data.sum(0)
            found = [_positive_share(values, example.data[i], counted) for i, values in enumerate(both)]
            rows.append({"seqpg": sum(found) / 2, "shares": found})
        return rows


def _is_cut(encoding: Encoding, text: str, limit: int | None) -> bool:
    end = max(span[1] for span in encoding.offsets if span is not None)
    return limit is not None and len(encoding.input_ids) >= limit and end < len(text.rstrip())
