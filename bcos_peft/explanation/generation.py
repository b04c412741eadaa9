"""What an explained generation is: each generated token, and what every token before it contributed. Pure data."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np

from bcos_peft._utils.arguments import checked_arguments
from bcos_peft._utils.files import write_text
from bcos_peft._utils.kept import Kept
from bcos_peft.explanation.checks import _checked_generation
from bcos_peft.explanation.explanation import Explanation
from bcos_peft.explanation.generation_contributions import _GenerationReadings
from bcos_peft.explanation.render import _render_generation_frame, render_generation_html, show_generation


if TYPE_CHECKING:
    from rich.console import Console

_ANSWER = "answer"  # the segment of the generated text


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class GenerationExplanation(_GenerationReadings, Kept):
    """A text that a language model went on with: for each generated token, the contributions of all before it.

    Row `i` of `scores` and `residuals[i]` (and `baselines[i]`, where words were compared with an average one) add up
    to `logits[i]`. With foils (the default: the runner-up of each step) that is the difference of two logits: what
    spoke for this token rather than the other one.

    Indexing gives one generated token as an [`Explanation`], and so does `summed` for several together; they have
    words, spans, views and files.

    Args:
        text (`str`): Prompt and generated text as the model read them, special tokens included.
        tokens (`list[str]`): All tokens as the tokenizer writes them, without padding: the prompt's, then the others.
        token_ids (`list[int]`): Their vocabulary ids.
        offsets (`list[tuple[int, int] | None]`): Their character spans in `text`; `None` if it has none.
        special (`list[bool]`): Which tokens are special.
        prompt_length (`int`): How many tokens are the prompt's.
        scores (`np.ndarray`): float64 of shape `(generated, tokens)`, in logit units; 0 from the token itself on.
        logits (`np.ndarray`): float64 of shape `(generated,)`, the explained logits, or differences of two.
        probabilities (`np.ndarray`): `(generated,)`, of each generated token, 0 to 1, at temperature 1.
        predicted (`list[int]`): For each step the token with the largest logit; another one after sampling.
        labels (`dict[int, str]`): The text of each id in `predicted`, `foils` and of the generated tokens.
        foils (`list[int]`, *optional*): What each token is compared with; `None` for plain logits.
        residuals (`np.ndarray`, *optional*): `logits - scores.sum(1)`, less the baselines; computed when not given.
        segments (`dict[str, tuple[int, int]]`, *optional*): Named spans of `text`: the prompt or the messages of a
            chat, and `"answer"`, the generated text.
        constants (`np.ndarray`, *optional*): `(generated,)`, what belongs to no token: of a stock model its biases.
        note (`str`, *optional*): What a reader should know: of experimental architectures, what is held.
        baselines (`np.ndarray`, *optional*): `(generated,)`, what average words would give in the place of all before,
            in logit units; `None` where scores are not relative to them.

    Raises:
        ValueError: If lengths do not match, a number is not finite, or a span lies outside the text.

    Example:

    ```python
    >>> from bcos_peft import GenerationExplanation

    >>> explanation = GenerationExplanation(
    ...     text="one two three", tokens=["one", " two", " three"], token_ids=[4, 5, 6], prompt_length=1,
    ...     offsets=[(0, 3), (3, 7), (7, 13)], special=[False, False, False], scores=[[1.0, 0, 0], [0.5, 2.0, 0]],
    ...     logits=[1.0, 2.5], probabilities=[0.6, 0.9], predicted=[5, 6], labels={5: " two", 6: " three"},
    ... )
    >>> explanation.answer, explanation[1].top(1)[0].text
    (' two three', 'two')

    ```

    Source: B-cos LM (arXiv 2502.12992), section 3; contrastive form: Yin & Neubig (arXiv 2202.10419).
    """

    text: str
    tokens: list[str]
    token_ids: list[int]
    offsets: list[tuple[int, int] | None]
    special: list[bool]
    prompt_length: int
    scores: np.ndarray
    logits: np.ndarray
    probabilities: np.ndarray
    predicted: list[int]
    labels: dict[int, str]
    foils: list[int] | None = None
    residuals: np.ndarray | None = None
    segments: dict[str, tuple[int, int]] | None = None
    baselines: np.ndarray | None = None
    constants: np.ndarray | None = None
    note: str | None = None

    def __post_init__(self) -> None:
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for name, value in _checked_generation(fields).items():
            object.__setattr__(self, name, value)

    # ---- reading ----------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Explanation]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> Explanation:
        """The explanation of one generated token; negative numbers count from the end."""
        if not isinstance(index, Integral):
            raise TypeError(
                f"index must be the number of a token, got {index!r}; summed(start, stop) adds several up."
            )
        if not -len(self) <= index < len(self):
            raise IndexError(f"token {index} of {len(self)} generated tokens")
        return self._read(range(len(self))[index], range(len(self))[index] + 1)

    @checked_arguments
    def summed(self, start: int = 0, stop: int | None = None) -> Explanation:
        """The contributions to several generated tokens, added: by default to the whole answer.

        Args:
            start (`int`, defaults to 0): The first generated token.
            stop (`int`, *optional*): One past the last; all by default.

        Returns:
            [`Explanation`]: Its logit is the sum of their logits (or differences), and its probability that of all of
            them together. Generated tokens have contributions too: to those after them.

        Raises:
            ValueError: If there is no token between `start` and `stop`.
        """
        first, last, _ = slice(start, stop).indices(len(self))
        if first >= last:
            raise ValueError(f"start={start} and stop={stop} hold none of the {len(self)} generated tokens.")
        return self._read(first, last)

    def _read(self, first: int, last: int) -> Explanation:
        """The generated tokens from `first` to before `last`, added."""
        return _explain_together(
            self,
            first,
            last,
            labels=self.labels,
            predicted=self.predicted[first],
            foils=None if self.foils is None else self.foils[first:last],
            scores=self.scores[first:last].sum(0),
            logit=float(self.logits[first:last].sum()),
            probability=float(self.probabilities[first:last].prod()),
            residual=float(self.residuals[first:last].sum()),
            baseline=None if self.baselines is None else float(self.baselines[first:last].sum()),
            constants=None if self.constants is None else float(self.constants[first:last].sum()),
            note=self.note,
        )

    # ---- keeping ----------------------------------------------------------------------------------------------------

    _format, _version, _name, _indent = "bcos_peft.generation", 1, "explained generation", None

    def _plain(self) -> dict[str, Any]:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        rows = enumerate(self.scores.tolist())
        values["scores"] = [row[: self.prompt_length + i] for i, row in rows]  # what comes after is 0
        for name in ("logits", "probabilities", "residuals"):
            values[name] = values[name].tolist()
        values["offsets"] = [None if place is None else list(place) for place in self.offsets]
        values["labels"] = {str(number): label for number, label in self.labels.items()}
        if self.segments is not None:
            values["segments"] = {name: list(place) for name, place in self.segments.items()}
        if self.note is None:
            del values["note"]
        for name in ("baselines", "constants"):
            given = values.pop(name)
            if given is not None:
                values[name] = given.tolist()
        return values

    # ---- showing ----------------------------------------------------------------------------------------------------

    @checked_arguments
    def show(self, width: int | None = None, console: Console | None = None, top: int = 3, **kwargs) -> None:
        """Prints the explanation in the terminal; see [`show_generation`]."""
        show_generation(self, width=width, console=console, top=top, **kwargs)

    @checked_arguments
    def to_html(self, path: str | os.PathLike | None = None, **kwargs) -> str:
        """One self-contained HTML page, also written to `path` if given; see [`render_generation_html`]."""
        page = render_generation_html(self, **kwargs)
        if path is not None:
            write_text(path, page)
        return page

    def _repr_html_(self) -> str:
        return _render_generation_frame(self)

    def __repr__(self) -> str:
        worst = float(np.abs(self.residuals).max())
        compared = "" if self.foils is None else ", against the runners-up"
        return (
            f"GenerationExplanation({self.answer!r}, tokens={self.prompt_length} + {len(self)}{compared}, "
            f"largest residual={worst:.1e})"
        )


def _explain_together(
    written,
    first: int,
    last: int,
    labels: dict[int, str],
    foils: list[int] | None,
    against: str = "",
    **found,
) -> Explanation:
    """The explanation of the tokens of an answer from `first` to before `last` together.

    Args:
        written: prompt and answer, with the fields `text`, `tokens`, `token_ids`, `offsets`, `special`, `segments` and
            `prompt_length`.
        first: the number of the first of them in the answer.
        last: one past the last.
        labels: names of these tokens, of their foils and of what is predicted in the place of the first.
        foils: what each of these is compared with.
        against: the name of several foils; by default they are the runners-up.
        **found: further fields of `Explanation`; `scores` may go on beyond the last token that contributes.
    """
    end = written.prompt_length + last - 1  # what comes before the last of them
    targets = written.token_ids[written.prompt_length + first : end + 1]
    single = len(targets) == 1
    offsets = written.offsets[:end]
    cut = max((place[1] for place in offsets if place is not None), default=0)
    known = {name: (low, min(high, cut)) for name, (low, high) in (written.segments or {}).items() if low < cut}
    foil = None if foils is None else foils[0]
    foil_label = None if foil is None else labels[foil] if single else against or "the runners-up"
    predicted = found.pop("predicted")
    return Explanation(
        tokens=written.tokens[:end],
        scores=found.pop("scores")[:end],
        text=written.text[:cut],
        offsets=offsets,
        sequence_ids=[None if place is None else 0 for place in offsets],
        special=written.special[:end],
        token_ids=written.token_ids[:end],
        target=targets[0],
        target_label=_name_together(written, first, last, labels),
        predicted=predicted,
        predicted_label=labels[predicted],
        foil=foil,
        foil_label=foil_label,
        position=end - 1 if single else None,
        segments=known or None,
        target_ids=None if single else targets,
        foil_ids=None if single else foils,
        **found,
    )


def _name_together(written, first: int, last: int, labels: dict[int, str]) -> str:
    """Tokens of an answer by name; where they are parts of a character, the characters."""
    tokens = range(written.prompt_length + first, written.prompt_length + last)
    names = [labels[written.token_ids[i]] for i in tokens]
    places = [place for i in tokens if (place := written.offsets[i]) is not None]
    whole = all(name and "\N{REPLACEMENT CHARACTER}" not in name for name in names)
    return "".join(names) if whole or not places else written.text[places[0][0] : places[-1][1]]
