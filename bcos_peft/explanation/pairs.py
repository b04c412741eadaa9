"""Why one document is ranked before another: two explanations of pairs with the same first text. Pure data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bcos_peft.explanation.contribution import Contribution
from bcos_peft.explanation.explanation import Explanation


@dataclass(frozen=True)
class PairDifference:
    """By how much one pair has a larger logit than another with the same first text, and what makes the difference.

    `Σ query + first − second + rest + residual == logit`.

    Attributes:
        query (`list[Contribution]`): the words of the text that both share, with the difference of what they add.
        first (`float`): what the tokens of the first pair's document add to its logit.
        second (`float`): what those of the second's add to the other.
        rest (`float`): the difference of everything else: special tokens, a baseline, constants.
        logit (`float`): the difference of the logits.
        residual (`float`): zero to rounding.

    Example:
        >>> from bcos_peft.explanation import PairDifference
        >>> PairDifference(query=[], first=2.0, second=0.5, rest=0.0, logit=1.5, residual=0.0).logit
        1.5
    """

    query: list[Contribution]
    first: float
    second: float
    rest: float
    logit: float
    residual: float


def pair_difference(first: Explanation, second: Explanation) -> PairDifference:
    """Why a reranker puts one document before another.

    Args:
        first ([`Explanation`]): of the query and a document.
        second ([`Explanation`]): of the same query and the runner-up.

    Returns:
        [`PairDifference`]

    Raises:
        ValueError: they are no explanations of pairs, or the queries, their tokens or the targets differ.

    Example:
        >>> from bcos_peft.explanation import Explanation, pair_difference
        >>> def pair(document, scores):
        ...     return Explanation(
        ...         tokens=["ships", document], scores=scores, text=("ships", document), token_ids=[1, 2],
        ...         offsets=[(0, 5), (0, len(document))], sequence_ids=[0, 1], special=[False, False], target=0,
        ...         target_label="fits", predicted=0, predicted_label="fits", logit=sum(scores), probability=None,
        ...     )
        >>> found = pair_difference(pair("boats", [1.0, 2.0]), pair("trees", [0.5, -1.0]))
        >>> [(word.text, word.score) for word in found.query], found.first, found.second, found.logit
        ([('ships', 0.5)], 2.0, -1.0, 3.5)
    """
    for one in (first, second):
        if isinstance(one.text, str):
            raise ValueError(f"pair_difference compares pairs of texts; {one.text[:60]!r} stands alone.")
    if first.text[0] != second.text[0]:
        raise ValueError(f"the first texts differ: {first.text[0][:60]!r} and {second.text[0][:60]!r}.")
    if first.target != second.target or first.foil != second.foil:
        raise ValueError(f"the targets differ: {first.target_label!r} and {second.target_label!r}.")
    one, other = (explanation.words() for explanation in (first, second))
    ours, theirs = ([word for word in words if word.sequence_id == 0] for words in (one, other))
    if [word.text for word in ours] != [word.text for word in theirs]:
        raise ValueError("the first text was cut where a document was long: pass documents that are shorter.")
    query = [
        Contribution(a.text, a.score - b.score, a.start, a.end, a.index, 0, False, a.token_indices)
        for a, b in zip(ours, theirs, strict=True)
    ]
    sums = [_sum_of(explanation, 1) for explanation in (first, second)]
    shared = [_sum_of(explanation, 0) for explanation in (first, second)]
    rest = first.total - shared[0] - sums[0] - (second.total - shared[1] - sums[1])
    return PairDifference(
        query=query,
        first=sums[0],
        second=sums[1],
        rest=rest,
        logit=first.logit - second.logit,
        residual=first.residual - second.residual,
    )


def _sum_of(explanation: Explanation, sequence: int) -> float:
    members = np.array([number == sequence for number in explanation.sequence_ids])
    return float(explanation.scores[members].sum())
