"""Contrastive evidence: of a language model's two possible next words, does the word that decides rank first?"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bcos_peft._utils.checks import valid_count
from bcos_peft.evaluation.data import Example, MinimalPair, Texts
from bcos_peft.evaluation.metrics.base import Metric, Value, _Method
from bcos_peft.evaluation.metrics.ranking import _expected_reciprocal_rank
from bcos_peft.evaluation.questions import Question, max_length, predicts_next_token, probabilities
from bcos_peft.text import shares, special_ids


def _check_language_model(model: nn.Module, metric: str) -> None:
    """Raises `ValueError` for a model that does not predict the next token; `metric` names what needs one."""
    if not predicts_next_token(model):
        raise ValueError(
            f"{metric} needs a causal language model (AutoModelForCausalLM), not a {type(model).__name__}."
        )


def _too_long(texts: Texts, text: str) -> str:
    """How much longer a text is than the model reads, in words; empty where it fits."""
    limit = max_length(texts.model, texts.tokenizer)
    count = len(texts.tokenizer(text, verbose=False)["input_ids"])
    return "" if limit is None or count <= limit else f"{count} tokens, but the model reads {limit}"


def _next_word(
    texts: Texts, prefix: str, word: str, foil: str | None = None, where: str = "prefix"
) -> Question | None:
    """The question why a word follows a text, rather than another.

    A word may be several tokens: its first one is the target or, with a foil, the first in which they differ; what
    they share belongs to the text.

    Args:
        texts ([`Texts`]): with a causal language model.
        prefix (`str`): the text.
        word (`str`): what follows it, after a space.
        foil (`str`, *optional*): the other word.
        where (`str`): names the text in errors.

    Returns:
        [`Question`], or `None` where the tokens of one word are the beginning of the other's.

    Example:
        >>> from transformers import AutoModelForCausalLM, AutoTokenizer
        >>> from bcos_peft.evaluation import Texts
        >>> name = "HuggingFaceTB/SmolLM2-135M-Instruct"
        >>> tokenizer = AutoTokenizer.from_pretrained(name)
        >>> texts = Texts(AutoModelForCausalLM.from_pretrained(name), tokenizer, ["unused"])
        >>> question = _next_word(texts, "A model that", "explains", "predicts")
        >>> tokenizer.decode(question.input_ids[1:])
        'A model that'
    """
    known = texts.tokenize(prefix, where)
    start = len(known.input_ids)
    while known.special[start - 1]:  # what a tokenizer puts behind a text
        start -= 1
    rows = [_continued(texts, prefix, known.input_ids[:start], one, where) for one in (word, foil) if one is not None]
    if any(row is None for row in rows):
        return None
    at = start
    if foil is not None:
        pairs = zip(*(ids for ids, _ in rows), strict=False)
        at = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
        if at is None or at < start:
            return None
    ids, special = rows[0]
    if at >= len(ids):
        return None
    written = special_ids(texts.tokenizer)  # a text may have special tokens of its own, as chat templates write them
    return Question(
        torch.tensor(ids[:at]),
        target=ids[at],
        foil=None if foil is None else rows[1][0][at],
        special=torch.tensor([flag or token in written for flag, token in zip(special[:at], ids, strict=False)]),
    )


def _continued(texts: Texts, prefix: str, known: list[int], word: str, where: str):
    """Ids and special flags of prefix and word; None where the word changes how the prefix is read."""
    encoding = texts.tokenize(f"{prefix} {word}", where)
    end = len(encoding.input_ids)
    while encoding.special[end - 1]:
        end -= 1
    ids = encoding.input_ids[:end]
    return (ids, encoding.special[:end]) if ids[: len(known)] == known and end > len(known) else None


class ContrastiveEvidence(Metric):
    """How high the evidence ranks when a language model's right word is explained against the wrong one.

    The mean reciprocal rank of the best-ranked evidence token. Tokens of equal score share the ranks that they could
    have, so scores of zero have the value of random order. Besides: by how much the right word is more probable, and
    how often (of the model, the same for every method).

    The dataset must be [`MinimalPair`]s and the model a causal language model.

    Args:
        by (`"signed"` or `"absolute"`, defaults to `"signed"`): rank by the score, or by its size.
        batch_size (`int`, defaults to 32): texts in one forward.

    Example:
        >>> from bcos_peft.evaluation import ContrastiveEvidence
        >>> list(ContrastiveEvidence().values)
        ['evidence_mrr', 'probability_gap', 'good_preferred']

    Source: Yin and Neubig (arXiv 2202.10419), section 4.
    """

    name = "contrastive_evidence"
    values = {
        "evidence_mrr": Value("Evidence MRR", True),
        "probability_gap": Value("Probability gap"),
        "good_preferred": Value("Right word preferred"),
    }

    def __init__(self, by: str = "signed", batch_size: int = 32):
        if by not in ("signed", "absolute"):
            raise ValueError(f"by must be 'signed' or 'absolute', got {by!r}.")
        valid_count("batch_size", batch_size, least=1)
        self.by, self._batch_size = by, batch_size

    def examples(self, texts: Texts) -> list[Example]:
        """One for each pair; those that are too long or cannot be asked with this tokenizer are left out: it warns."""
        _check_language_model(texts.model, self.name)
        found, left_out, cut = [], 0, 0
        keys = texts.keys()
        for i, (key, pair) in enumerate(zip(keys, texts.items, strict=True)):
            if not isinstance(pair, MinimalPair):
                raise TypeError(
                    f"contrastive_evidence needs MinimalPair rows (load_minimal_pairs, blimp_pairs, ioi_pairs), but "
                    f"dataset[{i}] is a {type(pair).__name__}."
                )
            if any(_too_long(texts, f"{pair.prefix} {word}") for word in (pair.good, pair.bad)):
                cut += 1
                continue
            question = _next_word(texts, pair.prefix, pair.good, pair.bad, f"dataset[{i}]")
            relevant = None if question is None else _evidence_tokens(texts, pair, question)
            if relevant is None or not bool(relevant.any()):
                left_out += 1
                continue
            chance = _expected_reciprocal_rank(torch.zeros(len(relevant)), relevant)
            text = f"{pair.prefix} [{pair.good} / {pair.bad}]"
            found.append(Example(key, text, (question,), relevant, {"evidence_mrr": chance}))
        reasons = [f"{cut} have more tokens than the model reads"] if cut else []
        if left_out:
            reasons.append(f"of {left_out} the words do not differ in this tokenizer, or the evidence is missing")
        if not found:
            raise ValueError(f"No minimal pair can be asked: {'; '.join(reasons)}.")
        if reasons:
            warnings.warn(
                f"{left_out + cut} of {len(texts.items)} minimal pairs cannot be asked: {'; '.join(reasons)}.",
                stacklevel=2,
            )
        return found

    def measure(
        self, model: nn.Module, examples: Sequence[Example], scores: Sequence[list[Tensor]], method: _Method
    ) -> list[dict[str, Any]]:
        """Reciprocal rank, probability gap, and whether the right word is the more probable one."""
        rows = []
        step = 4 * self._batch_size
        for start in range(0, len(examples), step):
            part = examples[start : start + step]
            questions = [example.questions[0] for example in part]
            likely = probabilities(model, questions, batch_size=self._batch_size)
            for row, example, (values,) in zip(likely, part, scores[start : start + step], strict=True):
                question = example.questions[0]
                ranked = values[question.ranked]
                gap = float(row[question.target] - row[question.foil])
                rows.append(
                    {
                        "evidence_mrr": _expected_reciprocal_rank(
                            ranked.abs() if self.by == "absolute" else ranked, example.data
                        ),
                        "probability_gap": gap,
                        "good_preferred": float(gap > 0),
                    }
                )
        return rows


def _evidence_tokens(texts: Texts, pair: MinimalPair, question: Question) -> Tensor | None:
    """Of the ranked tokens, which overlap the evidence."""
    places = list(pair.places)
    if not places:
        return None
    offsets = texts.tokenize(f"{pair.prefix} {pair.good}").offsets[: len(question)]
    inside = torch.tensor(shares(f"{pair.prefix} {pair.good}", offsets, places).sum(0) > 0)
    return inside[question.ranked]
