"""Sentences with a right and a wrong next word, and the word that decides: from CSV files, BLiMP, and made ones."""

from __future__ import annotations

import os
import random
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bcos_peft._utils.arguments import checked_arguments
from bcos_peft.evaluation.data.tables import _read_table


_COLUMNS = ("prefix", "good", "bad", "evidence")


@dataclass(frozen=True)
class MinimalPair:
    """A beginning of a sentence with a right and a wrong next word.

    Args:
        prefix (`str`): the beginning.
        good (`str`): the word that can follow.
        bad (`str`): the word that cannot, the foil.
        evidence (`str`): the word, or words, of the prefix that decide.

    Raises:
        ValueError: one of them begins or ends with white space, with which words would be tokenized otherwise.

    Example:
        >>> from bcos_peft.evaluation import MinimalPair
        >>> MinimalPair("Katherine can't help", "herself", "himself", "Katherine").places
        ((0, 9),)
    """

    prefix: str
    good: str
    bad: str
    evidence: str

    def __post_init__(self) -> None:
        for name in _COLUMNS:
            value = getattr(self, name)
            if value != value.strip():
                raise ValueError(f"{name}={value!r} must not begin or end with white space: a space is put between.")

    @property
    def places(self) -> tuple[tuple[int, int], ...]:
        """Where the evidence stands in the prefix, as whole words; nowhere if it is empty or does not occur."""
        if not self.evidence:
            return ()
        pattern = rf"(?<!\w){re.escape(self.evidence)}(?!\w)"
        return tuple(match.span() for match in re.finditer(pattern, self.prefix))


@checked_arguments
def load_minimal_pairs(path: str | os.PathLike, count: int | None = None) -> list[MinimalPair]:
    """Reads minimal pairs from a CSV file with the columns prefix, good, bad and evidence.

    Args:
        path (`str` or `os.PathLike`): the file, in UTF-8. White space around a cell does not count.
        count (`int`, *optional*): so many at most, from the beginning.

    Returns:
        `list[MinimalPair]`: rows whose evidence does not occur in the prefix are left out, with a warning.

    Raises:
        ValueError: a column is missing, a line is no row of a table, or no row can be used.

    Example:
        >>> from pathlib import Path
        >>> from bcos_peft.evaluation import load_minimal_pairs
        >>> written = Path("pairs.csv").write_text("prefix,good,bad,evidence\\nKarla saw,herself,himself,Karla\\n")
        >>> load_minimal_pairs("pairs.csv")[0].good
        'herself'

    Source: Yin and Neubig (arXiv 2202.10419), section 4, for the form.
    """
    columns, rows = _read_table(path)
    missing = [name for name in _COLUMNS if name not in columns]
    if missing:
        raise ValueError(f"{os.fspath(path)!r} has no column {missing[0]!r}; it has {columns}.")
    pairs = [MinimalPair(*((row[name] or "").strip() for name in _COLUMNS)) for row in rows]
    return _usable(pairs, count, repr(os.fspath(path)))


@checked_arguments
def blimp_pairs(
    rows: Iterable[Mapping[str, Any]], count: int | None = None, evidence: Callable[[str], str] | None = None
) -> list[MinimalPair]:
    """Minimal pairs of BLiMP's rows, as `load_dataset("nyu-mll/blimp", phenomenon, split="train")` gives them.

    The prefix is what both sentences begin with, in words; the next word of each is good and bad.

    Args:
        rows (`Iterable[Mapping]`): with `sentence_good`, `sentence_bad` and `UID`.
        count (`int`, *optional*): so many at most, from the beginning.
        evidence (`Callable[[str], str]`, *optional*): finds the evidence in a prefix. Default, by the row's `UID`: the
            determiner (`determiner_noun_agreement…`), the subject (`anaphor_gender_agreement`,
            `anaphor_number_agreement`) or the licensor "Even" (`npi_present_1`).

    Returns:
        `list[MinimalPair]`: rows that differ in the first word already are left out, with a warning.

    Raises:
        ValueError: a phenomenon for which `evidence` has to be given, or no row can be used.

    Example:
        >>> from datasets import load_dataset
        >>> from bcos_peft.evaluation import blimp_pairs
        >>> rows = load_dataset("nyu-mll/blimp", "anaphor_gender_agreement", split="train")
        >>> blimp_pairs(rows, count=1)
        [MinimalPair(prefix="Katherine can't help", good='herself', bad='himself', evidence='Katherine')]

    Source: Warstadt et al. (BLiMP, arXiv 1912.00582); evidence after Yin and Neubig (arXiv 2202.10419), section 4.
    """
    pairs = []
    for row in rows:
        good, bad = (row[name].rstrip(" .?!").split() for name in ("sentence_good", "sentence_bad"))
        same = next((i for i, (a, b) in enumerate(zip(good, bad, strict=False)) if a != b), None)
        if same is None:
            pairs.append(MinimalPair("", "", "", ""))  # one is the beginning of the other
            continue
        prefix = " ".join(good[:same])
        find = evidence or _evidence_rule(str(row.get("UID")))
        pairs.append(MinimalPair(prefix, good[same], bad[same], find(prefix) if prefix else ""))
    return _usable(pairs, count, "BLiMP")


@checked_arguments
def ioi_pairs(count: int = 100, seed: int = 0) -> list[MinimalPair]:
    """Sentences whose next word is the indirect object: of two names, the one that was named once.

    Args:
        count (`int`, defaults to 100): how many.
        seed (`int`, defaults to 0): of the draws.

    Example:
        >>> from bcos_peft.evaluation import ioi_pairs
        >>> pair = ioi_pairs(1)[0]
        >>> pair.evidence == pair.good, pair.prefix.count(pair.bad)
        (True, 2)

    Source: Wang et al. (arXiv 2211.00593), section 2, for the task.
    """
    draw = random.Random(seed)
    pairs = []
    for _ in range(count):
        good, bad = draw.sample(_NAMES, 2)
        first, second = draw.sample([good, bad], 2)
        place, thing = draw.choice(_PLACES), draw.choice(_THINGS)
        form = draw.choice(_FORMS)
        pairs.append(
            MinimalPair(form.format(first=first, second=second, bad=bad, place=place, thing=thing), good, bad, good)
        )
    return pairs


_NAMES = ("Mary John Anna Paul Emma Peter Laura David Sarah James Alice Robert Julia Henry Helen Simon").split()
_PLACES = ("store", "park", "station", "school", "garden", "office", "market", "library")
_THINGS = ("book", "drink", "letter", "ticket", "ring", "key", "flower", "picture")
_FORMS = (
    "When {first} and {second} went to the {place}, {bad} gave a {thing} to",
    "After {first} and {second} met at the {place}, {bad} handed a {thing} to",
    "Then {first} and {second} worked at the {place}, and {bad} decided to give a {thing} to",
)


def _usable(pairs: list[MinimalPair], count: int | None, source: str) -> list[MinimalPair]:
    found = [pair for pair in pairs if pair.prefix and pair.good and pair.bad and pair.places]
    if not found:
        raise ValueError(f"{source} has no row whose evidence occurs in its prefix.")
    if len(found) < len(pairs):
        warnings.warn(
            f"{len(pairs) - len(found)} of {len(pairs)} rows of {source} are left out: their evidence does not occur "
            "in the prefix.",
            stacklevel=3,
        )
    return found if count is None else found[:count]


def _evidence_rule(uid: str) -> Callable[[str], str]:
    if uid.startswith("determiner_noun_agreement"):
        return lambda prefix: next(
            (word for word in reversed(prefix.split()) if word.lower() in ("this", "that", "these", "those")), ""
        )
    if uid in ("anaphor_gender_agreement", "anaphor_number_agreement"):
        return _subject
    if uid == "npi_present_1":
        return lambda prefix: prefix.split()[0]
    raise ValueError(
        f"For the phenomenon {uid!r} it is not known which word decides; pass evidence=, a function that finds it in "
        "a prefix."
    )


# Each stands before a noun with which it is the subject.
_DETERMINERS = set("a an the this that these those some every each all most many no few several both".split())


def _subject(prefix: str) -> str:
    """The subject at the beginning: a name, or a determiner with its noun."""
    words = prefix.split()
    if " ".join(words[:3]).lower() == "a lot of":
        return " ".join(words[:4])
    return " ".join(words[: 2 if words[0].lower() in _DETERMINERS else 1])
