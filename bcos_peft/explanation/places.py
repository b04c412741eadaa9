"""Where in a text a model's outputs are looked at: one token, an entity, the answer to a question."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral
from typing import Any

from bcos_peft.attribution import Attribution
from bcos_peft.explanation.checks import _checked_span
from bcos_peft.explanation.targets import Alternatives
from bcos_peft.models import Labels, family_of
from bcos_peft.text import Encoding, Span, plain, special_ids, strip_span


class _Places:
    """Reads positions and spans for a model, and says where to look when none are given.

    Args:
        labels (`Labels`): Of a converted model.
        tokenizer: The model's tokenizer.
    """

    def __init__(self, labels: Labels, tokenizer) -> None:
        self.labels, self.tokenizer = labels, tokenizer
        self.of_answers = labels.of_answers
        self.per_token = self.of_answers or type(labels.model).__name__.endswith("ForTokenClassification")
        self.of_blanks = labels.of_tokens and not family_of(labels.model).causal

    def positions(self, value: Any, encodings: list[Encoding], names: list[str]) -> list[int | None]:
        """For each text a token, as given, or None; of a masked language model's the mask.

        Raises:
            TypeError: A position is no number.
            ValueError: There is no such token, or there are several masks.
        """
        given = _one_each(value, "position", len(encodings))
        return [self._position(*row) for row in zip(given, encodings, names, strict=True)]

    def _position(self, value: Any, encoding: Encoding, where: str) -> int | None:
        if value is not None:
            if not isinstance(value, Integral) or isinstance(value, bool):
                raise TypeError(f"position must be the index of a token, got {value!r} for {where}.")
            if not 0 <= value < len(encoding.input_ids):
                raise ValueError(
                    f"position={value} is no token of {where}, which has {len(encoding.input_ids)}; count from 0."
                )
            return int(value)
        mask = self.tokenizer.mask_token_id
        if not self.of_blanks or mask is None:
            return None
        found = [i for i, token in enumerate(encoding.input_ids) if token == mask]
        if len(found) > 1:
            raise ValueError(f"{where} has mask tokens at {found}: say with position=... which one to explain.")
        return found[0] if found else None

    def spans(self, value: Any, encodings: list[Encoding], names: list[str]) -> list[Span | None]:
        """For each text the tokens, `(first, stop)`, of a stretch of characters or a substring, or None.

        Raises:
            TypeError: A span is of the wrong kind.
            ValueError: The model has no outputs for tokens, or there is no such place.
        """
        if value is not None and not self.per_token:
            raise ValueError(
                f"span={value!r} given, but {type(self.labels.model).__name__} neither labels tokens nor answers "
                "questions. Leave it out; what words contribute, Explanation.spans tells."
            )
        value = plain(value)
        one = isinstance(value, (tuple, list)) and len(value) == 2 and all(isinstance(end, Integral) for end in value)
        given = [value] * len(encodings) if one else _one_each(value, "span", len(encodings))
        return [None if row[0] is None else self._span(*row) for row in zip(given, encodings, names, strict=True)]

    def _span(self, value: Any, encoding: Encoding, where: str) -> Span:
        pair = isinstance(value, (tuple, list)) and len(value) == 2
        if not isinstance(value, str) and not (pair and all(type(plain(end)) is int for end in value)):
            raise TypeError(f"span must be characters (start, end) or a substring, got {value!r} for {where}.")
        texts = (encoding.text,) if isinstance(encoding.text, str) else encoding.text
        sequence = len(texts) - 1 if self.of_answers else 0
        if len(texts) == 2 and not self.of_answers:
            if not isinstance(value, str):
                raise ValueError(f"span={value!r} may be in either text of {where}; give a substring instead.")
            sequence = int(value not in texts[0])
            if value in texts[0] and value in texts[1]:
                raise ValueError(f"span={value!r} occurs in both texts of {where}; give position=... of a token.")
        try:
            low, high = _checked_span(texts[sequence], value)
        except ValueError as error:
            raise ValueError(f"span of {where}: {error}") from None
        inside = [
            i
            for i, place in enumerate(encoding.offsets)
            if place is not None and encoding.sequence_ids[i] == sequence and not encoding.special[i]
            if (inked := strip_span(texts[sequence], place))[0] < high and low < inked[1]
        ]
        if not inside:
            raise ValueError(f"span={value!r} of {where} holds no token that the model reads.")
        return inside[0], inside[-1] + 1

    def candidates(self, encoding: Encoding, answer: bool, where: str) -> list[bool]:
        """The tokens of which one may be chosen where none is given: none that are special, and for an answer those of
        the context, which is the last text.

        Raises:
            ValueError: The context is empty.
        """
        last = 0 if isinstance(encoding.text, str) else 1
        written = special_ids(self.tokenizer)
        found = [
            not special and not (answer and sequence != last)
            for special, sequence in zip(encoding.special, encoding.sequence_ids, strict=True)
        ]
        if answer and not any(found):
            raise ValueError(f"{where} has a question and no context, which an answer is a part of.")
        plainly = [
            inside and token not in written for inside, token in zip(found, encoding.input_ids, strict=True)
        ]  # special tokens may be written in a text
        return plainly if any(plainly) else found


def _text_between(encoding: Encoding, span: Span) -> str:
    """The text from the first to the last token of a span."""
    sequence = encoding.sequence_ids[span[0]]
    text = encoding.text if isinstance(encoding.text, str) else encoding.text[sequence]
    places = [place for place in encoding.offsets[span[0] : span[1]] if place is not None]
    low, high = strip_span(text, (min(place[0] for place in places), max(place[1] for place in places)))
    return text[low:high]


def _one_each(value: Any, name: str, count: int) -> list:
    """A choice for each text, from one for all or a list."""
    value = plain(value)
    if value is None or isinstance(value, (str, Integral, Alternatives)) or not isinstance(value, Iterable):
        return [value] * count
    values = [plain(entry) for entry in value]
    if len(values) != count:
        raise ValueError(f"{name} has {len(values)} entries for {count} texts; give one for all, or one for each.")
    return values


def _check_choices(
    targets: list, foils: list, positions: list, spans: list, answers: list[bool], of_answers: bool, names: list[str]
) -> None:
    """Raises `ValueError` for choices that do not go together."""
    for target, foil, position, span, answer, name in zip(
        targets, foils, positions, spans, answers, names, strict=True
    ):
        if answer and foil is not None:
            raise ValueError(
                f"foil given for {name}, and what is explained is its answer, start and end together. Leave the foil "
                "out, or say with target='start' or target='end' what it is compared with."
            )
        if span is not None and position is not None:
            raise ValueError(f"position and span given for {name}; give one token, or several.")
        if span is not None and of_answers and target is not None:
            raise ValueError(
                f"target given for {name} beside span, which is an answer, start and end together. Leave one out."
            )


def _padded(rows: list[list[bool]]) -> list[list[bool]]:
    """Rows of one length: what is added on the right is padding, and false."""
    length = max(map(len, rows))
    return [row + [False] * (length - len(row)) for row in rows]


def _named(
    labels: Labels,
    encoding: Encoding,
    result: Attribution,
    at: tuple[int, ...],
    target: int,
    predicted: int,
    after: list[int] | None,
) -> dict[str, Any]:
    """What is explained by name, and the tokens whose outputs it is of."""
    row = at[0]
    names = {"target_label": target, "predicted_label": predicted}
    fields = {name: labels.name(number, after) for name, number in names.items()}
    if result.span is None:
        position = result.position
        if position is not None:
            fields["position"] = int(position[row] if position.dim() == 1 else position[at])
        return fields
    first, stop = result.span[row].tolist()
    fields["position"] = first
    if result.best_span is None:
        return fields | ({"positions": list(range(first, stop))} if stop - first > 1 else {})
    answers = [_text_between(encoding, tuple(span[row].tolist())) for span in (result.span, result.best_span)]
    return fields | {
        "positions": [first, stop - 1],
        "target_ids": [0, 1],  # the start, and the end
        "target_label": answers[0],
        "predicted_label": answers[1],
    }
