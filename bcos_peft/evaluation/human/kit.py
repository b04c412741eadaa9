"""A kit to ask people which of two explanations is better: blinded pairs on one page, and a key that stays behind."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bcos_peft._utils.files import write_text
from bcos_peft._utils.staging import settle, staged
from bcos_peft.evaluation.human.page import _render_page, _shown
from bcos_peft.explanation import Explanation


_FORMAT, _VERSION = "bcos_peft.human_kit", 1


@dataclass(frozen=True)
class HumanPair:
    """Two explanations of one prediction, as a reader sees them.

    Args:
        name (`str`): what the page and the answers call it; it tells nothing.
        text (`int`): number of the explained text.
        left (`str`): the method whose explanation is shown as A.
        right (`str`): the method whose explanation is shown as B.

    Example:
        >>> from bcos_peft.evaluation.human import HumanPair
        >>> HumanPair("p001", text=0, left="bcos", right="random").methods
        ('bcos', 'random')
    """

    name: str
    text: int
    left: str
    right: str

    @property
    def methods(self) -> tuple[str, str]:
        """The two methods in alphabetical order."""
        first, second = sorted((self.left, self.right))
        return first, second


@dataclass(frozen=True)
class HumanKit:
    """Pairs of explanations in random order. Of two methods that are compared, each is as often on the left as on the
    right, or once more.

    Args:
        pairs (`list[HumanPair]`): the pairs, in the order of the page: the key.
        left_out (`list[str]`): texts that are not asked about, with the reason.
        page (`str`): the page for readers, which knows no method's name. Empty in a kit that was loaded.
        seed (`int`): of the order.
        kit (`str`): names the kit; answers to another one are refused.

    Example:
        >>> from bcos_peft.evaluation import HumanKit
        >>> from bcos_peft import Explanation
        >>> fields = dict(
        ...     tokens=["good", "film"], text="good film", offsets=[(0, 4), (5, 9)], sequence_ids=[0, 0],
        ...     special=[False, False], token_ids=[5, 6], target=1, target_label="positive", predicted=1,
        ...     predicted_label="positive", logit=3.0, probability=0.95,
        ... )
        >>> one, two = Explanation(scores=[3.0, 0.0], **fields), Explanation(scores=[1.0, 2.0], **fields)
        >>> kit = HumanKit.build({"contributions": [one], "occlusion": [two]})
        >>> len(kit.pairs), kit.pairs[0].methods, "occlusion" in kit.page
        (1, ('contributions', 'occlusion'), False)
    """

    pairs: list[HumanPair]
    kit: str
    seed: int = 0
    left_out: list[str] = field(default_factory=list)
    page: str = field(default="", repr=False)

    @classmethod
    def build(
        cls,
        explanations: Mapping[str, Sequence[Explanation]],
        reference: str | None = None,
        limit: int | None = None,
        seed: int = 0,
        signed: bool = True,
        title: str = "Which marking explains better?",
        instructions: str | None = None,
    ) -> HumanKit:
        """Make a kit from the explanations of the same texts by two or more methods.

        Args:
            explanations (`Mapping[str, Sequence[Explanation]]`): by method, in the same order of texts. They may
                come from different models; where these predict different things, the text is left out.
            reference (`str`, *optional*): compare only with this method. Default: every method with every other.
            limit (`int`, *optional*): at most so many pairs, drawn at random.
            seed (`int`, defaults to 0): of order, sides and draw.
            signed (`bool`, defaults to `True`): show what speaks against the target too. `False` shows only what
                speaks for it: methods without a sign, such as attention, cannot be told from others by it then.
            title (`str`): heading of the page.
            instructions (`str`, *optional*): what readers are told; empty lines separate paragraphs.

        Raises:
            ValueError: there are less than two methods, their texts differ, or no pair is left.
        """
        _check(explanations, reference, limit)
        names = sorted(explanations)
        draw = random.Random(seed)
        couples = [couple for couple in itertools.combinations(names, 2) if reference in (None, *couple)]
        found, left_out = [], []
        for text in range(len(explanations[names[0]])):
            for couple in couples:
                one, two = (explanations[name][text] for name in couple)
                if (one.target_label, one.foil_label) != (two.target_label, two.foil_label):
                    left_out.append(f"text {text}: {couple[0]} explains {_asked(one)}, {couple[1]} {_asked(two)}")
                else:
                    found.append((text, couple))
        if not found:
            raise ValueError(f"No pair is left: {'; '.join(left_out[:3]) or 'there is no text'}.")
        draw.shuffle(found)
        found = found[:limit]
        sides = {couple: _sides(sum(other == couple for _, other in found), draw) for couple in couples}
        pairs = []
        for number, (text, couple) in enumerate(found, start=1):
            left, right = couple if sides[couple].pop() else couple[::-1]
            pairs.append(HumanPair(f"p{number:03}", text, left, right))
        views = [
            {"pair": pair.name}
            | _shown(explanations[pair.left][pair.text], explanations[pair.right][pair.text], signed)
            for pair in pairs
        ]
        content = json.dumps([seed, [vars(pair) for pair in pairs], views], ensure_ascii=False)
        kit = hashlib.sha256(content.encode()).hexdigest()[:16]
        page = _render_page(kit, views, title, instructions, signed)
        return cls(pairs=pairs, kit=kit, seed=seed, left_out=left_out, page=page)

    @property
    def methods(self) -> list[str]:
        """All methods that are compared, in alphabetical order."""
        return sorted({method for pair in self.pairs for method in pair.methods})

    def save(self, folder: str | os.PathLike) -> tuple[Path, Path]:
        """Write the page and the key.

        Args:
            folder (`str` or `os.PathLike`): made if it does not exist.

        Returns:
            `tuple[Path, Path]`: `page.html`, for the readers, and `key.json`, which they must not see.

        Raises:
            ValueError: there is a kit in the folder already, whose answers would lose their key.
        """
        folder = Path(folder)
        page, key = folder / "page.html", folder / "key.json"
        if not self.page:
            raise ValueError("This kit was loaded from its key, which has no page; build it again to save it.")
        settle(folder)
        if key.exists() and HumanKit.load(key).kit != self.kit:
            raise ValueError(
                f"{str(folder)!r} has another kit already; its answers need that key. Choose a new folder."
            )
        with staged(folder, gates={"page.html": None}) as new:
            write_text(new / "page.html", self.page)
            write_text(new / "key.json", json.dumps(self.to_dict(), ensure_ascii=False, indent=1) + "\n")
        return page, key

    def to_dict(self) -> dict[str, Any]:
        """The key: which method is where."""
        return {
            "format": _FORMAT,
            "version": _VERSION,
            "kit": self.kit,
            "seed": self.seed,
            "pairs": [vars(pair) for pair in self.pairs],
            "left_out": self.left_out,
        }

    @classmethod
    def load(cls, path: str | os.PathLike) -> HumanKit:
        """Read a key.

        Args:
            path (`str` or `os.PathLike`): `key.json`, or the folder it is in.

        Raises:
            ValueError: the file is no key.
        """
        path = Path(path) / "key.json" if Path(path).is_dir() else Path(path)
        settle(path.parent)
        values = _read_json(path, _FORMAT, _VERSION)
        try:
            pairs = [HumanPair(**pair) for pair in values["pairs"]]
            found = cls(pairs=pairs, kit=values["kit"], seed=values["seed"], left_out=values["left_out"])
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{str(path)!r} is damaged: a part of the key is missing or is something else ({error})."
            ) from None
        texts = [found.kit, *(part for pair in pairs for part in (pair.name, pair.left, pair.right))]
        if not pairs or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{str(path)!r} is damaged: it has no pairs, or a name in it is no text.")
        return found


def _read_json(path: Path, kind: str, version: int) -> dict[str, Any]:
    """A JSON file that says of itself what it is."""
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))  # programs on Windows put a mark before the text
    except (UnicodeDecodeError, json.JSONDecodeError):
        raise ValueError(f"{str(path)!r} is no JSON file.") from None
    if not isinstance(values, dict) or values.get("format") != kind:
        raise ValueError(f"{str(path)!r} is no file of the format {kind!r}.")
    if values.get("version") != version:
        raise ValueError(f"{str(path)!r} has version {values.get('version')!r}; this bcos_peft reads {version}.")
    return values


def _check(explanations: Mapping[str, Sequence[Explanation]], reference: str | None, limit: int | None) -> None:
    if len(explanations) < 2:
        raise ValueError(f"explanations has {len(explanations)} method(s); a comparison needs two.")
    if reference is not None and reference not in explanations:
        raise ValueError(f"reference={reference!r} is none of the methods: {', '.join(explanations)}.")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}.")
    (first, rows), *others = explanations.items()
    for name, found in others:
        if len(found) != len(rows):
            raise ValueError(f"{name!r} explains {len(found)} texts and {first!r} {len(rows)}; they must be the same.")
        for i, (one, two) in enumerate(zip(rows, found, strict=True)):
            if one.text != two.text:
                raise ValueError(f"Text {i} is {two.text!r} for {name!r} and {one.text!r} for {first!r}.")


def _sides(count: int, draw: random.Random) -> list[bool]:
    """As many True as False, or one more of either."""
    start = draw.randrange(2)
    sides = [(start + i) % 2 == 0 for i in range(count)]
    draw.shuffle(sides)
    return sides


def _asked(explanation: Explanation) -> str:
    foil = "" if explanation.foil_label is None else f" rather than {explanation.foil_label!r}"
    return f"{explanation.target_label!r}{foil}"
