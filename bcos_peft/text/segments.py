"""Passages of a text and what the tokens in each contribute: the documents of a prompt, the turns of a chat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bcos_peft.text.words import Span, strip_span


REST = "rest"  # the name of whatever lies in no segment
BASELINE = "baseline"  # and of what average words would give, where scores are relative to it
CONSTANTS = "constants"  # and of what belongs to no token

_SHOWN = 5  # places that an error lists


def shares(text: str, offsets: Sequence[Span | None], spans: Sequence[Span]) -> np.ndarray:
    """How much of each token lies in each of some spans that do not overlap.

    A token counts with the span it overlaps, whole even if it reaches beyond it; one that overlaps several is divided
    among them in proportion to the characters each shares with it. White space at the ends of a token does not count.

    Args:
        text (`str`): The text that everything points into.
        offsets (`Sequence[tuple[int, int] | None]`): The place of each token; `None` if it has none there.
        spans (`Sequence[tuple[int, int]]`): Character spans.

    Returns:
        `np.ndarray`: float64 of shape `(spans, tokens)`; each column sums to 1, or to 0 outside all spans.

    Example:

    ```python
    >>> from bcos_peft.text import shares

    >>> shares("one two", [(0, 3), (3, 7)], [(0, 3), (4, 7)]).tolist()
    [[1.0, 0.0], [0.0, 1.0]]

    ```
    """
    found = np.zeros((len(spans), len(offsets)))
    lows, highs = np.array(spans, dtype=int).reshape(-1, 2).T
    for i, raw in enumerate(offsets):
        if raw is None:
            continue
        start, end = strip_span(text, raw)
        start, end = (start, end) if start < end else raw
        if start == end:  # an empty span lies in the span that holds its position
            shared = (lows <= start) & (start < highs)
        else:
            shared = np.maximum(0, np.minimum(end, highs) - np.maximum(start, lows))
        if shared.any():
            found[:, i] = shared / shared.sum()
    return found


def refuse_overlap(spans: Mapping[str, Span]) -> None:
    """Raises `ValueError` when two spans share a character; their keys name them."""
    ordered = sorted(spans.items(), key=lambda item: item[1])
    for (one, first), (two, second) in zip(ordered, ordered[1:], strict=False):
        if second[0] < first[1]:
            raise ValueError(
                f"{one} {first} and {two} {second} overlap, and a token would count twice; ask for them in separate "
                "calls."
            )


def place_segments(text: str, segments: Mapping[str, Span | str], first: int | None = None) -> dict[str, Span]:
    """The character span of each segment.

    Args:
        text (`str`): The text.
        segments (`Mapping[str, tuple[int, int] | str]`): By name, a span or a substring that occurs once.
        first (`int`, *optional*): How much of the text a substring is looked for in first: the prompt, which an answer
            may repeat. Only what does not occur there is looked for behind.

    Returns:
        `dict[str, tuple[int, int]]`: In the order given.

    Raises:
        TypeError: If it is not a mapping from names to spans or strings.
        ValueError: If a substring is missing or occurs more than once, a span is empty or lies outside the text, two
            segments overlap, or one is called "rest".

    Example:

    ```python
    >>> from bcos_peft.text import place_segments

    >>> place_segments("one two", {"first": "one", "second": (4, 7)})
    {'first': (0, 3), 'second': (4, 7)}

    ```
    """
    if not isinstance(segments, Mapping):
        raise TypeError(
            f"segments must be a dict from names to spans or substrings, got {type(segments).__name__}; for example "
            '{"first document": "the text of the document"}.'
        )
    if not segments:
        raise ValueError("segments is empty: name at least one passage.")
    places = {}
    for name, where in segments.items():
        if not isinstance(name, str) or not name:
            raise TypeError(f"segments has the name {name!r}; a name is a string.")
        if name == REST:
            raise ValueError(f"segments has the name {REST!r}, which stands for what is in no segment; rename it.")
        places[name] = _place(text, name, where, first)
    refuse_overlap({f"segments[{name!r}]": span for name, span in places.items()})
    return places


def sum_segments(
    text: str,
    offsets: Sequence[Span | None],
    scores: np.ndarray,
    segments: Mapping[str, Span | str],
    first: int | None = None,
    baseline: np.ndarray | float | None = None,
    constants: np.ndarray | float | None = None,
) -> dict[str, np.ndarray]:
    """Contributions summed by segment, and the rest.

    Args:
        text (`str`): The text.
        offsets (`Sequence[tuple[int, int] | None]`): The place of each token.
        scores (`np.ndarray`): Contributions, `(..., tokens)`.
        segments (`Mapping[str, tuple[int, int] | str]`): As in `place_segments`.
        first (`int`, *optional*): As in `place_segments`.
        baseline (`np.ndarray` or `float`, *optional*): What the scores are relative to, `(...)`.
        constants (`np.ndarray` or `float`, *optional*): What belongs to no token, `(...)`.

    Returns:
        `dict[str, np.ndarray]`: Arrays of shape `(...)`, in the order of the segments, then `"rest"`: all tokens that
        lie in none of them, and `"baseline"` and `"constants"`, if there are any. Together they are the sum of all.

    Raises:
        ValueError: As `place_segments`; or there is a baseline, and a segment of that name.

    Example:

    ```python
    >>> import numpy as np
    >>> from bcos_peft.text import sum_segments

    >>> sums = sum_segments("one two", [None, (0, 3), (4, 7)], np.array([0.5, 1.0, 2.0]), {"first": "one"})
    >>> {name: float(value) for name, value in sums.items()}
    {'first': 1.0, 'rest': 2.5}

    ```
    """
    places = place_segments(text, segments, first)
    more = {BASELINE: baseline, CONSTANTS: constants}
    more = {name: np.asarray(value) for name, value in more.items() if value is not None}
    if taken := [name for name in more if name in places]:
        raise ValueError(f"segments has the name {taken[0]!r}, which stands for what is no token's; rename it.")
    weights = shares(text, offsets, list(places.values()))
    sums = scores @ weights.T
    rest = scores @ (1.0 - weights.sum(axis=0))
    return {**{name: sums[..., i] for i, name in enumerate(places)}, REST: rest, **more}


def known_segments(given: Mapping | None, known: Mapping[str, Span] | None) -> Mapping[str, Span | str]:
    """What a user gave or, without that, the segments that a prompt has by itself."""
    if given is not None:
        return given
    if not known:
        raise ValueError(
            "segments is missing, and this text has none of its own (the messages of a chat would be); give names "
            'with spans or substrings, for example {"first document": "the text of the document"}.'
        )
    return known


def _place(text: str, name: str, where: Span | str, first: int | None) -> Span:
    if isinstance(where, str):
        found = occurrences(text[:first], where) or occurrences(text, where)
        if len(found) == 1:
            return found[0]
        shown = f"{where!r}" if len(where) <= 60 else f"{where[:57] + '...'!r}"
        if not found:
            raise ValueError(f"segments[{name!r}]: {shown} does not occur in the text. White space and case count.")
        places = ", ".join(map(str, found[:_SHOWN])) + (", ..." if len(found) > _SHOWN else "")
        raise ValueError(
            f"segments[{name!r}]: {shown} occurs {len(found)} times in the text, at {places}; give the span that is "
            "meant, (start, end)."
        )
    try:
        start, end = (int(value) for value in where)
    except (TypeError, ValueError):
        raise TypeError(f"segments[{name!r}] must be a substring or a span (start, end), got {where!r}.") from None
    if not 0 <= start < end <= len(text):
        raise ValueError(
            f"segments[{name!r}]: the span ({start}, {end}) is empty or lies outside the text of {len(text)} "
            "characters."
        )
    return start, end


def occurrences(text: str, part: str) -> list[Span]:
    """All places of a substring, overlapping ones too; none for an empty string."""
    found: list[Span] = []
    start = text.find(part) if part else -1
    while start >= 0:
        found.append((start, start + len(part)))
        start = text.find(part, start + 1)
    return found
