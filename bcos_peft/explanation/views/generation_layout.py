"""What terminal and HTML both show of an explained generation. Only strings and numbers come out of here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bcos_peft.explanation.generation import GenerationExplanation
from bcos_peft.explanation.views.layout import AVERAGE_WORDS, Row
from bcos_peft.explanation.views.text import format_score, label_text, printable, visible
from bcos_peft.text.segments import BASELINE, REST
from bcos_peft.text.words import Span, group_tokens, strip_span


_TOLERANCE = 0.01  # residual, relative to the scores, from which a step is called inexact


@dataclass(frozen=True)
class Unit:
    """A stretch of text to print in one colour: a word of the prompt, or a generated token.

    Args:
        text (`str`): The characters, free of control characters.
        kind (`str`): "word", "special" or "space" (what lies between).
        tokens (`tuple[int, ...]`): The tokens it is made of; none for a space.
        step (`int`, *optional*): The number of its `Step`; `None` in the prompt.
    """

    text: str
    kind: str
    tokens: tuple[int, ...] = ()
    step: int | None = None


@dataclass(frozen=True)
class Step:
    """One generated unit of text, or the whole answer.

    Args:
        label (`str`): What was generated.
        foil (`str`, *optional*): What it is compared with.
        probability (`float`): 0 to 1.
        logit (`float`): The explained value, in logit units.
        residual (`float`): The logit less all contributions.
        exact (`bool`): Whether the contributions sum to the logit.
        strengths (`np.ndarray`): `(units that have tokens,)`, -1 to 1, relative to the largest of the step.
        scale (`float`): The contribution that has strength 1.
        sources (`list[Row]`): The largest contributions, the others together, special tokens, the baseline; they sum
            to the total.
        passages (`list[Row]`): Sums by segment, the rest, and the baseline.
    """

    label: str
    foil: str | None
    probability: float
    logit: float
    residual: float
    exact: bool
    strengths: np.ndarray
    scale: float
    sources: list[Row]
    passages: list[Row]

    def number(self, value: float) -> str:
        """A contribution as text, with as many decimals as the largest one needs."""
        return format_score(value, self.scale)


@dataclass(frozen=True)
class GenerationView:
    """An explained generation, laid out.

    Args:
        prompt (`list[Unit]`): The text before the answer.
        answer (`list[Unit]`): The generated text.
        steps (`list[Step]`): One for each unit of the answer that has tokens.
        whole (`Step`): The answer as one.
        compared (`bool`): Whether logits are differences.
    """

    prompt: list[Unit]
    answer: list[Unit]
    steps: list[Step]
    whole: Step
    compared: bool

    @property
    def logit_name(self) -> str:
        """What the contributions sum to."""
        return "logit difference" if self.compared else "logit"


def layout_generation(
    found: GenerationExplanation, segments: Mapping[str, Span | str] | None = None, top: int = 5
) -> GenerationView:
    """Lays out an explained generation.

    Args:
        found (`GenerationExplanation`): What to show.
        segments (`Mapping[str, tuple[int, int] | str]`, *optional*): Passages, as in `by_segment`; by default those
            that the prompt has by itself.
        top (`int`, defaults to 5): How many contributions get a row of their own in each step.

    Returns:
        `GenerationView`: Strings and numbers only.

    Raises:
        ValueError: If a segment cannot be placed.
    """
    groups = _groups(found)
    prompt, answer = _Text(found, groups).units()
    units = [unit for unit in (*prompt, *answer) if unit.tokens]
    member = np.zeros((len(units), len(found.tokens)))
    for number, unit in enumerate(units):
        member[number, list(unit.tokens)] = 1.0
    sums = None
    if segments is not None or found.segments is not None:
        sums = found.by_segment(segments)
    build = _Steps(found, units, found.scores @ member.T, sums, top)
    steps = [build.step(unit) for unit in answer if unit.tokens]
    return GenerationView(prompt, answer, steps, build.whole(), found.foils is not None)


def _groups(found: GenerationExplanation) -> list[list[int]]:
    """Tokens that make one unit: the words of the prompt; generated tokens alone, unless they share a character."""
    before = range(found.prompt_length)
    places = [found.offsets[i] for i in before]
    words = group_tokens(
        [found.text], places, [None if place is None else 0 for place in places], [found.special[i] for i in before]
    )
    groups: list[list[int]] = []
    last: object = None
    for i, word in enumerate(words):
        if word is not None and word == last:
            groups[-1].append(i)
        else:
            groups.append([i])
        last = word
    for i in range(found.prompt_length, len(found.tokens)):
        one, two = found.offsets[i - 1], found.offsets[i]
        shared = one and two and one[0] < two[1] and two[0] < one[1]
        if shared and i > found.prompt_length and not found.special[i]:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


class _Text:
    """Puts the groups back into the text, with the characters between them."""

    def __init__(self, found: GenerationExplanation, groups: list[list[int]]) -> None:
        self.found, self.groups, self.cursor = found, groups, 0

    def units(self) -> tuple[list[Unit], list[Unit]]:
        prompt: list[Unit] = []
        answer: list[Unit] = []
        steps = 0
        for group in self.groups:
            generated = group[0] >= self.found.prompt_length
            line = answer if generated else prompt
            if generated and self.cursor < self.found.prompt_end:  # white space at the end of the prompt
                prompt.append(Unit(printable(self.found.text[self.cursor : self.found.prompt_end]), "space"))
                self.cursor = self.found.prompt_end
            text = self._text(group, line)
            special = self.found.special[group[0]]
            line.append(Unit(text, "special" if special else "word", tuple(group), steps if generated else None))
            steps += generated
        return prompt, answer

    def _text(self, group: list[int], line: list[Unit]) -> str:
        places = [self.found.offsets[i] for i in group if self.found.offsets[i] is not None]
        whole = self.found.text
        if not places:
            return printable("".join(self.found.tokens[i] for i in group))
        start, end = min(place[0] for place in places), max(place[1] for place in places)
        inner = strip_span(whole, (start, end))
        start, end = inner if inner[0] < inner[1] else (start, end)
        if self.cursor < start:
            line.append(Unit(printable(whole[self.cursor : start]), "space"))
        shown = whole[max(start, self.cursor) : end]
        self.cursor = max(self.cursor, end)
        if shown and not shown.isspace():
            return printable(shown)
        if not shown:
            return printable(visible("".join(self.found.tokens[i] for i in group)))
        return "".join("↵\n" if character == "\n" else visible(character) for character in shown)


class _Steps:
    """Makes steps from scores by unit, `(generated, units)`, and by passage."""

    def __init__(self, found: GenerationExplanation, units: list[Unit], scores: np.ndarray, sums, top: int) -> None:
        self.found, self.units, self.scores, self.sums, self.top = found, units, scores, sums, max(0, top)
        self.special = np.array([unit.kind == "special" for unit in units])

    def step(self, unit: Unit) -> Step:
        first, last = (index - self.found.prompt_length for index in (unit.tokens[0], unit.tokens[-1]))
        foil = None if self.found.foils is None else label_text(self.found.labels[self.found.foils[first]])
        return self._build(first, last + 1, label_text(unit.text), foil)

    def whole(self) -> Step:
        compared = self.found.foils is not None
        return self._build(0, len(self.found), "the whole answer", "the runners-up" if compared else None)

    def _build(self, first: int, last: int, label: str, foil: str | None) -> Step:
        found, scores = self.found, self.scores[first:last].sum(0)
        plain = np.where(self.special, 0.0, scores)
        scale = float(np.abs(plain if plain.any() else scores).max(initial=0.0))
        strengths = np.clip(scores / scale, -1, 1) if scale > 0 else np.zeros_like(scores)
        logit, residual = float(found.logits[first:last].sum()), float(found.residuals[first:last].sum())
        size = max(abs(logit), float(np.abs(scores).sum()), 1e-12)
        return Step(
            label=label,
            foil=foil,
            probability=float(found.probabilities[first:last].prod()),
            logit=logit,
            residual=residual,
            exact=abs(residual) <= _TOLERANCE * size,
            strengths=strengths,
            scale=scale,
            sources=self._sources(scores, strengths, first, last),
            passages=self._passages(first, last),
        )

    def _sources(self, scores: np.ndarray, strengths: np.ndarray, first: int, last: int) -> list[Row]:
        end = self.found.prompt_length + last - 1
        before = [i for i, unit in enumerate(self.units) if unit.tokens[0] < end]
        plain = [i for i in before if not self.special[i]]
        ranked = sorted(plain, key=lambda i: -abs(scores[i]))[: self.top]
        rows = [Row(label_text(self.units[i].text), float(scores[i]), float(strengths[i]), "top") for i in ranked]
        scale = float(np.abs(scores[plain]).max(initial=0.0)) if plain else 0.0

        def together(label: str, total: float, kind: str) -> Row:
            return Row(label, total, max(-1.0, min(1.0, total / scale)) if scale > 0 else 0.0, kind)

        chosen = set(ranked)
        if others := [i for i in plain if i not in chosen]:
            label = f"{len(others)} other{'s' if len(others) > 1 else ''}"
            rows.append(together(label, float(scores[others].sum()), "rest"))
        if special := [i for i in before if self.special[i]]:
            rows.append(together("special tokens", float(scores[special].sum()), "special"))
        if self.found.baselines is not None:
            rows.append(together(AVERAGE_WORDS, float(self.found.baselines[first:last].sum()), "rest"))
        return rows

    def _passages(self, first: int, last: int) -> list[Row]:
        if self.sums is None:
            return []
        values = {name: float(row[first:last].sum()) for name, row in self.sums.items()}
        scale = max(map(abs, values.values()))
        labels = {name: (label_text(name), "passage") for name in values} | {REST: (REST, "rest")}
        if self.found.baselines is not None:
            labels[BASELINE] = (AVERAGE_WORDS, "rest")
        return [
            Row(labels[name][0], value, value / scale if scale > 0 else 0.0, labels[name][1])
            for name, value in values.items()
        ]
