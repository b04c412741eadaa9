"""What of a generation is explained: targets, completions and foils as token ids, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

from bcos_peft.explanation.prompts import _Prompt
from bcos_peft.text import Encoding, drops_spaces, ids_after, plain, spell_on


_RUNNER_UP = "runner_up"
_WAYS = (
    "give one for all, or one for each. Alternatives, whose contributions add, are Alternatives(a, b), or a list in "
    "the list: [[a, b], ...]"
)


class Alternatives(tuple):
    """Tokens of which any may come next: as a target their contributions add, as a foil their mean is compared with.

    Each is a vocabulary id (`int`) or a text of one token (`str`). Without any it raises `ValueError`.

    Example:
        >>> from bcos_peft import Alternatives
        >>> Alternatives(" good", " great")
        Alternatives(' good', ' great')
    """

    __slots__ = ()

    def __new__(cls, *tokens: int | str | Sequence) -> Alternatives:
        if len(tokens) == 1 and isinstance(plain(tokens[0]), (list, tuple)):
            tokens = tuple(plain(tokens[0]))
        if not tokens:
            raise ValueError("Alternatives() is empty; give at least one token.")
        return super().__new__(cls, tokens)

    def __getnewargs__(self) -> tuple:
        return tuple(self)

    def __repr__(self) -> str:
        return f"Alternatives({', '.join(map(repr, self))})"


def _for_each(value: Any, name: str, count: int, lists: bool = False) -> list:
    """A choice for each of `count` prompts: None, one token, or `Alternatives`; from one for all, or a list.

    With `lists`, those in the list are left as they are, for they say something else.
    """
    value = plain(value)
    if value is None or isinstance(value, (str, Integral, Alternatives)) or not isinstance(value, Sequence):
        return [value] * count
    if not value:
        raise ValueError(f"{name} is an empty list; give at least one token, or leave it out.")
    if len(value) != count:
        prompts = "one prompt" if count == 1 else f"{count} prompts"
        raise ValueError(f"{name} has {len(value)} entries for {prompts}; {_WAYS}.")
    entries = [plain(one) for one in value]
    if lists:
        return entries
    if any(isinstance(one, (list, tuple)) and not one for one in entries):
        raise ValueError(f"{name} has an empty list; give at least one token, or None.")
    return [Alternatives(*one) if isinstance(one, (list, tuple)) else one for one in entries]


def _read_target(target: Any, name: str, prompt: _Prompt, labels) -> tuple[list[int] | None, bool]:
    """Ids, and whether they follow each other (or are alternatives)."""
    if target is None:
        return None, False
    after = _end_of(prompt)
    if isinstance(target, str):
        ids = labels.tokens(target, name, after)
        return ids, len(ids) > 1
    if not isinstance(target, Alternatives):
        return [labels.index(target, name, after)], False
    wanted = [labels.index(one, name, after) for one in target]
    if len({*wanted}) < len(wanted):
        raise ValueError(f"{name}={target!r} has a token twice; its contributions would count twice.")
    return wanted, False


def _read_foil(foil: Any, name: str, prompt: _Prompt, labels) -> list[int] | None:
    """Ids that the next token is compared with the mean of."""
    if foil is None:
        return None
    foils = foil if isinstance(foil, Alternatives) else [foil]
    return [labels.index(one, name, _end_of(prompt)) for one in foils]


def _check_pair(target: Any, wanted: list[int] | None, several: bool, others: list[int] | None, labels) -> None:
    """Refuses a foil that does not fit its target."""
    if several and others is not None:
        raise ValueError(
            f"target={target!r} is {len(wanted)} tokens, and a foil is compared with one. Leave the foil out (each "
            "token is compared with its runner-up), or explain the first token against it."
        )
    if others is not None and wanted is not None and (both := {*others} & {*wanted}):
        raise ValueError(f"foil equals target (both have {labels.name(both.pop())!r}): nothing to explain.")


def _read_completion(completion: Any, name: str, prompt: _Prompt, tokenizer, labels) -> list[int]:
    """The token ids of what a model wrote, or could have written."""
    if isinstance(completion, str):
        ids = ids_after(*_end_of(prompt), completion, tokenizer, name) if completion else []
    else:
        ids = plain(completion)
        if not isinstance(ids, (list, tuple)):
            raise TypeError(f"{name} must be a text or token ids, got {type(completion).__name__}.")
        ids = [labels.index(one, name) if _is_id(one) else one for one in ids]
    if not ids:
        raise ValueError(f"{name} is empty: there is no token to explain.")
    if wrong := [one for one in ids if not _is_id(one)]:
        raise TypeError(f"{name} must be a text or token ids; {wrong[0]!r} is no token id.")
    return list(ids)


def _read_foils(foil: Any, name: str, prompt: _Prompt, answer: list[int], tokenizer, labels) -> list[list[int]]:
    """For each token of an answer, what it is compared with."""
    foil = plain(foil)
    if isinstance(foil, Alternatives) or not isinstance(foil, (list, tuple)):
        foils = [foil] * len(answer)
    elif len(foil) != len(answer):
        raise ValueError(f"{name} has {len(foil)} entries for the {len(answer)} tokens of the completion.")
    else:
        foils = list(foil)
    before, text = _end_of(prompt)
    found = []
    for i, (one, token) in enumerate(zip(foils, answer, strict=True)):
        if isinstance(plain(one), (list, tuple)):
            raise TypeError(f"{name}: each token of a completion is compared with one token, got {one!r}.")
        # Each follows the prompt and the tokens of the answer before it.
        written = text + spell_on(before, answer[:i], tokenizer)[0] if isinstance(one, str) else text
        number = labels.index(one, name, ([*before, *answer[:i]], written))
        if number == token:
            raise ValueError(f"{name} equals token {i} of the completion, {labels.name(token, before)!r}.")
        found.append([number])
    return found


def _check_contrast(contrast: Any, way_out: str = "; to compare with a token, use foil") -> None:
    """Refuses what is neither the runner-up nor no contrast."""
    if contrast not in (_RUNNER_UP, None):
        raise ValueError(f'contrast must be "{_RUNNER_UP}" or None, got {contrast!r}{way_out}.')


def _before(encoding: Encoding, position: int | None, causal: bool, tokenizer) -> tuple[list[int], str] | None:
    """The ids, and their text, that the explained token comes after; `None` where it stands for itself.

    In a causal model it follows the token at `position`, by default the last. In others it takes the place of a mask,
    and only where no space is before that: whether such a space is the mask's or the word's, tokenizers disagree.
    """
    ids, texts = encoding.input_ids, [encoding.text] if isinstance(encoding.text, str) else encoding.text
    if not causal and (position is None or ids[position] != tokenizer.mask_token_id or drops_spaces(tokenizer)):
        return None
    end = (len(ids) if position is None else position + 1) if causal else position
    read = [i for i in range(end) if encoding.sequence_ids[i] is not None and encoding.offsets[i] is not None]
    if not read:
        return (ids[:end], "") if causal else None
    text, stop = texts[encoding.sequence_ids[read[-1]]], encoding.offsets[read[-1]][1]
    if causal:  # white space at the end of the text may have no token
        return ids[:end], text if not any(s is not None for s in encoding.sequence_ids[end:]) else text[:stop]
    start = encoding.offsets[position][0]
    beside_space = start != stop or text[start - 1].isspace() or text[start].isspace()
    return None if beside_space else (ids[:end], text[:stop])


def _end_of(prompt: _Prompt) -> tuple[list[int], str]:
    return prompt.encoding.input_ids, prompt.text


def _is_id(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)
