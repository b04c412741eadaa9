"""Words from character offsets and the text alone.

Tokenizers disagree about spans: WordPiece gives the exact characters, byte-level BPE and SentencePiece may or may not
count the leading space, and a character of several bytes may come as several tokens with one span. Words are therefore
cut in the *text*, and tokens are only placed into them, so that every tokenizer kind gives the same words.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate, groupby


Span = tuple[int, int]

_WORD, _SINGLE, _OTHER = "word", "single", "other"
_JOINERS = frozenset("'’-‐‑·")  # part of a word when letters stand on both sides: don't, well-made, col·lega
_NUMBER_JOINERS = frozenset(".,")  # part of a number when digits stand on both sides: 3.14, 1,000

# Scripts written without spaces: one character (with its marks) is the smallest unit, tokens decide about the rest.
_UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x0F00, 0x0FFF),  # Tibetan
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x3005, 0x3007),  # ideographic iteration mark, closing mark, zero
    (0x3040, 0x312F),  # Hiragana, Katakana, Bopomofo
    (0x31F0, 0x31FF),  # Katakana extensions
    (0x3400, 0x4DBF),  # Han, extension A
    (0x4E00, 0x9FFF),  # Han
    (0xF900, 0xFAFF),  # Han, compatibility
    (0xFF66, 0xFF9D),  # halfwidth Katakana
    (0x20000, 0x3FFFF),  # Han, further extensions
)


def _split_words(text: str) -> list[Span]:
    """Cuts a text into words.

    A word is a run of letters and digits; apostrophes and hyphens inside it belong to it, and so do the point and the
    comma inside a number. What is neither letter, digit nor space (punctuation, symbols, emoji) forms runs of its own.
    In scripts written without spaces (Chinese, Japanese, Thai, ...) each character stands alone.

    Args:
        text (`str`): Any text.

    Returns:
        `list[tuple[int, int]]`: The character spans `(start, end)` in order. Together they cover every character that
        is not white space, and no other.

    Example:

    ```python

    >>> text = "Don't: a well-made film!"
    >>> [text[start:end] for start, end in _split_words(text)]
    ["Don't", ':', 'a', 'well-made', 'film', '!']

    ```
    """
    spans: list[Span] = []
    previous = None  # the kind of the word being read; None after white space
    for i, character in enumerate(text):
        if character.isspace():
            previous = None
            continue
        kind = _kind(character)
        if kind is None:  # marks and invisible format characters belong to whatever they follow
            kind, joins = (_OTHER, False) if previous is None else (previous, True)
        else:
            if previous == _WORD and _joins_neighbours(text, i):
                kind = _WORD
            joins = kind == previous and kind != _SINGLE
        if joins:
            spans[-1] = (spans[-1][0], i + 1)
        else:
            spans.append((i, i + 1))
        previous = kind
    return spans


def strip_span(text: str, span: Span) -> Span:
    """Takes the white space off both ends of a span.

    Args:
        text (`str`): The text that the span points into.
        span (`tuple[int, int]`): Character span `(start, end)`.

    Returns:
        `tuple[int, int]`: The narrower span; an empty one at `end` when there was nothing but white space.
    """
    start, end = span
    piece = text[start:end]
    start += len(piece) - len(piece.lstrip())
    return start, max(start, start + len(piece.strip()))


def hold_marks(
    texts: Sequence[str], offsets: Sequence[Span | None], sequence_ids: Sequence[int | None]
) -> list[Span | None]:
    """Gives characters that a tokenizer dropped to the token before, where they are marks on its last character, or
    are written as one with it.

    Tokenizers that strip accents know nothing of what stands above and below a letter, and others drop what makes a
    sign an emoji; a reader sees one character.

    Args:
        texts (`Sequence[str]`): The text, or both texts of a pair.
        offsets (`Sequence[tuple[int, int] | None]`): Character span of each token in its text; `None` if unknown.
        sequence_ids (`Sequence[int | None]`): Which text each token comes from; `None` for none of them.

    Returns:
        `list[tuple[int, int] | None]`: The spans, which end behind such marks.

    Example:

    ```python
    >>> from bcos_peft.text import hold_marks

    >>> hold_marks(["cafe\N{COMBINING ACUTE ACCENT} noir"], [(0, 4), (6, 10)], [0, 0])
    [(0, 5), (6, 10)]

    ```
    """
    held = list(offsets)
    for sequence, text in enumerate(texts):
        if text.isascii():
            continue
        members = [i for i, span in enumerate(offsets) if span is not None and sequence_ids[i] == sequence]
        covered = {place for i in members for place in range(*offsets[i])}
        for i in members:
            start, end = offsets[i]
            while start < end < len(text) and end not in covered and _is_held(text[start:end], text[end]):
                end += 1
            held[i] = (start, end)
    return held


def group_tokens(
    texts: Sequence[str],
    offsets: Sequence[Span | None],
    sequence_ids: Sequence[int | None],
    special: Sequence[bool],
) -> list[int | None]:
    """Places tokens into the words of their text.

    A token that reaches over several words (some vocabularies hold `film.` or `of the`) joins them into one: its score
    cannot be divided honestly. A token of white space only counts with the word that follows it, as the leading space
    of a byte-level BPE token does, and at the end of a text with the word before.

    Args:
        texts (`Sequence[str]`): The text, or both texts of a pair.
        offsets (`Sequence[tuple[int, int] | None]`): Character span of each token in its text; `None` if unknown.
        sequence_ids (`Sequence[int | None]`): Which text each token comes from; `None` for none of them.
        special (`Sequence[bool]`): Whether each token is special; special tokens are in no word.

    Returns:
        `list[int | None]`: For each token the number of its word, counted from 0 over both texts; `None` for special
        tokens. A token whose place in the text is unknown is a word of its own.

    Example:

    ```python
    >>> from bcos_peft.text import group_tokens

    >>> # un, ##believable, film, between [CLS] and [SEP]
    >>> offsets = [None, (0, 2), (2, 12), (13, 17), None]
    >>> group_tokens(["unbelievable film"], offsets, [None, 0, 0, 0, None], [True, False, False, False, True])
    [None, 0, 0, 1, None]

    ```
    """
    keys: list[object] = [None] * len(offsets)
    run = list(accumulate(special))  # the same number between two special tokens
    for sequence, text in enumerate(texts):
        members = [
            i for i, span in enumerate(offsets) if sequence_ids[i] == sequence and span is not None and not special[i]
        ]
        words = _split_words(text)
        for number, some in groupby(members, key=lambda i: run[i]):
            some = list(some)
            for i, group in zip(some, _groups_of(words, text, [offsets[i] for i in some]), strict=True):
                keys[i] = (sequence, number, group)
    numbers: dict[object, int] = {}
    return [
        None if special[i] else numbers.setdefault(("alone", i) if key is None else key, len(numbers))
        for i, key in enumerate(keys)
    ]


def _groups_of(words: list[Span], text: str, spans: list[Span]) -> list[object]:
    """One key per token of one text with these words; tokens with equal keys are one word."""
    starts = [start for start, _ in words]
    ends = [end for _, end in words]
    joined = [False] * len(words)  # joined[i]: words i and i + 1 share a token
    first: list[int | None] = []
    for span in spans:
        start, end = strip_span(text, span)
        if start == end:
            first.append(None)
            continue
        lowest, highest = bisect_right(ends, start), bisect_left(starts, end) - 1
        joined[lowest:highest] = [True] * (highest - lowest)
        first.append(lowest)

    group, groups = 0, []
    for i in range(len(words)):
        groups.append(group)
        group += not joined[i]

    keys: list[object] = [None if word is None else groups[word] for word in first]
    following = None
    for i in reversed(range(len(keys))):  # white space goes to the word that follows ...
        following = keys[i] = following if keys[i] is None else keys[i]
    preceding = None
    for i in range(len(keys)):  # ... or, at the end, to the one before
        preceding = keys[i] = preceding if keys[i] is None else keys[i]
    return [("space", i) if key is None else key for i, key in enumerate(keys)]


def _kind(character: str) -> str | None:
    category = unicodedata.category(character)
    if category[0] == "M" or category == "Cf":
        return None
    code = ord(character)
    if any(low <= code <= high for low, high in _UNSPACED) and category[0] in "LN":
        return _SINGLE
    return _WORD if category[0] in "LN" or character == "_" else _OTHER


def _is_held(before: str, character: str) -> bool:
    """Whether a character is a mark, or part of the sign before: the vowel of a Korean syllable written in parts."""
    if _kind(character) is None:
        return True
    return len(unicodedata.normalize("NFC", before + character)) == len(unicodedata.normalize("NFC", before))


def _joins_neighbours(text: str, i: int) -> bool:
    if i + 1 >= len(text):
        return False
    before, joiner, after = text[i - 1], text[i], text[i + 1]
    if joiner in _JOINERS:
        return _kind(after) == _WORD
    return joiner in _NUMBER_JOINERS and before.isdigit() and after.isdigit()
