"""From one input (text, pair or ids) to token ids with their places in the text."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import groupby
from numbers import Integral
from typing import Any

from bcos_peft.text.special_tokens import special_ids
from bcos_peft.text.spelling import align, spell
from bcos_peft.text.words import hold_marks


# What tokenizers give beside the inputs of a model.
_NO_INPUTS = {
    "attention_mask", "input_ids", "labels", "length", "num_truncated_tokens", "offset_mapping", "overflowing_tokens",
    "overflow_to_sample_mapping", "sequence_ids", "special_tokens_mask",
}  # fmt: skip


@dataclass(frozen=True)
class Encoding:
    """One text, tokenized: everything as plain lists of one length, without padding."""

    input_ids: list[int]
    text: str | tuple[str, str]
    offsets: list[tuple[int, int] | None]
    sequence_ids: list[int | None]
    special: list[bool]
    extra: dict[str, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        texts = (self.text,) if isinstance(self.text, str) else self.text
        object.__setattr__(self, "offsets", hold_marks(texts, self.offsets, self.sequence_ids))


def encode(
    item: Any, tokenizer, max_length: int | None, truncation: bool, where: str = "inputs", pairs: bool = False
) -> Encoding:
    """Tokenize one input as `split_inputs` gives it.

    Args:
        item: a text, a pair of texts, or token ids in a dict.
        tokenizer: of transformers.
        max_length: how many tokens the model reads.
        truncation: leave out what is beyond.
        where: what messages call the input.
        pairs: token ids that stand as those of two texts are two texts, also where nothing else says so.

    Raises:
        ValueError: for an empty input, or one that is longer than the model reads; `where` names it.
    """
    if isinstance(item, Mapping):
        encoding, blank = _encode_ids(item, tokenizer, where, pairs), False
    else:
        encoding, blank = _encode_text(item, tokenizer), not "".join(item).strip()
    if blank or all(place is None for place in encoding.offsets):
        raise ValueError(
            f"{where} is empty: {encoding.text!r} has no text of its own, so there is nothing to explain."
        )
    if max_length is None or len(encoding.input_ids) <= max_length:
        return encoding
    if not truncation:
        raise ValueError(
            f"{where} has {len(encoding.input_ids)} tokens, but the model reads {max_length}. Pass truncation=True to "
            f"explain a part of it, or shorten it: {_shorten(encoding.text)!r}."
        )
    if isinstance(item, Mapping):
        raise ValueError(
            f"{where} has {len(encoding.input_ids)} tokens, but the model reads {max_length}, and truncation=True "
            "works on text only: cut the token ids yourself, so that their special tokens stay right."
        )
    return _encode_text(item, tokenizer, truncation=True, max_length=max_length)


def _encode_text(text: str | tuple[str, str], tokenizer, **truncation) -> Encoding:
    texts = (text,) if isinstance(text, str) else text
    # A fast tokenizer's `verbose` only silences its remark about the length, which `encode` judges itself.
    encoded = tokenizer(
        *texts, **truncation, return_special_tokens_mask=True, return_offsets_mapping=tokenizer.is_fast, verbose=False
    )
    ids, written = list(encoded["input_ids"]), _chat_marks(tokenizer)
    _warn_of_two_beginnings(ids, texts[0], tokenizer)
    if tokenizer.is_fast:
        sequence_ids = encoded.sequence_ids(0)
        added = [
            bool(flag) or sequence is None
            for flag, sequence in zip(encoded["special_tokens_mask"], sequence_ids, strict=True)
        ]
        spans = encoded["offset_mapping"]
    else:
        added = [bool(flag) for flag in encoded["special_tokens_mask"]]
        sequence_ids = _count_sequences(added, texts, tokenizer)
        texts, spans = _places(ids, sequence_ids, tokenizer, texts)
    return Encoding(
        input_ids=ids,
        text=texts[0] if len(texts) == 1 else tuple(texts),
        offsets=[None if flag else tuple(span) for flag, span in zip(added, spans, strict=True)],
        sequence_ids=[None if flag else sequence for flag, sequence in zip(added, sequence_ids, strict=True)],
        # Those of the text itself are special as well in a chat, and have their places in it.
        special=[flag or token in written for flag, token in zip(added, ids, strict=True)],
        extra=_extra(encoded, list(range(len(ids)))),
    )


def _chat_marks(tokenizer) -> set[int]:
    """Special tokens that a text has itself, if the tokenizer writes chats. Elsewhere '[SEP]' is what a user wrote."""
    return special_ids(tokenizer) if getattr(tokenizer, "chat_template", None) else set()


def _warn_of_two_beginnings(ids: list[int], text: str, tokenizer) -> None:
    """A rendered chat has its beginning already, and most tokenizers put another one in front."""
    begin = tokenizer.bos_token
    if begin and text.startswith(begin) and ids[:2] == [tokenizer.bos_token_id] * 2 and not text.startswith(begin * 2):
        warnings.warn(
            f"The text begins with {begin!r}, and the tokenizer puts another one in front of it. If it is a chat that "
            "was written by the chat template, pass its messages, or its token ids.",
            stacklevel=2,
        )


def _count_sequences(special: list[bool], texts: tuple[str, ...], tokenizer) -> list[int | None]:
    """Sequence ids for a Python tokenizer, which does not tell them: the first text's tokens come first."""
    count = special.count(False)
    if len(texts) == 2:
        first, second = (tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] for text in texts)
        cut = len(first) + len(second) - count
        count = len(tokenizer.truncate_sequences(first, second, cut)[0])
    sequence_ids: list[int | None] = []
    for flag in special:
        sequence_ids.append(None if flag else int(count <= 0))
        count -= not flag
    return sequence_ids


def _encode_ids(values: Mapping, tokenizer, where: str, pairs: bool) -> Encoding:
    """Ids without their text: the text is what they decode to."""
    ids = [int(token) for token in values["input_ids"]]
    keep = _visible(ids, values.get("attention_mask"), tokenizer, where)
    ids = [ids[i] for i in keep]
    unknown = [token for token in ids if not 0 <= token < len(tokenizer)]
    if unknown:
        raise ValueError(
            f"{where}: token id {unknown[0]} is outside the tokenizer's vocabulary of {len(tokenizer)} tokens."
        )
    if values.get("sequence_ids") is not None:
        sequence_ids = [values["sequence_ids"][i] for i in keep]
    else:
        types = values.get("token_type_ids")
        sequence_ids = _sequences(ids, tokenizer, None if types is None else [types[i] for i in keep], pairs)
    texts, spans = _places(ids, sequence_ids, tokenizer)
    marks = _chat_marks(tokenizer)
    return Encoding(
        input_ids=ids,
        text=texts[0] if len(texts) == 1 else tuple(texts),
        offsets=spans,
        sequence_ids=sequence_ids,
        special=[sequence is None or token in marks for sequence, token in zip(sequence_ids, ids, strict=True)],
        extra=_extra(values, keep),
    )


def _sequences(ids: list[int], tokenizer, types: list[int] | None, pairs: bool) -> list[int | None]:
    """Which text each token is of: by the token types or, where these are all the same, by the special tokens."""
    special = special_ids(tokenizer)
    sequence_ids = [None if token in special else int(bool(types and types[i])) for i, token in enumerate(ids)]
    if 0 not in sequence_ids:
        sequence_ids = [None if sequence is None else 0 for sequence in sequence_ids]
    if not pairs or 1 in sequence_ids:
        return sequence_ids
    sample = _encode_text(("a", "b"), tokenizer)
    if types is not None and any(sample.extra.get("token_type_ids", ())):
        return sequence_ids  # this tokenizer would have told two texts apart
    frame = _frame(sample.input_ids, [not flag for flag in sample.special])
    if len(frame) != 3 or not frame[1] or _frame(ids, [sequence is not None for sequence in sequence_ids]) != frame:
        return sequence_ids
    border = next(i for i, sequence in enumerate(sequence_ids) if sequence is None and 0 in sequence_ids[:i])
    return [None if sequence is None else int(i > border) for i, sequence in enumerate(sequence_ids)]


def _frame(ids: list[int], text: list[bool]) -> list[list[int]]:
    """The special tokens before, between and after stretches of text."""
    found: list[list[int]] = [[]]
    for i, token in enumerate(ids):
        if not text[i]:
            found[-1].append(token)
        elif i == 0 or not text[i - 1]:
            found.append([])
    return found


def _visible(ids: list[int], mask, tokenizer, where: str) -> list[int]:
    """Indices of what is no padding: by the mask or, without one, by the padding token at the ends."""
    if mask is not None:
        if len(mask) != len(ids):
            raise ValueError(f"{where}: attention_mask has {len(mask)} entries for {len(ids)} token ids.")
        keep = [i for i, flag in enumerate(mask) if flag]
        if keep and keep[-1] - keep[0] >= len(keep):
            raise ValueError(
                f"{where}: attention_mask hides tokens in the middle. It can only mark padding at the ends here; "
                "bcos_peft.attribute takes any mask."
            )
        return keep
    pad = tokenizer.pad_token_id
    others = (tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.sep_token_id, tokenizer.cls_token_id)
    keep = list(range(len(ids)))
    if pad is None:
        return keep
    if pad in others:
        _warn_of_padding(ids, pad, tokenizer, where)
        return keep
    while keep and ids[keep[-1]] == pad:
        keep.pop()
    while keep and ids[keep[0]] == pad:
        keep.pop(0)
    return keep


def _warn_of_padding(ids: list[int], pad: int, tokenizer, where: str) -> None:
    """Where padding is a token that texts have as well, what is at the ends may be either."""
    own = tokenizer("", verbose=False)["input_ids"]
    sides = (ids, own), (ids[::-1], own[::-1])
    if any(
        found[:1] == [pad] and (not usual or found[:1] != usual[:1] or found[1:2] == [pad]) for found, usual in sides
    ):
        warnings.warn(
            f"{where} begins or ends with {tokenizer.pad_token!r}, which is padding and a token of texts, and no "
            "attention_mask tells which: it is read as text. Pass the attention_mask as well if it is padding.",
            stacklevel=2,
        )


def _places(ids: list[int], sequence_ids: list[int | None], tokenizer, originals: tuple[str, ...] | None = None):
    """The text of each sequence and every token's span in it; for given texts, spans in them where they match."""
    texts: list[str] = []
    spans: list[tuple[int, int] | None] = [None] * len(ids)
    count = len(originals) if originals else max((s for s in sequence_ids if s is not None), default=0) + 1
    for sequence in range(count):
        members = [i for i, value in enumerate(sequence_ids) if value == sequence]
        text, found = _spell_apart(ids, members, tokenizer)
        if originals:
            unknown = [ids[i] == tokenizer.unk_token_id for i in members]
            text, found = align(text, found, originals[sequence], unknown)
        texts.append(text)
        for i, span in zip(members, found, strict=True):
            spans[i] = span
    return texts, spans


def _spell_apart(ids: list[int], members: list[int], tokenizer) -> tuple[str, list[tuple[int, int]]]:
    """The text of some of the ids, and their places in it. Where other ids stand between, it does not run on."""
    text, spans = "", []
    for _, run in groupby(enumerate(members), key=lambda place: place[1] - place[0]):
        piece, found = spell([ids[i] for _, i in run], tokenizer)
        if text and piece and not text[-1].isspace() and not piece[0].isspace():
            text += " "
        spans += [(low + len(text), high + len(text)) for low, high in found]
        text += piece
    return text, spans


def _extra(values: Mapping, keep: list[int]) -> dict[str, list[int]]:
    """Further inputs of the model that have one entry for each token."""
    length = max(keep, default=-1) + 1
    return {
        key: [int(value[i]) for i in keep]
        for key, value in values.items()
        if key not in _NO_INPUTS and isinstance(value, (list, tuple)) and len(value) >= length
        if all(isinstance(value[i], Integral) for i in keep)  # and not the words that tokens are of, say
    }


def _shorten(text: str | tuple[str, str]) -> str:
    whole = text if isinstance(text, str) else " / ".join(text)
    return whole if len(whole) <= 60 else whole[:57] + "..."
