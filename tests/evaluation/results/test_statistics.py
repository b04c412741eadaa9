"""Ranks, intervals and the paired test: values computed by hand, and those of scipy and scikit-learn."""

import itertools

import numpy as np
import pytest
import torch

from bcos_peft.evaluation.metrics.ranking import _average_precision, _expected_reciprocal_rank, _spearman, _top_tokens
from bcos_peft.evaluation.results import bootstrap_interval, paired_test


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


@pytest.mark.newest
def test_ranks_agree_with_scipy_and_scikit_learn():
    from scipy.stats import spearmanr
    from sklearn.metrics import average_precision_score

    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        a, b = torch.randint(6, (2, 20), generator=generator).float()
        relevant = torch.rand(20, generator=generator) > 0.6
        assert _spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)
        assert _average_precision(a, relevant) == pytest.approx(average_precision_score(relevant, a))
    assert _spearman(a, torch.ones(20)) == 0


def test_interval():
    assert bootstrap_interval([2.0] * 5) == bootstrap_interval([2.0] * 5, seed=1)
    few, many = bootstrap_interval([0.0, 1.0] * 5), bootstrap_interval([0.0, 1.0] * 500)
    assert few.mean == many.mean == 0.5
    assert few.high - few.low > 5 * (many.high - many.low)
    assert np.isnan(bootstrap_interval([1.0]).low)
    with pytest.raises(ValueError, match="not finite at 1"):
        bootstrap_interval([1.0, float("nan")])
    with pytest.raises(ValueError, match="confidence"):
        bootstrap_interval([1.0, 2.0], confidence=95)


@pytest.mark.newest
def test_interval_and_test_agree_with_scipy():
    from scipy import stats

    generator = np.random.default_rng(0)
    values = generator.normal(size=80)
    ours = bootstrap_interval(values, resamples=20_000)
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20_000).confidence_interval
    assert ours.low == pytest.approx(theirs.low, abs=0.01)
    assert ours.high == pytest.approx(theirs.high, abs=0.01)
    for count in (6, 40):
        first, second = generator.normal(size=(2, count)) + np.array([[0.4], [0.0]])
        expected = stats.permutation_test(
            (first, second), lambda a, b: (a - b).mean(), permutation_type="samples", n_resamples=20_000
        )
        assert paired_test(first, second).p_value == pytest.approx(expected.pvalue, abs=0.02)


def test_paired_test_by_hand():
    # Of the 8 sign patterns, two have a mean difference as large as 2: all plus, all minus.
    test = paired_test([3.0, 3.0, 4.0], [1.0, 2.0, 1.0])
    assert test.p_value == 0.25
    assert test.difference.mean == 2
    for unit in (1e-13, 1e-7, 1.0, 1e9):  # whatever the unit of the numbers
        assert paired_test([unit * i for i in range(1, 13)], [0.0] * 12).p_value == 2 / 2**12
    assert paired_test([0.5] * 5, [0.5] * 5).p_value == 1
    assert paired_test([1.0] * 30, [0.0] * 30).p_value == pytest.approx(1 / 10_001)
    with pytest.raises(ValueError, match="as many"):
        paired_test([1.0], [1.0, 2.0])
