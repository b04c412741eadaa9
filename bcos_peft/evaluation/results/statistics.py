"""How sure is a mean, and do methods differ? Bootstrap intervals, a paired test, and p-values that are many."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bcos_peft._utils.arguments import checked_arguments
from bcos_peft._utils.imports import import_extra


_EXACT = 14  # so many pairs have 16,384 signs: all of them are tried
_CELLS = 4_000_000  # numbers drawn at once


def format_number(value: float) -> str:
    """Three digits behind the point, or an exponent where they would show nothing.

    Args:
        value (`float`): any.

    Example:
        >>> from bcos_peft.evaluation.results import format_number
        >>> format_number(0.25), format_number(2e-6), format_number(0.0)
        ('0.250', '2.0e-06', '0.000')
    """
    return f"{value:.1e}" if value and (abs(value) < 5e-4 or abs(value) >= 1e5) else f"{value:.3f}"


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval.

    Args:
        mean (`float`): of the examples.
        low (`float`): lower end.
        high (`float`): upper end.
        count (`int`): how many examples.

    Example:
        >>> from bcos_peft.evaluation.results import Interval
        >>> str(Interval(0.5, 0.25, 0.75, 10))
        '0.500 [0.250, 0.750]'
    """

    mean: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        if self.low != self.low:
            return format_number(self.mean)
        return f"{format_number(self.mean)} [{format_number(self.low)}, {format_number(self.high)}]"


@dataclass(frozen=True)
class PairedTest:
    """What `paired_test` returns.

    Args:
        difference (`Interval`): mean of first minus second, over the examples that both have.
        p_value (`float`): two-sided; how often chance alone gives a mean difference as large.
        adjusted (`float`, *optional*): the p-value where this is one of several tests, see `adjusted_p_values`.

    Example:
        >>> from bcos_peft.evaluation.results import paired_test
        >>> paired_test([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]).p_value
        1.0
    """

    difference: Interval
    p_value: float
    adjusted: float | None = None


@checked_arguments
def bootstrap_interval(
    values: Sequence[float], confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """The mean of values and its bootstrap interval: bias-corrected and accelerated (BCa), widened for few values.

    Of few values a bootstrap interval is too narrow, BCa too. So its level is raised as Student's t is wider than the
    normal distribution; other than an interval of t itself, it stays within the values. An interval of 95 % then holds
    the true mean of 5, 10 and 30 values in so many cases (10,000 simulations each):

    - of normal values in 91, 95 and 95 % (BCa alone: 84, 91 and 93 %; percentiles: 83, 91 and 94 %),
    - of skewed (exponential) ones in 88, 92 and 94 % (BCa alone: 81, 87 and 93 %; percentiles: 79, 86 and 92 %).

    Of fewer than five values it is still too narrow: the true mean is often outside of them all (of 2 normal values in
    half of the cases, of 3 in a quarter). Of values that are all equal its ends are that value, however few.

    Args:
        values (`Sequence[float]`): one number for each example.
        confidence (`float`, defaults to 0.95): how often the interval should hold the true mean, 0 to 1.
        resamples (`int`, defaults to 2000): how many samples are drawn with replacement.
        seed (`int`, defaults to 0): of the draws.

    Returns:
        [`Interval`]: for a single value its ends are not known (NaN).

    Raises:
        ValueError: there is no value, one is not finite, or `confidence` is not between 0 and 1.
        ImportError: scipy is not installed.

    Example:
        >>> from bcos_peft.evaluation.results import bootstrap_interval
        >>> interval = bootstrap_interval([0.0, 1.0] * 50)
        >>> interval.mean, interval.low < 0.5 < interval.high
        (0.5, True)

    Source: Efron (1987), Journal of the American Statistical Association 82(397), for BCa; Hesterberg (arXiv
    1411.5279) for the width. `scipy.stats.bootstrap` computes it.
    """
    array = _checked(values, "values")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence!r}.")
    count, mean = len(array), float(array.mean())
    if count == 1:
        return Interval(mean, float("nan"), float("nan"), 1)
    if array.min() == array.max():
        return Interval(*[float(array[0])] * 3, count)
    stats = _scipy_stats()
    wide = stats.t.ppf((1 + confidence) / 2, count - 1) * (count / (count - 1)) ** 0.5
    # More than the outermost resamples there is not to be had.
    level = min(2 * stats.norm.cdf(wide) - 1, 1 - 1 / resamples)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where values differ by rounding only: see below
        found = stats.bootstrap(
            (array,),
            np.mean,
            n_resamples=resamples,
            batch=max(1, _CELLS // count),
            vectorized=True,
            confidence_level=level,
            method="BCa",
            rng=np.random.default_rng(seed),
        )
    low, high = found.confidence_interval
    if np.isnan([low, high]).any():  # all resamples are on one side of the mean: BCa has no correction
        low, high = np.quantile(found.bootstrap_distribution, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, float(low), float(high), count)


@checked_arguments
def paired_test(
    first: Sequence[float], second: Sequence[float], confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> PairedTest:
    """Whether two methods differ on the same examples: a permutation test that swaps them, example by example.

    If the methods were alike, each difference could as well have the other sign. All signs are tried for up to 14
    examples, else `resamples` random ones (or all, if these are no more).

    Args:
        first (`Sequence[float]`): one number for each example.
        second (`Sequence[float]`): the same of another method, example by example.
        confidence (`float`, defaults to 0.95): of the interval of the mean difference.
        resamples (`int`, defaults to 10000): how many random sign patterns are tried.
        seed (`int`, defaults to 0): of the draws.

    Returns:
        [`PairedTest`]

    Raises:
        ValueError: there are not as many numbers in both, or one is not finite.
        ImportError: scipy is not installed.

    Example:
        >>> from bcos_peft.evaluation.results import paired_test
        >>> test = paired_test([0.9, 0.8, 0.7, 0.9, 0.8, 0.9], [0.1, 0.2, 0.1, 0.3, 0.2, 0.1])
        >>> round(test.difference.mean, 3), test.p_value
        (0.667, 0.03125)

    Source: Fisher's randomisation test for pairs; Dror et al. (ACL 2018) on testing in NLP.
    `scipy.stats.permutation_test` computes it.
    """
    differences = _checked(first, "first") - _same_length(first, second)
    interval = bootstrap_interval(differences, confidence, seed=seed)
    count, largest = len(differences), np.abs(differences).max()
    if count == 1 or largest == 0:  # scipy asks for two, and nothing can be divided by zero
        return PairedTest(interval, 1.0)
    stats = _scipy_stats()
    with np.errstate(over="ignore"):  # scipy counts all signs, older releases as a float
        found = stats.permutation_test(
            (differences / largest,),
            _distance,
            permutation_type="samples",  # of one sample: its signs
            n_resamples=np.inf if count <= _EXACT else resamples,
            batch=max(1, _CELLS // count),
            vectorized=True,
            alternative="greater",
            rng=np.random.default_rng(seed),
        )
    return PairedTest(interval, float(found.pvalue))


def _distance(differences: np.ndarray, axis: int) -> np.ndarray:
    """How far a mean is from zero. Sums in another order may differ in the last bits: rounded, they are equal."""
    return np.abs(differences.mean(axis)).round(12)


def adjusted_p_values(p_values: Sequence[float], method: str = "bh") -> list[float]:
    """P-values of several tests, each raised so that it can be read as if it were the only one.

    Of twenty tests where nothing differs, one is below 0.05 by chance alone. Of those whose adjusted p-value is below
    0.05, at most 5 % are so by chance, in the mean (`"bh"`, `"by"`); or there is not even one, in 95 % of the cases
    (`"holm"`).

    Args:
        p_values (`Sequence[float]`): one for each test, 0 to 1.
        method (`str`, defaults to `"bh"`): `"bh"` (Benjamini-Hochberg) for tests that are independent or go together,
            as comparisons with one and the same method do; `"by"` (Benjamini-Yekutieli) and `"holm"` for any tests.

    Returns:
        `list[float]`: in the order of `p_values`.

    Raises:
        ValueError: there is no p-value, one is not between 0 and 1, or there is no such method.
        ImportError: scipy is not installed.

    Example:
        >>> from bcos_peft.evaluation.results import adjusted_p_values
        >>> adjusted_p_values([0.01, 0.02, 0.5])
        [0.03, 0.03, 0.5]

    Source: Benjamini & Hochberg (1995), Journal of the Royal Statistical Society B 57(1), for `"bh"`; Benjamini &
    Yekutieli (2001), Annals of Statistics 29(4), for `"by"`; Holm (1979), Scandinavian Journal of Statistics 6(2).
    """
    array = _checked(p_values, "p_values")
    if array.min() < 0 or array.max() > 1:
        raise ValueError(
            f"p_values must be between 0 and 1, got {[value for value in p_values if not 0 <= value <= 1]}."
        )
    if method not in ("bh", "by", "holm"):
        raise ValueError(f"method must be 'bh', 'by' or 'holm', got {method!r}.")
    if method != "holm":
        return _scipy_stats().false_discovery_control(array, method=method).tolist()
    # scipy has no Holm: the smallest times all, the next times one less, and none below the one before.
    order = np.argsort(array)
    raised = np.maximum.accumulate(array[order] * np.arange(len(array), 0, -1))
    return np.minimum(raised, 1)[np.argsort(order)].tolist()


def _scipy_stats():
    return import_extra("scipy.stats", "Intervals and tests need")


def _checked(values: Sequence[float], name: str) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"{name} must be a list of at least one number, got shape {array.shape}.")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} has a number that is not finite at {int(np.flatnonzero(~np.isfinite(array))[0])}.")
    return array


def _same_length(first: Sequence[float], second: Sequence[float]) -> np.ndarray:
    if len(first) != len(second):
        raise ValueError(f"first has {len(first)} numbers and second {len(second)}; a paired test needs as many.")
    return _checked(second, "second")
