"""From an explained generation to its `GenerationView`: units of text, and a step for each generated one."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bcos_peft.explanation.generation_contributions import _GenerationReadings
from bcos_peft.explanation.text_layout import (
    _AVERAGE_WORDS,
    _CONSTANTS,
    _passage_of,
    _share_a_character,
    _sharing_lines,
)
from bcos_peft.explanation.views import (
    GenerationView,
    Row,
    Step,
    Unit,
    is_exact,
    label_text,
    printable,
    strength_of,
    visible,
)
from bcos_peft.text import BASELINE, CONSTANTS, REST, Span, group_tokens, strip_span


def _layout_generation(
    found: _GenerationReadings, segments: Mapping[str, Span | str] | None = None, top: int = 5
) -> GenerationView:
    """Lays out an explained generation.

    Args:
        found (`_GenerationReadings`): What to show.
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
    return GenerationView(prompt, answer, steps, build.whole(), found.foils is not None, found.note)


def _groups(found: _GenerationReadings) -> list[list[int]]:
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
        shared = _share_a_character(found.offsets[i - 1], found.offsets[i])
        if shared and i > found.prompt_length and not found.special[i]:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


class _Text:
    """Puts the groups back into the text, with the characters between them."""

    def __init__(self, found: _GenerationReadings, groups: list[list[int]]) -> None:
        self.found, self.groups, self.cursor = found, groups, 0
        marked = zip(found.offsets, found.special, strict=True)
        special = [place for place, flag in marked if flag and place is not None]
        self.apart = _sharing_lines(found.text, (found.segments or {}).values(), special)

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
            kind, step = "special" if special else "word", steps if generated else None
            line.append(Unit(text, kind, tuple(group), step, None if generated else self._passage(group)))
            steps += generated
        return prompt, answer

    def _passage(self, group: list[int]) -> int | None:
        places = [self.found.offsets[i] for i in group if self.found.offsets[i] is not None]
        if not places:
            return None
        whole = min(place[0] for place in places), max(place[1] for place in places)
        return _passage_of(strip_span(self.found.text, whole), self.apart)

    def _text(self, group: list[int], line: list[Unit]) -> str:
        places = [self.found.offsets[i] for i in group if self.found.offsets[i] is not None]
        whole = self.found.text
        if not places:
            return printable("".join(self.found.tokens[i] for i in group))
        start, end = min(place[0] for place in places), max(place[1] for place in places)
        inner = strip_span(whole, (start, end))
        start, end = inner if inner[0] < inner[1] else (start, end)
        if self.cursor < start:
            before = self.cursor, start
            passage = None if group[0] >= self.found.prompt_length else _passage_of(before, self.apart)
            line.append(Unit(printable(whole[self.cursor : start]), "space", passage=passage))
        shown = whole[max(start, self.cursor) : end]
        self.cursor = max(self.cursor, end)
        if shown and not shown.isspace():
            return printable(shown)
        if not shown:
            return printable(visible("".join(self.found.tokens[i] for i in group)))
        return "".join("↵\n" if character == "\n" else visible(character) for character in shown)


class _Steps:
    """Makes steps from scores by unit, `(generated, units)`, and by passage."""

    def __init__(self, found: _GenerationReadings, units: list[Unit], scores: np.ndarray, sums, top: int) -> None:
        self.found, self.units, self.scores, self.sums, self.top = found, units, scores, sums, max(0, top)
        self.special = np.array([unit.kind == "special" for unit in units])

    def step(self, unit: Unit) -> Step:
        first, last = (index - self.found.prompt_length for index in (unit.tokens[0], unit.tokens[-1]))
        foil = None if self.found.foils is None else label_text(self.found.labels[self.found.foils[first]])
        return self._build(first, last + 1, self._name(unit, spaces=True), foil)

    def _name(self, unit: Unit, spaces: bool = False) -> str:
        """What a unit is called: its text on one line; where it is compared with others, with the space in front."""
        places = [self.found.offsets[i] for i in unit.tokens if self.found.offsets[i] is not None]
        written = self.found.text[min(p[0] for p in places) : max(p[1] for p in places)] if places else ""
        as_written = written and unit.kind != "special" and (spaces or written.isspace())
        return label_text(written if as_written else unit.text)

    def whole(self) -> Step:
        compared = self.found.foils is not None
        return self._build(0, len(self.found), "the whole answer", "the runners-up" if compared else None)

    def _build(self, first: int, last: int, label: str, foil: str | None) -> Step:
        found, scores = self.found, self.scores[first:last].sum(0)
        plain = np.where(self.special, 0.0, scores)
        scale = float(np.abs(plain if plain.any() else scores).max(initial=0.0))
        strengths = np.clip(scores / scale, -1, 1) if scale > 0 else np.zeros_like(scores)
        logit, residual = float(found.logits[first:last].sum()), float(found.residuals[first:last].sum())
        return Step(
            label=label,
            foil=foil,
            probability=float(found.probabilities[first:last].prod()),
            logit=logit,
            residual=residual,
            exact=is_exact(residual, logit, scores),
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
        rows = [Row(self._name(self.units[i]), float(scores[i]), float(strengths[i]), "top") for i in ranked]
        scale = float(np.abs(scores[plain]).max(initial=0.0)) if plain else 0.0

        def together(label: str, total: float, kind: str) -> Row:
            return Row(label, total, strength_of(total, scale), kind)

        chosen = set(ranked)
        if others := [i for i in plain if i not in chosen]:
            label = f"{len(others)} other{'s' if len(others) > 1 else ''}"
            rows.append(together(label, float(scores[others].sum()), "rest"))
        if special := [i for i in before if self.special[i]]:
            rows.append(together("special tokens", float(scores[special].sum()), "special"))
        if self.found.baselines is not None:
            rows.append(together(_AVERAGE_WORDS, float(self.found.baselines[first:last].sum()), "rest"))
        if self.found.constants is not None:
            rows.append(together(_CONSTANTS, float(self.found.constants[first:last].sum()), "rest"))
        return rows

    def _passages(self, first: int, last: int) -> list[Row]:
        if self.sums is None:
            return []
        values = {name: float(row[first:last].sum()) for name, row in self.sums.items()}
        scale = max(map(abs, values.values()))
        labels = {name: (label_text(name), "passage") for name in values} | {REST: (REST, "rest")}
        if self.found.baselines is not None:
            labels[BASELINE] = (_AVERAGE_WORDS, "rest")
        if self.found.constants is not None:
            labels[CONSTANTS] = (_CONSTANTS, "rest")
        return [
            Row(labels[name][0], value, strength_of(value, scale), labels[name][1]) for name, value in values.items()
        ]
