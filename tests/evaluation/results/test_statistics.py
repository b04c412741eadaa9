"""Ranks, intervals and tests: values computed by hand, by equations of papers, and those of scikit-learn."""

import itertools
import sys
import tracemalloc
from statistics import NormalDist

import numpy as np
import pytest
import torch

from bcos_peft.evaluation.metrics.ranking import _average_precision, _expected_reciprocal_rank, _spearman, _top_tokens
from bcos_peft.evaluation.results import Interval, adjusted_p_values, bootstrap_interval, paired_test


def test_top_tokens_are_stable_and_leave_out_others():
    scores = torch.tensor([9.0, 1.0, 2.0, 2.0, 2.0, 9.0])
    assert _top_tokens(scores, torch.tensor([1, 2, 3, 4]), 3).tolist() == [2, 3, 4]
    assert _top_tokens(torch.zeros(300), torch.arange(300), 5).tolist() == [0, 1, 2, 3, 4]


def test_reciprocal_rank_is_the_mean_over_orders_of_ties():
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        scores = torch.randint(3, (5,), generator=generator).float()
        relevant = torch.rand(5, generator=generator) > 0.5
        relevant[0] = True
        ranks = []
        for shuffled in itertools.permutations(range(5)):
            order = sorted(shuffled, key=lambda i: -scores[i])
            ranks.append(1 / (1 + min(order.index(i) for i in range(5) if relevant[i])))
        assert _expected_reciprocal_rank(scores, relevant) == pytest.approx(np.mean(ranks))
    with pytest.raises(ValueError, match="no token"):
        _expected_reciprocal_rank(scores, torch.zeros(5, dtype=torch.bool))


def test_average_precision_by_hand():
    relevant = torch.tensor([True, False, True, False])
    assert _average_precision(torch.tensor([4.0, 3.0, 2.0, 1.0]), relevant) == pytest.approx((1 + 2 / 3) / 2)
    assert _average_precision(torch.zeros(4), relevant) == 0.5


@pytest.mark.newest  # needs scikit-learn
def test_average_precision_agrees_with_scikit_learn():
    from sklearn.metrics import average_precision_score

    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        scores = torch.randint(6, (20,), generator=generator).float()
        relevant = torch.rand(20, generator=generator) > 0.6
        assert _average_precision(scores, relevant) == pytest.approx(average_precision_score(relevant, scores))


def test_rank_correlation_by_hand():
    rising = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert _spearman(rising, rising.exp()) == pytest.approx(1)
    assert _spearman(rising, -rising) == pytest.approx(-1)
    # Ranks 1, 2.5, 2.5, 4 and 1, 4, 2.5, 2.5: a covariance of 2.25, and variances of 4.5.
    ties = torch.tensor([1.0, 2.0, 2.0, 3.0]), torch.tensor([1.0, 3.0, 2.0, 2.0])
    assert _spearman(*ties) == pytest.approx(0.5)
    assert _spearman(rising, torch.ones(4)) == _spearman(torch.ones(4), rising) == 0


def test_interval():
    few, many = bootstrap_interval([0.0, 1.0] * 5), bootstrap_interval([0.0, 1.0] * 500)
    assert few.mean == many.mean == 0.5
    assert few.high - few.low > 5 * (many.high - many.low)
    assert bootstrap_interval([0.0, 1.0] * 50) == bootstrap_interval([0.0, 1.0] * 50)
    assert bootstrap_interval(range(50)) != bootstrap_interval(range(50), seed=1)
    assert np.isnan(bootstrap_interval([1.0]).low)
    with pytest.raises(ValueError, match="not finite at 1"):
        bootstrap_interval([1.0, float("nan")])
    with pytest.raises(ValueError, match="confidence"):
        bootstrap_interval([1.0, 2.0], confidence=95)


@pytest.mark.filterwarnings("error")
def test_interval_of_values_that_hardly_differ():
    assert bootstrap_interval([1 / 3] * 100) == Interval(1 / 3, 1 / 3, 1 / 3, 100)
    almost = bootstrap_interval([1.0] * 9 + [1 - 2e-16])  # every resample's mean is on one side, by rounding
    assert (almost.low, almost.high) == pytest.approx((1, 1), abs=1e-15)
    tiny = bootstrap_interval([1e-13, 2e-13, 6e-13, 3e-13])
    whole = bootstrap_interval([1.0, 2.0, 6.0, 3.0])
    assert (tiny.low * 1e13, tiny.high * 1e13) == pytest.approx((whole.low, whole.high))
    assert (bootstrap_interval([0.0, 1.0]).low, bootstrap_interval([0.0, 1.0]).high) == (0, 1)


def test_interval_is_that_of_all_resamples():
    """BCa by its equations (Efron 1987), over each of the 46,656 ways to draw six values."""
    values = np.array([0.0, 0.37, 0.53, 1.13, 2.71, 7.9])
    normal = NormalDist()
    means = np.array(list(itertools.product(values, repeat=6))).mean(1).round(9)
    mean = values.mean().round(9)
    bias = normal.inv_cdf(((means < mean).mean() + (means <= mean).mean()) / 2)
    away = values - values.mean()
    acceleration = (away**3).sum() / (6 * (away**2).sum() ** 1.5)
    wide = 1.475884 * (6 / 5) ** 0.5  # Student's t with five degrees of freedom, at 90 %
    ends = [normal.cdf(bias + (bias + z) / (1 - acceleration * (bias + z))) for z in (-wide, wide)]
    low, high = np.quantile(means, ends)
    found = bootstrap_interval(values, 0.8, resamples=50_000)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.1)
    percentiles = np.quantile(means, [normal.cdf(-wide), normal.cdf(wide)])
    assert (np.array([low, high]) - percentiles > 0.2).all(), (
        "other than percentiles, it leans to where values are far"
    )


@pytest.mark.parametrize(("count", "least"), [(5, 0.89), (10, 0.93)])
def test_interval_holds_the_mean_as_often_as_it_says(count, least):
    """Of 5 and 10 normal values: in 91 and 95 %. Percentiles of a bootstrap do so in 83 and 91 %."""
    generator = np.random.default_rng(0)
    intervals = [bootstrap_interval(generator.normal(size=count), resamples=1000) for _ in range(1500)]
    assert least < np.mean([each.low <= 0 <= each.high for each in intervals]) < 0.98


def test_large_data_is_drawn_in_parts(monkeypatch):
    values = np.random.default_rng(0).normal(size=1000)
    whole = bootstrap_interval(values)
    monkeypatch.setattr("bcos_peft.evaluation.results.statistics._CELLS", 50_000)
    tracemalloc.start()
    assert bootstrap_interval(values) == whole
    paired_test(values, values + 1, resamples=500)
    assert tracemalloc.get_traced_memory()[1] < 8 * 2**20  # 2,000 resamples of them at once are 16 MB
    tracemalloc.stop()


def test_paired_test_by_hand():
    # Of the 8 sign patterns, two have a mean difference as large as 2: all plus, all minus.
    test = paired_test([3.0, 3.0, 4.0], [1.0, 2.0, 1.0])
    assert test.p_value == 0.25
    assert test.difference.mean == 2
    assert test.adjusted is None
    for unit in (1e-13, 1e-7, 1.0, 1e9):  # whatever the unit of the numbers
        assert paired_test([unit * i for i in range(1, 13)], [0.0] * 12).p_value == 2 / 2**12
    assert paired_test([0.5] * 5, [0.5] * 5).p_value == 1
    assert paired_test([0.5], [0.25]).p_value == 1
    assert paired_test([1.0] * 30, [0.0] * 30).p_value == pytest.approx(1 / 10_001)
    with pytest.raises(ValueError, match="as many"):
        paired_test([1.0], [1.0, 2.0])


def test_paired_test_over_all_signs():
    generator = np.random.default_rng(0)
    for count, close in ((6, 1e-12), (14, 1e-12), (16, 0.015)):  # beyond 14, random ones of the signs
        first, second = generator.normal(size=(2, count)) + np.array([[0.4], [0.0]])
        signs = np.array(list(itertools.product((1, -1), repeat=count)))
        sums = np.abs(signs @ (first - second))
        expected = (sums >= sums[0] - 1e-12).mean()
        assert 0.01 < expected < 0.9
        found = paired_test(first, second)
        assert found.p_value == pytest.approx(expected, abs=close)
        assert found == paired_test(first, second)
        assert paired_test(second, first).p_value == pytest.approx(expected, abs=close)


def test_sums_that_differ_by_rounding_are_equal():
    # The differences are -0.2, -0.7, 0.7, 0.4 and -0.2, and their sum is zero, but for the last bits.
    first, second = [0.2, 0.2, 0.9, 0.6, 0.5], [0.4, 0.9, 0.2, 0.2, 0.7]
    assert 0 < abs(sum(np.subtract(first, second))) < 1e-15
    assert paired_test(first, second).p_value == 1


def test_adjusted_p_values_by_hand():
    p_values = [0.01, 0.04, 0.03, 0.005]
    # In order 0.005, 0.01, 0.03, 0.04, times 4, 4/2, 4/3 and 1, and none above the one after it.
    assert adjusted_p_values(p_values) == pytest.approx([0.02, 0.04, 0.04, 0.02])
    harmonic = 1 + 1 / 2 + 1 / 3 + 1 / 4
    assert adjusted_p_values(p_values, "by") == pytest.approx([harmonic * p for p in (0.02, 0.04, 0.04, 0.02)])
    # Times 4, 3, 2 and 1, and none below the one before it.
    assert adjusted_p_values(np.array(p_values), "holm") == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert adjusted_p_values([0.9, 0.8], "holm") == [1, 1]
    assert p_values == [0.01, 0.04, 0.03, 0.005]
    assert adjusted_p_values([0.2]) == adjusted_p_values([0.2], "by") == adjusted_p_values([0.2], "holm") == [0.2]


def test_adjusted_p_values_of_the_paper():
    """The example of Benjamini & Hochberg (1995), section 4.1: four are rejected, and three by Bonferroni."""
    p_values = [
        0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590,
        1.0000,
    ]  # fmt: skip
    assert sum(p < 0.05 for p in adjusted_p_values(p_values)) == 4
    assert sum(p < 0.05 for p in adjusted_p_values(p_values, "holm")) == 3


def test_p_values_that_are_none():
    for wrong, said in (([], "at least one"), ([0.5, 1.5], "between 0 and 1, got .*1.5"), ([-0.1], "between 0 and 1")):
        with pytest.raises(ValueError, match=said):
            adjusted_p_values(wrong)
    with pytest.raises(ValueError, match="'bh', 'by' or 'holm', got 'bonferroni'"):
        adjusted_p_values([0.5], "bonferroni")


def test_without_scipy(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    assert bootstrap_interval([2.0] * 5).high == 2
    wanted = r'need scipy: pip install "bcos-peft\[evaluation\]"'
    for call in (
        lambda: bootstrap_interval([1.0, 2.0]),
        lambda: paired_test([1.0, 2.0], [0.0, 0.0]),
        lambda: adjusted_p_values([0.5]),
        lambda: _spearman(torch.arange(3.0), torch.arange(3.0)),
    ):
        with pytest.raises(ImportError, match=wanted):
            call()
