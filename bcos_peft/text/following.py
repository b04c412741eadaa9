"""The tokens of a text that follows others, which are not those of the same text on its own."""

from __future__ import annotations

from collections.abc import Iterator

from bcos_peft.text.spelling import _fold, spell_on


# Behind these a tokenizer reads a text as it reads it within a line, if the text does not merge with them.
_IN_FRONT = ("=", "\n", ".", "0", "a", "(")


def ids_after(before: list[int], before_text: str, text: str, tokenizer, argument: str = "text") -> list[int]:
    """Token ids that go on with `before` such that just `text` is added.

    Tokenizers of the SentencePiece kind put a space in front of whatever they are given, so the tokens of a text on
    its own go on with another text. Both are tokenized together; where that changes the tokens before, the text is
    taken on its own, or behind a character that it does not merge with. What is found must spell the text.

    Args:
        before: the ids of what comes before, special tokens included.
        before_text: its text.
        text: what follows, with the space in front that it has.
        tokenizer: the tokenizer of both.
        argument: the name of the text in errors.

    Raises:
        ValueError: no tokens spell the text there; the message says what the nearest ones spell.

    Example:
        >>> from transformers import ByT5Tokenizer
        >>> from bcos_peft.text import ids_after
        >>> ids_after([53, 46, 53, 64], "2+2=", "44", ByT5Tokenizer())
        [55, 55]
    """
    spaceless = drops_spaces(tokenizer)
    nearest = None
    for ids in _candidates(before, before_text, text, tokenizer):
        if not ids or _has_unknown(ids, text, tokenizer):
            continue
        spelled = spell_on(before, ids, tokenizer)[0]
        if _same(spelled, text, spaceless):
            return ids
        nearest = nearest or (tokenizer.convert_ids_to_tokens(ids), spelled)
    if nearest is None:
        raise ValueError(f"{argument}={text!r} is not in the tokenizer's vocabulary, which has no tokens for it.")
    raise ValueError(
        f"{argument}={text!r} cannot follow {before_text[-20:]!r}: no tokens of this tokenizer spell that there. "
        f"{nearest[0]} spell {nearest[1]!r}; pass that text, or token ids."
    )


def _candidates(before: list[int], before_text: str, text: str, tokenizer) -> Iterator[list[int]]:
    alone = _ids(before_text, tokenizer)
    plain = [token for token in before if token not in {*tokenizer.all_special_ids}]
    # Of ids that somebody cut otherwise, the text says nothing about what follows.
    if before[len(before) - len(alone) :] == alone or plain == alone:
        yield from _behind(alone, before_text, text, tokenizer)
    yield _ids(text, tokenizer)
    for front in _IN_FRONT:
        yield from _behind(_ids(front, tokenizer), front, text, tokenizer)


def _behind(known: list[int], front: str, text: str, tokenizer) -> Iterator[list[int]]:
    together = _ids(front + text, tokenizer)
    if together[: len(known)] == known and len(together) > len(known):
        yield together[len(known) :]


def _ids(text: str, tokenizer) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _has_unknown(ids: list[int], text: str, tokenizer) -> bool:
    return tokenizer.unk_token_id in ids and tokenizer.unk_token not in text


def _same(spelled: str, text: str, spaceless: bool) -> bool:
    """Whether that is the text, but for what tokenizers drop: case, accents, kinds of white space within it."""
    if spelled == text:
        return True
    if not spaceless and _indent(spelled) != _indent(text):
        return False
    folded = _fold(spelled)[0]
    return bool(folded) and folded == _fold(text)[0]


def _indent(text: str) -> str:
    return text[: len(text) - len(text.lstrip())]


def drops_spaces(tokenizer) -> bool:
    """Whether a text with a space in front has the same tokens as without one, as for WordPiece.

    Example:
        >>> from transformers import ByT5Tokenizer
        >>> from bcos_peft.text import drops_spaces
        >>> drops_spaces(ByT5Tokenizer())
        False
    """
    return _ids(".a", tokenizer) == _ids(". a", tokenizer)
