"""What readers chose: win rates, how sure they are, and whether readers agree."""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bcos_peft._utils.imports import import_extra
from bcos_peft.evaluation.human.kit import HumanKit, _read_json
from bcos_peft.evaluation.results import Interval


FORMAT, VERSION = "bcos_peft.human_answers", 1
_CHOICES = ("left", "tie", "right")


@dataclass(frozen=True)
class Comparison:
    """How two methods did against each other.

    Args:
        first (`str`), second (`str`): the methods.
        wins (`int`): answers for the first.
        ties (`int`): answers that neither is better.
        losses (`int`): answers for the second.
        win_rate ([`Interval`]): share of answers for the first, 0 to 1; a tie counts
            one half. Its `count` is the number of answers.

    Example:
        >>> from bcos_peft.evaluation.human import Comparison
        >>> from bcos_peft.evaluation.results import Interval
        >>> Comparison("bcos", "random", 8, 1, 1, Interval(0.85, 0.6, 1.0, 10)).wins
        8
    """

    first: str
    second: str
    wins: int
    ties: int
    losses: int
    win_rate: Interval


@dataclass(frozen=True)
class HumanResult:
    """What `analyse_answers` returns.

    Args:
        kit (`str`): the kit that was answered.
        readers (`int`): how many readers.
        judgements (`int`): how many answers, of all readers.
        comparisons (`list[Comparison]`): one for each two methods that were compared.
        alpha (`float`, *optional*): Krippendorff's alpha of the choices as shown (A, B, tie; nominal): 1 is full
            agreement, 0 is chance. `None` where it cannot be had; `alpha_note` says why.
        alpha_note (`str`): empty, or the reason.
        left_share ([`Interval`], *optional*): share of A among the answers that
            are no ties. Sides were drawn, so it should be near one half; far from it, readers chose by side.
        median_seconds (`float`, *optional*): for one answer.
        simulated (`bool`): whether the files are marked as simulated: no person has answered.

    Example:
        >>> from bcos_peft.evaluation.human import HumanResult
        >>> result = HumanResult("0123", 1, 0, [], None, "it takes two readers", None, None, simulated=True)
        >>> print(result.table().splitlines()[0])
        **SIMULATED ANSWERS: no person has judged these pairs.**
    """

    kit: str
    readers: int
    judgements: int
    comparisons: list[Comparison]
    alpha: float | None
    alpha_note: str
    left_share: Interval | None
    median_seconds: float | None
    simulated: bool = False

    def table(self) -> str:
        """The result as Markdown."""
        lines = ["**SIMULATED ANSWERS: no person has judged these pairs.**", ""] if self.simulated else []
        lines += ["| comparison | wins | ties | losses | win rate [95 %] |", "|---|---|---|---|---|"]
        lines += [
            f"| {one.first} against {one.second} | {one.wins} | {one.ties} | {one.losses} | {one.win_rate} |"
            for one in self.comparisons
        ]
        alpha = f"{self.alpha:.3f}" if self.alpha is not None else f"not known: {self.alpha_note}"
        side = "" if self.left_share is None else f" A was chosen in {self.left_share} of the answers without ties."
        time = "" if self.median_seconds is None else f" Median time for an answer: {self.median_seconds:.1f} s."
        lines += [
            "",
            f"{self.readers} reader(s), {self.judgements} answers. Krippendorff's alpha: {alpha}.{side}{time}",
        ]
        rates = [one.win_rate for one in self.comparisons] + ([self.left_share] if self.left_share else [])
        if any(rate.low != rate.low for rate in rates):
            lines.append(
                "Where one reader alone, or one text alone, has answers, there is no interval: how far others would "
                "differ cannot be told."
            )
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The result as plain values, for JSON: ends of intervals that are not known are `None`."""
        return asdict(self, dict_factory=lambda rows: {key: value if value == value else None for key, value in rows})


def analyse_answers(
    kit: HumanKit,
    files: Iterable[str | os.PathLike],
    simulated: bool = False,
    resamples: int = 2000,
    seed: int = 0,
) -> HumanResult:
    """Analyse the files that readers downloaded.

    Intervals are 95 % percentile intervals of a bootstrap that draws readers and texts, both with replacement: they
    are meant for other readers and other texts, not only for these. Where all answers are the same, drawing them again
    shows nothing; there it is Wilson's interval of as many answers as there are readers, or texts if these are fewer.
    One reader, or one text, has no interval (NaN).

    Args:
        kit ([`HumanKit`]): the kit with its key.
        files (`Iterable` of paths): one file for each reader.
        simulated (`bool`, defaults to `False`): analyse files that are marked as simulated, to try the analysis out.
            Then all of them must be, and the result says so.
        resamples (`int`, defaults to 2000): draws of the bootstrap.
        seed (`int`, defaults to 0): of the draws.

    Returns:
        [`HumanResult`]

    Raises:
        ValueError: there is no file, or one is no file of answers, answers another kit or a pair twice, is a second
            one of the same reader, or is simulated where people's answers are wanted (or the reverse).

    Example:
        >>> import json
        >>> from pathlib import Path
        >>> from bcos_peft.evaluation import HumanKit, analyse_answers
        >>> from bcos_peft.evaluation.human import HumanPair
        >>> pairs = [HumanPair("p001", 0, "bcos", "random"), HumanPair("p002", 1, "random", "bcos")]
        >>> kit = HumanKit(pairs, kit="0123")
        >>> answers = [{"pair": "p001", "choice": "left", "seconds": 5.0}, {"pair": "p002", "choice": "tie"}]
        >>> file = {"format": "bcos_peft.human_answers", "version": 1, "kit": "0123", "reader": "a", "simulated": True}
        >>> _ = Path("answers.json").write_text(json.dumps(file | {"answers": answers}))
        >>> analyse_answers(kit, ["answers.json"], simulated=True).comparisons[0].win_rate.mean
        0.75

    Source: Krippendorff, Content Analysis (2004), chapter 11; the bootstrap: Owen (arXiv 0711.3070); the interval of
    equal answers: Wilson (1927), Journal of the American Statistical Association 22.
    """
    sheets = [_Sheet.read(Path(file), kit, simulated) for file in files]
    if not sheets:
        raise ValueError("There is no file of answers to analyse.")
    seen: dict[str, Path] = {}
    for sheet in sheets:
        if sheet.reader in seen:
            raise ValueError(
                f"{str(seen[sheet.reader])!r} and {str(sheet.path)!r} are of the same reader; pass the later one only."
            )
        seen[sheet.reader] = sheet.path
    # For the left one of each pair 1, for the right one 0, a tie ½; NaN: no answer.
    values = {"left": 1.0, "tie": 0.5, "right": 0.0}
    shown = np.array([[values.get(sheet.choices.get(pair.name), np.nan) for pair in kit.pairs] for sheet in sheets])
    known = ~np.isnan(shown)
    couples = sorted({pair.methods for pair in kit.pairs})
    texts = np.array([pair.text for pair in kit.pairs])
    comparisons = []
    for couple in couples:
        member = np.array([pair.methods == couple for pair in kit.pairs])
        for_first = np.where([pair.left == couple[0] for pair in kit.pairs], shown, 1 - shown)[:, member]
        counts = [int((for_first == value).sum()) for value in (1.0, 0.5, 0.0)]
        if sum(counts):
            rate = _two_way(for_first, texts[member], resamples, seed)
            comparisons.append(Comparison(*couple, *counts, rate))
    decided = np.where(shown == 0.5, np.nan, shown)
    alpha, note = _alpha(shown)
    seconds = list(itertools.chain.from_iterable(sheet.seconds for sheet in sheets))
    return HumanResult(
        kit=kit.kit,
        readers=len(sheets),
        judgements=int(known.sum()),
        comparisons=comparisons,
        alpha=alpha,
        alpha_note=note,
        left_share=_two_way(decided, texts, resamples, seed) if (~np.isnan(decided)).any() else None,
        median_seconds=float(np.median(seconds)) if seconds else None,
        simulated=simulated,
    )


@dataclass(frozen=True)
class _Sheet:
    """One reader's file."""

    path: Path
    reader: str
    choices: dict[str, str]
    seconds: list[float]

    @classmethod
    def read(cls, path: Path, kit: HumanKit, simulated: bool) -> _Sheet:
        values = _read_json(path, FORMAT, VERSION)
        where = repr(str(path))
        if values.get("kit") != kit.kit:
            raise ValueError(f"{where} answers the kit {values.get('kit')!r}, and the key is of {kit.kit!r}.")
        marked = bool(values.get("simulated", False))
        if marked and not simulated:
            raise ValueError(f"{where} is marked as simulated: no person has answered. simulated=True analyses it.")
        if simulated and not marked:
            raise ValueError(f"{where} is a person's; with simulated=True only simulated files are analysed.")
        answers, reader = values.get("answers"), values.get("reader")
        if not answers or not isinstance(answers, list) or not reader or not isinstance(reader, str):
            raise ValueError(f"{where} has no answers, or does not say of which reader.")
        left = [pair.name for pair in kit.pairs]
        choices: dict[str, str] = {}
        seconds = []
        for answer in answers:
            known = isinstance(answer, dict) and answer.get("pair") in left and answer.get("choice") in _CHOICES
            if not known:
                raise ValueError(f"{where} has an answer that the kit does not know: {json.dumps(answer)}.")
            left.remove(answer["pair"])
            choices[answer["pair"]] = answer["choice"]
            time = answer.get("seconds")
            if time is not None:
                if isinstance(time, bool) or not isinstance(time, (int, float)) or not 0 <= time < math.inf:
                    raise ValueError(f"{where} has an answer that took no time that can be: {json.dumps(answer)}.")
                seconds.append(float(time))
        return cls(path, reader, choices, seconds)


def _two_way(values: np.ndarray, texts: np.ndarray, resamples: int, seed: int) -> Interval:
    """The mean of what is known of `(readers, pairs)`, and its interval over drawn readers and drawn texts."""
    known = ~np.isnan(values)
    filled = np.where(known, values, 0.0)
    mean, count = float(filled.sum() / known.sum()), int(known.sum())
    names, members = np.unique(texts, return_inverse=True)
    # Answers of one reader are no independent ones, nor are those to one text: the fewer of both are what is known.
    units = min(int(known.any(1).sum()), len(np.unique(texts[known.any(0)])))
    if units == 1:
        return Interval(mean, float("nan"), float("nan"), count)
    generator = np.random.default_rng(seed)
    readers = generator.multinomial(len(values), [1 / len(values)] * len(values), size=resamples)
    drawn = generator.multinomial(len(names), [1 / len(names)] * len(names), size=resamples)[:, members]
    sums = np.einsum("nr,rp,np->n", readers, filled, drawn)
    sizes = np.einsum("nr,rp,np->n", readers, known.astype(float), drawn)
    means = sums[sizes > 0] / sizes[sizes > 0]
    low, high = np.quantile(means, [0.025, 0.975])
    if high - low < 1e-9:
        low, high = _wilson(mean, units)
    return Interval(mean, float(low), float(high), count)


def _wilson(rate: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a rate. (scipy's takes whole wins only, and a tie is half of one.)"""
    z = 1.959964
    middle, spread = rate + z**2 / (2 * count), z * (rate * (1 - rate) / count + z**2 / (4 * count**2)) ** 0.5
    whole = 1 + z**2 / count
    return max(0.0, (middle - spread) / whole), min(1.0, (middle + spread) / whole)


def _alpha(shown: np.ndarray) -> tuple[float | None, str]:
    """Krippendorff's alpha of choices `(readers, pairs)`, nominal, or why there is none."""
    if not (np.isfinite(shown).sum(0) >= 2).any():
        return None, "no pair has answers of two readers"
    twice = shown[:, np.isfinite(shown).sum(0) >= 2]
    if len(np.unique(twice[np.isfinite(twice)])) < 2:
        return None, "all answers are the same, and by chance alone they would be too"
    krippendorff = import_extra("krippendorff", "Agreement needs")
    return float(krippendorff.alpha(reliability_data=shown, level_of_measurement="nominal")), ""
