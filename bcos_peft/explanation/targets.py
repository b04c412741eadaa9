"""What of a generation is explained: targets, completions and foils as token ids, and what is wrong with them."""

from __future__ import annotations

from numbers import Integral
from typing import Any

from bcos_peft.explanation.decoding import _as_list
from bcos_peft.explanation.prompts import _Prompt, _tokenize_on
from bcos_peft.text import plain


_RUNNER_UP = "runner_up"


def _read_targets(target: Any, tokenizer, labels) -> tuple[list[int] | None, bool]:
    """Ids, and whether they follow each other (or are alternatives)."""
    if target is None:
        return None, False
    if isinstance(target, str):
        if not target:
            raise ValueError("target is an empty text; there is nothing to explain.")
        ids = list(tokenizer(target, add_special_tokens=False, verbose=False)["input_ids"])
        if len(ids) > 1 and target not in tokenizer.get_vocab():
            return ids, True
    wanted = [labels.index(one, "target") for one in _as_list(target, "target")]
    if len({*wanted}) < len(wanted):
        raise ValueError(f"target={target!r} has a token twice; its contributions would count twice.")
    return wanted, False


def _read_completion(completion: Any, prompt: _Prompt, tokenizer, labels) -> list[int]:
    """The token ids of what a model wrote, or could have written."""
    if isinstance(completion, str):
        ids = _tokenize_on(prompt, completion, tokenizer) if completion else []
    else:
        ids = plain(completion)
        if not isinstance(ids, (list, tuple)):
            raise TypeError(f"completion must be a text or token ids, got {type(completion).__name__}.")
        ids = [labels.index(one, "completion") if _is_id(one) else one for one in ids]
    if not ids:
        raise ValueError("completion is empty: there is no token to explain.")
    if wrong := [one for one in ids if not _is_id(one)]:
        raise TypeError(f"completion must be a text or token ids; {wrong[0]!r} is no token id.")
    return list(ids)


def _read_foils(foil: Any, answer: list[int], labels) -> list[list[int]]:
    """For each token of an answer, what it is compared with."""
    foils = [labels.index(one, "foil") for one in _as_list(foil, "foil")]
    if not isinstance(plain(foil), (list, tuple)):
        foils *= len(answer)
    if len(foils) != len(answer):
        raise ValueError(f"foil has {len(foils)} entries for the {len(answer)} tokens of the completion.")
    for i, (one, token) in enumerate(zip(foils, answer, strict=True)):
        if one == token:
            raise ValueError(f"foil equals token {i} of the completion, {labels.name(token)!r}.")
    return [[one] for one in foils]


def _check_contrast(contrast: Any) -> None:
    """Refuses what is neither the runner-up nor no contrast."""
    if contrast not in (_RUNNER_UP, None):
        raise ValueError(
            f'contrast must be "{_RUNNER_UP}" or None, got {contrast!r}; to compare with a token, use foil.'
        )


def _is_id(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)
