"""What an explanation is: tokens, their contributions to one logit, how to read, save and load them; and how those of
two pairs of texts differ. Pure data."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bcos_peft._utils.arguments import checked_arguments
from bcos_peft._utils.files import write_text
from bcos_peft._utils.kept import Kept
from bcos_peft.explanation.checks import _checked_fields
from bcos_peft.explanation.contribution import Contribution, _Readings
from bcos_peft.explanation.render import _render_fragment, render_html, show


if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Explanation(_Readings, Kept):
    """The contribution of every token of one text to one logit.

    The scores and the residual add up to the logit exactly: `sum(scores) + residual == logit`, with a `baseline`
    where words were compared with an average one: `sum(scores) + baseline + residual == logit`, and `constants` of a
    model that was not converted: `sum(scores) + constants + residual == logit`. For a converted model
    the residual is rounding error (B-cos networks, arXiv 2205.10268, section 3; B-cos LM, arXiv 2502.12992,
    section 3).

    Args:
        tokens (`list[str]`): Tokens in order, as the tokenizer writes them, without padding.
        scores (`np.ndarray`): float64 of shape `(n_tokens,)`, in logit units.
        text (`str` or `tuple[str, str]`): What was explained.
        offsets (`list[tuple[int, int] | None]`): Character span of each token in its text; `None` if it has none.
        sequence_ids (`list[int | None]`): 0 or 1, the text each token belongs to; `None` for special tokens.
        special (`list[bool]`): Which tokens are special.
        token_ids (`list[int]`): Vocabulary ids.
        target (`int`): The explained class (or vocabulary id).
        target_label (`str`): Its name.
        predicted (`int`): The class with the largest logit.
        predicted_label (`str`): Its name.
        logit (`float`): Logit of the target, or target minus foil.
        probability (`float`, *optional*): Probability of the target, 0 to 1; `None` where there is none (regression).
        foil (`int`, *optional*): The class that the target is compared with.
        foil_label (`str`, *optional*): Its name.
        residual (`float`, *optional*): `logit - sum(scores)`, less the baseline, in logit units; computed when not
            given.
        position (`int`, *optional*): The token whose output is explained (token-level tasks); of several the first.
        parts (`dict[str, np.ndarray]`, *optional*): Each token's score by source (word, position, token type).
        word_ids (`list[int | None]`, *optional*): Word of each token; made from `text` and `offsets` when not given.
        segments (`dict[str, tuple[int, int]]`, *optional*): Named spans of the text, such as the messages of a chat.
        target_ids (`list[int]`, *optional*): All explained tokens, where there are several: their logits add.
        foil_ids (`list[int]`, *optional*): All foils, where there are several: their mean is subtracted.
        baseline (`float`, *optional*): What average words would give in the place of all these, in logit units; `None`
            where scores are not relative to them.
        constants (`float`, *optional*): What belongs to no token, in logit units: of a stock model its biases; `None`
            of a converted one.
        positions (`list[int]`, *optional*): The tokens whose outputs are explained together, where there are several:
            those of an entity, or start and end of an answer (with `target_ids` 0 and 1, and the texts of the answers
            as labels).
        stayed (`float`, *optional*): With hops (`explain_span`) what the answer before the explained tokens still
            holds, the sum of `|score|` over it, in logit units; the rest was passed on.
        note (`str`, *optional*): What a reader should know: of experimental architectures, what is held.

    Raises:
        ValueError: If lengths do not match, a number is not finite, or a span lies outside its text.

    Example:

    ```python
    >>> from bcos_peft.explanation import Explanation

    >>> explanation = Explanation(
    ...     tokens=["[CLS]", "grip", "##ping", "[SEP]"], scores=[0.5, 1.0, 2.0, -0.5], text="gripping",
    ...     offsets=[None, (0, 4), (4, 8), None], sequence_ids=[None, 0, 0, None], special=[True, False, False, True],
    ...     token_ids=[101, 5, 6, 102], target=1, target_label="positive", predicted=1, predicted_label="positive",
    ...     logit=3.0, probability=0.95,
    ... )
    >>> explanation.words()[0].score
    3.0
    >>> explanation.by_segment({"praise": "gripping"})
    {'praise': 3.0, 'rest': 0.0}

    ```
    """

    tokens: list[str]
    scores: np.ndarray
    text: str | tuple[str, str]
    offsets: list[tuple[int, int] | None]
    sequence_ids: list[int | None]
    special: list[bool]
    token_ids: list[int]
    target: int
    target_label: str
    predicted: int
    predicted_label: str
    logit: float
    probability: float | None
    foil: int | None = None
    foil_label: str | None = None
    residual: float | None = None
    position: int | None = None
    parts: dict[str, np.ndarray] | None = None
    word_ids: list[int | None] | None = None
    segments: dict[str, tuple[int, int]] | None = None
    target_ids: list[int] | None = None
    foil_ids: list[int] | None = None
    baseline: float | None = None
    positions: list[int] | None = None
    constants: float | None = None
    note: str | None = None
    stayed: float | None = None

    def __post_init__(self) -> None:
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for name, value in _checked_fields(fields).items():
            object.__setattr__(self, name, value)

    # ---- keeping ----------------------------------------------------------------------------------------------------

    _format, _version, _name, _indent = "bcos_peft.explanation", 1, "explanation", 1

    def _plain(self) -> dict[str, Any]:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values["scores"] = self.scores.tolist()
        values["offsets"] = [None if span is None else list(span) for span in self.offsets]
        values["text"] = self.text if isinstance(self.text, str) else list(self.text)
        values["parts"] = None if self.parts is None else {name: part.tolist() for name, part in self.parts.items()}
        if self.segments is not None:
            values["segments"] = {name: list(span) for name, span in self.segments.items()}
        optional = ("segments", "target_ids", "foil_ids", "baseline", "positions", "constants", "stayed", "note")
        return {name: value for name, value in values.items() if value is not None or name not in optional}

    # ---- showing ----------------------------------------------------------------------------------------------------

    @checked_arguments
    def show(
        self,
        width: int | None = None,
        words: bool = True,
        console: Console | None = None,
        hide_special: bool = False,
        top: int = 5,
    ) -> None:
        """Prints the explanation in the terminal; see [`show`]."""
        show(self, width=width, words=words, console=console, hide_special=hide_special, top=top)

    @checked_arguments
    def to_html(
        self,
        path: str | os.PathLike | None = None,
        words: bool = True,
        hide_special: bool = False,
        top: int = 5,
    ) -> str:
        """One self-contained HTML page, also written to `path` if given; see [`render_html`]."""
        page = render_html(self, words=words, hide_special=hide_special, top=top)
        if path is not None:
            write_text(path, page)
        return page

    def _repr_html_(self) -> str:
        return _render_fragment(self)

    def __repr__(self) -> str:
        foil = "" if self.foil is None else f", foil={self.foil_label!r}"
        top = ", ".join(f"{piece.text!r} {piece.score:+.3g}" for piece in self.top(3, words=True))
        return (
            f"Explanation(target={self.target_label!r}{foil}, logit={self.logit:+.4g}, residual={self.residual:.1e}, "
            f"tokens={len(self.tokens)}, top: {top or 'nothing'})"
        )


@dataclass(frozen=True)
class PairDifference:
    """By how much one pair has a larger logit than another with the same first text, and what makes the difference.

    `Σ query + first − second + rest + residual == logit`.

    Attributes:
        query (`list[Contribution]`): the words of the text that both share, with the difference of what they add.
        first (`float`): what the tokens of the first pair's document add to its logit.
        second (`float`): what those of the second's add to the other.
        rest (`float`): the difference of everything else: special tokens, a baseline, constants.
        logit (`float`): the difference of the logits.
        residual (`float`): zero to rounding.

    Example:
        >>> from bcos_peft.explanation import PairDifference
        >>> PairDifference(query=[], first=2.0, second=0.5, rest=0.0, logit=1.5, residual=0.0).logit
        1.5
    """

    query: list[Contribution]
    first: float
    second: float
    rest: float
    logit: float
    residual: float


def pair_difference(first: Explanation, second: Explanation) -> PairDifference:
    """Why a reranker puts one document before another.

    Args:
        first ([`Explanation`]): of the query and a document.
        second ([`Explanation`]): of the same query and the runner-up.

    Returns:
        [`PairDifference`]

    Raises:
        ValueError: they are no explanations of pairs, or the queries, their tokens or the targets differ.

    Example:
        >>> from bcos_peft.explanation import Explanation, pair_difference
        >>> def pair(document, scores):
        ...     return Explanation(
        ...         tokens=["ships", document], scores=scores, text=("ships", document), token_ids=[1, 2],
        ...         offsets=[(0, 5), (0, len(document))], sequence_ids=[0, 1], special=[False, False], target=0,
        ...         target_label="fits", predicted=0, predicted_label="fits", logit=sum(scores), probability=None,
        ...     )
        >>> found = pair_difference(pair("boats", [1.0, 2.0]), pair("trees", [0.5, -1.0]))
        >>> [(word.text, word.score) for word in found.query], found.first, found.second, found.logit
        ([('ships', 0.5)], 2.0, -1.0, 3.5)
    """
    for one in (first, second):
        if isinstance(one.text, str):
            raise ValueError(f"pair_difference compares pairs of texts; {one.text[:60]!r} stands alone.")
    if first.text[0] != second.text[0]:
        raise ValueError(f"the first texts differ: {first.text[0][:60]!r} and {second.text[0][:60]!r}.")
    if first.target != second.target or first.foil != second.foil:
        raise ValueError(f"the targets differ: {first.target_label!r} and {second.target_label!r}.")
    one, other = (explanation.words() for explanation in (first, second))
    ours, theirs = ([word for word in words if word.sequence_id == 0] for words in (one, other))
    if [word.text for word in ours] != [word.text for word in theirs]:
        raise ValueError("the first text was cut where a document was long: pass documents that are shorter.")
    query = [
        Contribution(a.text, a.score - b.score, a.start, a.end, a.index, 0, False, a.token_indices)
        for a, b in zip(ours, theirs, strict=True)
    ]
    sums = [_sum_of(explanation, 1) for explanation in (first, second)]
    shared = [_sum_of(explanation, 0) for explanation in (first, second)]
    rest = first.total - shared[0] - sums[0] - (second.total - shared[1] - sums[1])
    return PairDifference(
        query=query,
        first=sums[0],
        second=sums[1],
        rest=rest,
        logit=first.logit - second.logit,
        residual=first.residual - second.residual,
    )


def _sum_of(explanation: Explanation, sequence: int) -> float:
    members = np.array([number == sequence for number in explanation.sequence_ids])
    return float(explanation.scores[members].sum())
