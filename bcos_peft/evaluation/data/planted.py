"""Prompts with passages, one of which has the answer."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from bcos_peft._utils.arguments import checked_arguments
from bcos_peft.text import refuse_overlap


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


@checked_arguments
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
