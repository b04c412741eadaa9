"""Pairs of texts of different classes for the sequence pointing game: built from a dataset, saved and loaded."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from bcos_peft._utils.arguments import checked_arguments
from bcos_peft._utils.files import write_text
from bcos_peft.evaluation.data.texts import Texts
from bcos_peft.evaluation.questions import max_length, probabilities


_FORMAT, _VERSION = "bcos_peft.sequence_pairs", 1


@dataclass(frozen=True)
class SequencePair:
    """Two texts that a model is sure of, of different classes.

    Args:
        first (`str`): the text that stands first.
        second (`str`): the other.
        first_class (`int`): class of the first.
        second_class (`int`): class of the second.

    Raises:
        ValueError: the classes are the same.

    Example:
        >>> from bcos_peft.evaluation import SequencePair
        >>> SequencePair("A gripping film.", "Dull and overlong.", first_class=1, second_class=0).second
        'Dull and overlong.'
    """

    first: str
    second: str
    first_class: int
    second_class: int

    def __post_init__(self) -> None:
        if self.first_class == self.second_class:
            raise ValueError(
                f"first_class and second_class are both {self.first_class!r}; the pointing game needs texts of two "
                "classes, so that only one of them speaks for each."
            )


@checked_arguments
def build_pairs(
    texts: Texts | Sequence[Texts],
    count: int = 200,
    confidence: float = 0.9,
    max_tokens: int | None = None,
    seed: int = 0,
) -> list[SequencePair]:
    """Pairs of texts of different classes, each predicted with confidence when it stands alone.

    Every text is in one pair at most. Which class comes first is drawn by chance.

    Args:
        texts ([`Texts`] or a list of these): a dataset with a model. Several, of the same dataset with other models:
            only texts that all of them are sure of, so that the models can be compared pair by pair.
        count (`int`, defaults to 200): how many pairs at most.
        confidence (`float`, defaults to 0.9): least probability of the predicted class, 0 to 1. Where the dataset has
            labels, the prediction must also be right.
        max_tokens (`int`, *optional*): longer texts are cut (before they are predicted). Default: half of what the
            model reads.
        seed (`int`, defaults to 0): of the draws.

    Returns:
        `list[SequencePair]`: fewer than `count`, with a warning, where the dataset has no more.

    Raises:
        ValueError: there is no pair at all, the items are not single texts, or `count` or `confidence` is out of
            range.

    Example:
        >>> from transformers import AutoModelForSequenceClassification, AutoTokenizer
        >>> from bcos_peft.evaluation import Texts, build_pairs
        >>> name = "distilbert/distilbert-base-uncased-finetuned-sst-2-english"
        >>> model = AutoModelForSequenceClassification.from_pretrained(name)
        >>> tokenizer = AutoTokenizer.from_pretrained(name)
        >>> try:
        ...     pairs = build_pairs(Texts(model, tokenizer, ["A film.", "Dull."]), confidence=0.999)
        ... except ValueError as error:
        ...     print(str(error)[:33])
        No two texts of different classes
    """
    check_options(count, confidence)
    several = [texts] if isinstance(texts, Texts) else list(texts)
    items = several[0].items
    if any(not isinstance(item, str) for item in items):
        raise ValueError("The sequence pointing game joins single texts; the dataset has pairs or other rows.")
    if any(list(other.items) != list(items) for other in several[1:]):
        raise ValueError("All models must have the same texts.")
    cut = list(items)
    for one in several:
        cut = [_shorten(one, text, max_tokens) for text in cut]
    sure = [_confident(one, cut, confidence) for one in several]
    classes = [rows[0] if len(set(rows)) == 1 else None for rows in zip(*sure, strict=True)]
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(cut), generator=generator).tolist()
    waiting: dict[int, list[int]] = {}
    pairs: list[SequencePair] = []
    for i in order:
        mine = classes[i]
        if mine is None or len(pairs) == count:
            continue
        others = [key for key, rows in waiting.items() if key != mine and rows]
        if not others:
            waiting.setdefault(mine, []).append(i)
            continue
        other = max(others, key=lambda key: len(waiting[key]))
        j = waiting[other].pop()
        # The order is random already, but a rare class would always come second: draw who is first.
        a, b = (i, j) if int(torch.randint(2, (1,), generator=generator)) else (j, i)
        pairs.append(SequencePair(cut[a], cut[b], classes[a], classes[b]))
    if not pairs:
        raise ValueError(
            f"No two texts of different classes have a probability of {confidence}; lower confidence=..., "
            "or give more texts."
        )
    if len(pairs) < count:
        warnings.warn(f"{len(pairs)} pairs instead of {count}: the dataset has no more.", stacklevel=2)
    return pairs


def save_pairs(pairs: Sequence[SequencePair], path: str | os.PathLike) -> None:
    """Writes pairs to a JSON file, for use with other methods and models.

    Args:
        pairs (`Sequence[SequencePair]`): from `build_pairs`.
        path (`str` or `os.PathLike`): the file.

    Example:
        >>> from bcos_peft.evaluation import SequencePair, load_pairs, save_pairs
        >>> save_pairs([SequencePair("Good.", "Bad.", 1, 0)], "pairs.json")
        >>> load_pairs("pairs.json")
        [SequencePair(first='Good.', second='Bad.', first_class=1, second_class=0)]
    """
    content = {"format": _FORMAT, "version": _VERSION, "pairs": [asdict(pair) for pair in pairs]}
    write_text(path, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def load_pairs(path: str | os.PathLike) -> list[SequencePair]:
    """Reads pairs that `save_pairs` wrote.

    Args:
        path (`str` or `os.PathLike`): the file.

    Raises:
        ValueError: it is no such file.

    Example:
        >>> from bcos_peft.evaluation import SequencePair, load_pairs, save_pairs
        >>> save_pairs([SequencePair("Good.", "Bad.", 1, 0)], "pairs.json")
        >>> len(load_pairs("pairs.json"))
        1
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.get("format") != _FORMAT or content.get("version") != _VERSION:
            raise ValueError("it is no file that save_pairs of this version wrote")
        return [SequencePair(**pair) for pair in content["pairs"]]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"cannot load pairs from {os.fspath(path)!r}: {error}") from error


def check_options(count: int, confidence: float) -> None:
    """Raises `ValueError` for numbers that no pairs can be built with."""
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}.")
    if not 0 <= confidence <= 1:
        raise ValueError(f"confidence must be a probability, 0 to 1, got {confidence}; 90 % is 0.9.")


def _shorten(texts: Texts, text: str, max_tokens: int | None) -> str:
    """The text, cut behind its last token that fits."""
    encoding = texts.tokenize(text)
    limits = [] if max_tokens is None else [max_tokens]
    if (longest := max_length(texts.model, texts.tokenizer)) is not None:
        limits.append((longest - 2 * encoding.special.count(True)) // 2)
    ends = [span[1] for span in encoding.offsets if span is not None]
    return text[: ends[max(1, min(limits)) - 1]] if limits and len(ends) > min(limits) else text


def _confident(texts: Texts, cut: list[str], confidence: float) -> list[int | None]:
    """The predicted class of each text, or None where the model is not sure enough or wrong."""
    encodings = [texts.tokenize(text, f"dataset[{i}]") for i, text in enumerate(cut)]
    questions = [texts.ask(encoding, 0, where=f"dataset[{i}]") for i, encoding in enumerate(encodings)]
    best, classes = probabilities(texts.model, questions).max(dim=1)
    found: list[int | None] = []
    for i, (probability, predicted) in enumerate(zip(best.tolist(), classes.tolist(), strict=True)):
        right = texts.labels is None or texts.class_of(i, encodings[i]) == predicted
        found.append(predicted if right and probability >= confidence else None)
    return found
