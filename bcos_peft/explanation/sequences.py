"""Prompts whose next tokens are explained: in batches, and what comes out as explanations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bcos_peft.explanation.explanation import Explanation
from bcos_peft.explanation.generation import _ANSWER, GenerationExplanation
from bcos_peft.explanation.prompts import _Prompt
from bcos_peft.text import special_ids, spell_on


# Of all sequences of a batch together: what the layers keep for the backward pass grows with them.
_TOKENS_IN_A_BATCH = {"cpu": 4096}
_TOKENS_IN_A_BATCH_ELSEWHERE = 16384


@dataclass(frozen=True)
class _Task:
    """A prompt, and what of it is explained: one place with its `targets`, or each token of an `answer`.

    `foils` are those of `attribute_sequence`.
    """

    prompt: _Prompt
    targets: list[int] | None = None
    foils: Any = None
    answer: list[int] | None = None

    @property
    def ids(self) -> list[int]:
        """What the model reads: nothing is asked after the last token."""
        return [*self.prompt.encoding.input_ids, *(self.answer or [])[:-1]]

    @property
    def places(self) -> range:
        """Where the explained tokens come next."""
        return range(len(self.prompt.encoding.input_ids) - 1, len(self.ids))

    @property
    def wanted(self) -> list[list[int] | None]:
        """The targets of each place."""
        return [self.targets] if self.answer is None else [[token] for token in self.answer]


def _batches_of(tasks: Sequence[_Task], size: int, device: torch.device) -> list[list[int]]:
    """Numbers of tasks that share a forward pass: of like length, the longest first, where memory may run out."""
    most = _TOKENS_IN_A_BATCH.get(device.type, _TOKENS_IN_A_BATCH_ELSEWHERE)
    lengths = [len(task.ids) for task in tasks]
    batches: list[list[int]] = []
    for i in sorted(range(len(tasks)), key=lambda i: -lengths[i]):
        last = batches[-1] if batches else []
        if last and len(last) < size and (len(last) + 1) * lengths[last[0]] <= most:
            last.append(i)
        else:
            batches.append([i])
    return batches


def _explained(task: _Task, result, tokenizer, labels) -> Explanation | GenerationExplanation:
    return (_next_token if task.answer is None else _answer)(task, result, tokenizer, labels)


def _next_token(task: _Task, result, tokenizer, labels) -> Explanation:
    encoding = task.prompt.encoding
    targets, foils, predicted = result.targets[0], result.foils[0], int(result.predicted[0])

    def names(tokens: list[int]) -> str:
        return " | ".join(labels.name(token, encoding.input_ids) for token in tokens)

    return Explanation(
        tokens=tokenizer.convert_ids_to_tokens(encoding.input_ids),
        scores=result.scores[0].cpu().double().numpy(),
        text=encoding.text,
        offsets=encoding.offsets,
        sequence_ids=encoding.sequence_ids,
        special=encoding.special,
        token_ids=encoding.input_ids,
        target=targets[0],
        target_label=names(targets),
        predicted=predicted,
        predicted_label=names([predicted]),
        logit=float(result.logit[0]),
        probability=float(result.probability[0]),
        foil=foils[0] if foils else None,
        foil_label=names(foils) if foils else None,
        position=len(encoding.input_ids) - 1,
        segments=task.prompt.segments or None,  # of messages without text there are none
        target_ids=targets if len(targets) > 1 else None,
        foil_ids=foils if len(foils) > 1 else None,
        baseline=None if result.baseline is None else float(result.baseline[0]),
        constants=None if result.constants is None else float(result.constants[0]),
        note=result.note,
    )


@dataclass(frozen=True)
class _Written:
    """A prompt and its answer as they were written: fields of `GenerationExplanation` that need no model."""

    text: str
    tokens: list[str]
    token_ids: list[int]
    offsets: list[tuple[int, int] | None]
    special: list[bool]
    prompt_length: int
    segments: dict[str, tuple[int, int]] | None


def _written(prompt: _Prompt, answer: list[int], tokenizer) -> _Written:
    before = prompt.encoding.input_ids
    ids = [*before, *answer]
    text, spans = spell_on(before, answer, tokenizer)
    start = len(prompt.text)
    special = special_ids(tokenizer)
    shown = [span for span, token in zip(spans, answer, strict=True) if token not in special and span[0] < span[1]]
    segments = dict(prompt.segments)
    if shown:
        segments[_ANSWER] = (start + shown[0][0], start + shown[-1][1])
    return _Written(
        text=prompt.text + text,
        tokens=tokenizer.convert_ids_to_tokens(ids),
        token_ids=ids,
        offsets=[*prompt.encoding.offsets, *((low + start, high + start) for low, high in spans)],
        special=[*prompt.encoding.special, *(token in special for token in answer)],
        prompt_length=len(before),
        segments=segments or None,
    )


def _answer(task: _Task, result, tokenizer, labels) -> GenerationExplanation:
    answer, before = task.answer, task.prompt.encoding.input_ids
    predicted = result.predicted.tolist()
    foils = [row[0] for row in result.foils] if all(result.foils) else None
    return GenerationExplanation(
        **vars(_written(task.prompt, answer, tokenizer)),
        scores=[row[: len(before) + i] for i, row in enumerate(result.scores.cpu().double().numpy())],
        logits=result.logit.cpu().double().numpy(),
        probabilities=result.probability.cpu().double().numpy(),
        predicted=predicted,
        labels={token: labels.name(token, before) for token in {*answer, *predicted, *(foils or [])}},
        foils=foils,
        baselines=None if result.baseline is None else result.baseline.cpu().double().numpy(),
        constants=None if result.constants is None else result.constants.cpu().double().numpy(),
        note=result.note,
    )
