"""The text that token ids stand for, and where in it each token is."""

from __future__ import annotations

import unicodedata
from bisect import bisect_left


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


def align(spelled: str, spans: list[Span], text: str) -> tuple[str, list[Span]]:
    """Move spans from the text that ids spell to the text they were made from.

    Both are compared without case, accents and white space, which tokenizers drop. If they still differ (unknown
    words), the spelled text is kept: its places are right.

    Example:
        >>> from bcos_peft.text import align
        >>> align("cafe noir", [(0, 4), (4, 9)], "Café  Noir")
        ('Café  Noir', [(0, 4), (6, 10)])
    """
    if spelled == text:
        return text, spans
    short, places = _fold(spelled)
    long, targets = _fold(text)
    if not long.startswith(short):
        return spelled, spans
    moved: list[Span] = []
    end = 0
    for low, high in spans:
        inside = targets[bisect_left(places, low) : bisect_left(places, high)]
        start, end = (inside[0], inside[-1] + 1) if inside else (end, end)
        moved.append((start, end))
    return text, moved


def _fold(text: str) -> tuple[str, list[int]]:
    """The characters that survive normalisation, and the index of each in the text."""
    folded, places = [], []
    for index, character in enumerate(text):
        for part in unicodedata.normalize("NFKD", character.casefold()):
            if not (part.isspace() or unicodedata.combining(part)):
                folded.append(part)
                places.append(index)
    return "".join(folded), places
