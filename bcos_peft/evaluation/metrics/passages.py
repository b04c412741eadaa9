"""Passage attribution: the answer stands in one of several passages; has that one the largest contribution?"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bcos_peft._utils.checks import valid_count
from bcos_peft.evaluation.metrics.base import Example, Method, Metric, Texts, Value, key_of, unique_keys
from bcos_peft.evaluation.metrics.contrastive import check_language_model, next_word, too_long
from bcos_peft.evaluation.metrics.ranking import expected_reciprocal_rank
from bcos_peft.evaluation.questions.question import probabilities
from bcos_peft.text.segments import refuse_overlap, shares


__all__ = ["PassageAttribution", "PlantedAnswer", "planted_answers"]


@dataclass(frozen=True)
class PlantedAnswer:
    """A prompt with passages, one of which has the answer that should come next.

    Args:
        prompt (`str`): all of the prompt, up to the answer.
        passages (`tuple[tuple[int, int], ...]`): where they stand in the prompt, by characters.
        gold (`int`): number of the passage with the answer.
        answer (`str`): what follows the prompt, after a space.
        foil (`str`, *optional*): the answer that another passage would give.

    Raises:
        ValueError: a passage lies outside the prompt, two overlap, or `gold` is no passage.

    Example:
        >>> from bcos_peft.evaluation import PlantedAnswer
        >>> passages = ["Anna lives in Rome.", "Paul lives in Oslo."]
        >>> example = PlantedAnswer.from_passages(passages, "Where does Paul live? Paul lives in", "Oslo", gold=1)
        >>> [example.prompt[start:end] for start, end in example.passages]
        ['Anna lives in Rome.', 'Paul lives in Oslo.']
    """

    prompt: str
    passages: tuple[tuple[int, int], ...]
    gold: int
    answer: str
    foil: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.gold < len(self.passages):
            raise ValueError(f"gold={self.gold} is no passage; there are {len(self.passages)}.")
        for start, end in self.passages:
            if not 0 <= start < end <= len(self.prompt):
                raise ValueError(
                    f"The passage {(start, end)} lies outside the prompt of {len(self.prompt)} characters."
                )
        refuse_overlap({f"passage {i}": span for i, span in enumerate(self.passages)})

    @classmethod
    def from_passages(
        cls,
        passages: Sequence[str],
        question: str,
        answer: str,
        gold: int,
        foil: str | None = None,
        between: str = "\n",
    ) -> PlantedAnswer:
        """A prompt of passages and a question, one below the other.

        Args:
            passages (`Sequence[str]`): in order.
            question (`str`): what stands behind them, up to the answer.
            answer (`str`): what should follow.
            gold (`int`): number of the passage with the answer.
            foil (`str`, *optional*): the answer that another passage would give.
            between (`str`, defaults to a new line): what separates them.
        """
        spans, start = [], 0
        for passage in passages:
            spans.append((start, start + len(passage)))
            start += len(passage) + len(between)
        return cls(between.join([*passages, question]), tuple(spans), gold, answer, foil)


def planted_answers(count: int = 100, passages: int = 4, filler: int = 1, seed: int = 0) -> list[PlantedAnswer]:
    """Made prompts: each passage says where somebody lives, and the question is about one of them.

    Args:
        count (`int`, defaults to 100): how many.
        passages (`int`, defaults to 4): in each, 2 to 12.
        filler (`int`, defaults to 1): sentences of each passage that say nothing about the place.
        seed (`int`, defaults to 0): of the draws.

    Returns:
        `list[PlantedAnswer]`: with the place of another passage as the foil.

    Raises:
        ValueError: `passages` is out of range.

    Example:
        >>> from bcos_peft.evaluation import planted_answers
        >>> example = planted_answers(1, passages=3)[0]
        >>> start, end = example.passages[example.gold]
        >>> example.answer in example.prompt[start:end], example.foil in example.prompt[start:end]
        (True, False)
    """
    if not 2 <= passages <= len(_NAMES):
        raise ValueError(f"passages must be between 2 and {len(_NAMES)}, got {passages}.")
    draw = random.Random(seed)
    found = []
    for _ in range(count):
        names, places = draw.sample(_NAMES, passages), draw.sample(_PLACES, passages)
        texts = []
        for name, place in zip(names, places, strict=True):
            sentences = [sentence.format(name=name) for sentence in draw.sample(_FILLER, min(filler, len(_FILLER)))]
            sentences.insert(draw.randint(0, len(sentences)), f"{name} lives in {place}.")
            texts.append(" ".join(sentences))
        gold, other = draw.sample(range(passages), 2)
        question = f"\nQuestion: Where does {names[gold]} live?\nAnswer: {names[gold]} lives in"
        found.append(PlantedAnswer.from_passages(texts, question, places[gold], gold, places[other]))
    return found


_NAMES = "Anna Paul Emma Peter Laura David Sarah James Alice Robert Julia Henry".split()
_PLACES = "Rome Paris London Berlin Madrid Vienna Oslo Dublin Prague Athens Moscow Chicago".split()
_FILLER = (
    "{name} likes to read in the evening.",
    "On Sundays {name} goes for a long walk.",
    "{name} has two brothers and a cat.",
    "Last year {name} learned to play the piano.",
    "{name} works for a small company.",
)


class PassageAttribution(Metric):
    """How often the passage with the largest contribution is the one that has the answer. Larger is better.

    A passage's contribution is the sum of the scores of its tokens. Two numbers: hit@1, and the reciprocal rank of the
    right passage; passages of equal contribution share their ranks. Besides: how often the model gives the answer's
    first token (of the model, the same for every method). The answer's first token is what is explained.

    The dataset must be [`PlantedAnswer`]s and the model a causal language model.

    Args:
        contrast (`bool`, defaults to `False`): explain the answer against the foil, where there is one.
        batch_size (`int`, defaults to 32): texts in one forward.

    Example:
        >>> from bcos_peft.evaluation import PassageAttribution
        >>> list(PassageAttribution().values)
        ['passage_hit', 'passage_mrr', 'answer_given']
    """

    name = "passage_attribution"
    values = {
        "passage_hit": Value("Passage hit@1", True),
        "passage_mrr": Value("Passage MRR", True),
        "answer_given": Value("Answer given"),
    }

    def __init__(self, contrast: bool = False, batch_size: int = 32):
        valid_count("batch_size", batch_size, least=1)
        self.contrast, self._batch_size = contrast, batch_size

    def examples(self, texts: Texts) -> list[Example]:
        """One for each prompt. A prompt that is too long is refused: cut, it could lack its answer."""
        check_language_model(texts.model, self.name)
        found = []
        keys = unique_keys([key_of(row) for row in texts.items])
        for i, (key, row) in enumerate(zip(keys, texts.items, strict=True)):
            if not isinstance(row, PlantedAnswer):
                raise TypeError(
                    f"passage_attribution needs PlantedAnswer rows, but dataset[{i}] is a {type(row).__name__}."
                )
            foil = row.foil if self.contrast else None
            for word in (row.answer, foil):
                long = word is not None and too_long(texts, f"{row.prompt} {word}")
                if long:
                    raise ValueError(
                        f"dataset[{i}] has {long}. Shorten it or leave it out: a prompt that is cut could lack its "
                        "answer."
                    )
            question = next_word(texts, row.prompt, row.answer, foil, f"dataset[{i}]")
            if question is None:
                raise ValueError(f"dataset[{i}]: in this tokenizer {row.answer!r} cannot follow the prompt.")
            whole = f"{row.prompt} {row.answer}"
            offsets = texts.tokenize(whole).offsets[: len(question)]
            weights = torch.tensor(shares(whole, offsets, row.passages), dtype=torch.float64)
            if bool((weights.sum(1) == 0).any()):
                raise ValueError(f"dataset[{i}] has a passage without a token.")
            size = len(row.passages)
            chance = {"passage_hit": 1 / size, "passage_mrr": sum(1 / k for k in range(1, size + 1)) / size}
            found.append(Example(key, whole, (question,), (weights, row.gold), chance))
        return found

    def measure(
        self, model: nn.Module, examples: Sequence[Example], scores: Sequence[list[Tensor]], method: Method
    ) -> list[dict[str, Any]]:
        """hit@1, reciprocal rank, whether the model answers, and each passage's contribution."""
        questions = [example.questions[0] for example in examples]
        likely = probabilities(model, questions, batch_size=self._batch_size).argmax(1).tolist()
        rows = []
        for example, question, (values,), best in zip(examples, questions, scores, likely, strict=True):
            weights, gold = example.data
            sums = weights @ values.double()
            right = torch.arange(len(sums)) == gold
            first = sums == sums.max()
            rows.append(
                {
                    "passage_hit": float(first[gold]) / int(first.sum()),
                    "passage_mrr": expected_reciprocal_rank(sums, right),
                    "answer_given": float(best == question.target),
                    "contributions": sums.tolist(),
                }
            )
        return rows
