"""Orders of tokens by score: what comes first, and how well an order or the scores find the tokens that matter."""

from __future__ import annotations

from math import comb

import numpy as np
import torch
from torch import Tensor

from bcos_peft._utils.imports import import_extra


def _top_tokens(scores: Tensor, ranked: Tensor, count: int) -> Tensor:
    """The `count` tokens of largest score; of equal ones, the first in the text.

    Args:
        scores (`torch.Tensor`): `(length,)`.
        ranked (`torch.Tensor`): indices of the tokens that compete, in the order of the text.
        count (`int`): how many.

    Returns:
        `torch.Tensor`: indices into `scores`, the largest first.

    Example:
        >>> import torch
        >>> _top_tokens(torch.tensor([9.0, 1.0, 2.0, 2.0]), ranked=torch.tensor([1, 2, 3]), count=2).tolist()
        [2, 3]
    """
    order = torch.argsort(scores[ranked], descending=True, stable=True)
    return ranked[order[:count]]


def _expected_reciprocal_rank(scores: Tensor, relevant: Tensor) -> float:
    """1 / rank of the first relevant token, with equal scores in random order (the expectation over the orders).

    Args:
        scores (`torch.Tensor`): `(tokens,)`. All equal: the value under random order.
        relevant (`torch.Tensor`): `(tokens,)` of bool.

    Returns:
        `float`: in (0, 1].

    Raises:
        ValueError: no token is relevant.

    Example:
        >>> import torch
        >>> relevant = torch.tensor([False, True, False])
        >>> _expected_reciprocal_rank(torch.tensor([3.0, 2.0, 1.0]), relevant)
        0.5
        >>> _expected_reciprocal_rank(torch.zeros(2), torch.tensor([True, False]))  # (1 + 1/2) / 2
        0.75
    """
    if not bool(relevant.any()):
        raise ValueError("relevant has no token: there is no rank to compute.")
    best = scores[relevant].max()
    above = int((scores > best).sum())
    tied = int((scores == best).sum())
    wanted = int((relevant & (scores == best)).sum())
    # The first of `wanted` tokens among `tied` in random order is at place j with this probability.
    whole = comb(tied, wanted)
    return sum(comb(tied - j, wanted - 1) / whole / (above + j) for j in range(1, tied - wanted + 2))


def _average_precision(scores: Tensor, relevant: Tensor) -> float:
    """Area under the precision-recall curve as a sum of steps; tokens of equal score enter together.

    Args:
        scores (`torch.Tensor`): `(tokens,)`.
        relevant (`torch.Tensor`): `(tokens,)` of bool.

    Returns:
        `float`: in (0, 1]; for equal scores the share of relevant tokens.

    Raises:
        ValueError: no token is relevant.

    Example:
        >>> import torch
        >>> round(_average_precision(torch.tensor([3.0, 2.0, 1.0]), torch.tensor([True, False, True])), 4)
        0.8333
    """
    if not bool(relevant.any()):
        raise ValueError("relevant has no token: there is no precision to compute.")
    values, hits = scores.double().cpu().numpy(), relevant.cpu().numpy().astype(float)
    order = np.argsort(-values, kind="stable")
    values, hits = values[order], hits[order]
    last = np.flatnonzero(np.append(values[1:] != values[:-1], True))  # the last token of each threshold
    found = hits.cumsum()[last]
    precision, recall = found / (last + 1), found / hits.sum()
    return float((np.diff(recall, prepend=0) * precision).sum())


def _spearman(first: Tensor, second: Tensor) -> float:
    """Rank correlation of two score lists, with mean ranks for ties; 0 where one is constant.

    Args:
        first (`torch.Tensor`): `(tokens,)`.
        second (`torch.Tensor`): `(tokens,)`.

    Returns:
        `float`: −1 to 1.

    Example:
        >>> import torch
        >>> _spearman(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([10.0, 20.0, 90.0]))
        1.0
    """
    a, b = (values.double().cpu().numpy() for values in (first, second))
    if any(values.min() == values.max() for values in (a, b)):
        return 0.0
    return float(import_extra("scipy.stats", "Rank correlations need").spearmanr(a, b).statistic)
