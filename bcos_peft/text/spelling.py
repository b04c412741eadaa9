"""The text that token ids stand for, and where in it each token is."""

from __future__ import annotations

import unicodedata
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import pairwise


Span = tuple[int, int]

_LONGEST_CHARACTER = 4  # bytes, in UTF-8
_CONTEXT = 4  # tokens that decide about a space


def spell(ids: list[int], tokenizer) -> tuple[str, list[Span]]:
    """The text of token ids, and the characters of each token in it.

    Decoding and tokenizing again gives the ids back in the usual case, and with them the places that the tokenizer
    itself would tell. Otherwise the text is put together token by token.

    Example:
        >>> from transformers import ByT5Tokenizer
        >>> from bcos_peft.text import spell
        >>> tokenizer = ByT5Tokenizer()
        >>> spell(tokenizer("né", add_special_tokens=False)["input_ids"], tokenizer)
        ('né', [(0, 1), (1, 2), (1, 2)])
    """
    if tokenizer.is_fast and ids:
        text = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        again = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        if list(again["input_ids"]) == ids:
            return text, [tuple(span) for span in again["offset_mapping"]]
    return _piece_by_piece(ids, tokenizer)


def spell_on(before: list[int], ids: list[int], tokenizer) -> tuple[str, list[Span]]:
    """The text that ids add behind others, and the characters of each in it.

    Example:
        >>> from transformers import ByT5Tokenizer
        >>> from bcos_peft.text import spell_on
        >>> spell_on([100], [35, 101], ByT5Tokenizer())
        (' b', [(0, 1), (1, 2)])
    """
    return _piece_by_piece(ids, tokenizer, before[-_CONTEXT:])


def _piece_by_piece(ids: list[int], tokenizer, before: list[int] | None = None) -> tuple[str, list[Span]]:
    text, spans = "", []
    before, pending = before or [], []
    for number, token in enumerate(ids):
        pending.append(token)
        piece = _after(before, pending, tokenizer)
        unfinished = not piece or piece.endswith("\N{REPLACEMENT CHARACTER}")
        if unfinished and len(pending) < _LONGEST_CHARACTER and number + 1 < len(ids):
            continue  # bytes of one character: they share its place
        spans += [(len(text), len(text) + len(piece))] * len(pending)
        text += piece
        before, pending = pending, []
    return text, spans


def _after(before: list[int], ids: list[int], tokenizer) -> str:
    """What ids add to the text when they follow others: with a space in front, or without one."""
    start = tokenizer.decode(before, clean_up_tokenization_spaces=False) if before else ""
    whole = tokenizer.decode(before + ids, clean_up_tokenization_spaces=False)
    return whole[len(start) :] if whole.startswith(start) else tokenizer.decode(ids)


def align(spelled: str, spans: list[Span], text: str, unknown: Sequence[bool] | None = None) -> tuple[str, list[Span]]:
    """Move spans from the text that ids spell to the text they were made from.

    Both are compared without case, accents and white space, which tokenizers drop. An unknown token stands for any
    characters without white space between them. If they still differ, the spelled text is kept: its places are right.

    Args:
        spelled: what the ids spell.
        spans: the characters of each token in it.
        text: what was tokenized.
        unknown: which tokens are unknown ones; none by default.

    Example:
        >>> from bcos_peft.text import align
        >>> align("cafe noir", [(0, 4), (4, 9)], "Café  Noir")
        ('Café  Noir', [(0, 4), (6, 10)])
        >>> align("a [UNK] film", [(0, 1), (1, 7), (7, 12)], "A 😀 Film", [False, True, False])
        ('A 😀 Film', [(0, 1), (2, 3), (4, 8)])
    """
    if spelled == text:
        return text, spans
    for loose in (False, True):  # of vowel signs, which many alphabets write as marks, tokenizers drop some or none
        long, targets = _fold(text, loose)
        inside = _folded_inside(spelled, spans, unknown, long, targets, text, loose)
        if inside is not None:
            break
    else:
        return spelled, spans
    moved: list[Span] = []
    end = 0
    for low, high in inside:
        start, end = (targets[low], targets[high - 1] + 1) if low < high else (end, end)
        moved.append((start, end))
    return text, moved


def _folded_inside(
    spelled: str,
    spans: list[Span],
    unknown: Sequence[bool] | None,
    long: str,
    targets: list[int],
    text: str,
    loose: bool,
) -> list[Span] | None:
    """For each token its characters in the folded text; None where it does not say what the tokens say."""
    short, places = _fold(spelled, loose)
    inside = [(bisect_left(places, low), bisect_left(places, high)) for low, high in spans]
    if unknown is None or not any(unknown):
        return inside if long.startswith(short) else None
    pieces: list[str | None] = []  # what tokens say one after another; None for unknown ones
    previous = None
    for (low, high), span, flag in zip(inside, spans, unknown, strict=True):
        shared = not flag and span == previous  # bytes of one character
        pieces.append(None if flag else "" if shared else short[low:high])
        previous = span
    gaps = [any(map(str.isspace, text[a + 1 : b])) for a, b in pairwise([*targets, len(text)])]
    found = _match(pieces, long, gaps, whole=True) or _match(pieces, long, gaps)  # of a text that was cut, the start
    if found is None:
        return None
    for i in range(1, len(found)):
        if spans[i] == spans[i - 1] and not unknown[i]:
            found[i] = found[i - 1]
    return found


def _match(pieces: list[str | None], long: str, gaps: list[bool], whole: bool = False) -> list[Span] | None:
    """Places of pieces one after another at the start of a text, or in the whole of it. None stands for at least one
    character and at most those up to a gap, rather many than few. The search goes back where a piece does not fit, and
    tries nothing twice."""
    ends: list[int] = []  # of the pieces so far
    options: list[Iterator[int]] = []
    failed: set[tuple[int, int]] = set()
    while len(ends) < len(pieces) or (whole and ends[-1] < len(long)):
        if len(options) == len(ends):
            state = len(ends), ends[-1] if ends else 0
            known = len(ends) == len(pieces) or state in failed
            options.append(iter(()) if known else iter(_ends_of(pieces[state[0]], state[1], long, gaps)))
        end = next(options[-1], None)
        if end is not None:
            ends.append(end)
            continue
        options.pop()
        if not ends:
            return None
        failed.add((len(ends), ends.pop()))
    return list(pairwise([0, *ends]))


def _ends_of(piece: str | None, start: int, long: str, gaps: list[bool]) -> Sequence[int]:
    """Where a piece that starts at a place may end, the farthest first."""
    if piece is not None:
        return [start + len(piece)] if long.startswith(piece, start) else []
    stop = start
    while stop < len(long) and not (stop > start and gaps[stop - 1]):
        stop += 1
    return range(stop, start, -1)


def _fold(text: str, loose: bool = False) -> tuple[str, list[int]]:
    """The characters that survive normalisation, and the index of each in the text; with `loose` no mark does."""
    folded, places = [], []
    for index, character in enumerate(text):
        for part in unicodedata.normalize("NFKD", character.casefold()):
            category = unicodedata.category(part)
            if not (
                part.isspace()
                or category in ("Cc", "Cf")
                or unicodedata.combining(part)
                or loose
                and category[0] == "M"
            ):
                folded.append(part)
                places.append(index)
    return "".join(folded), places
