"""Rows of a result against each other: `compare` and `compare_all`."""

import pytest

from bcos_peft.evaluation import EvaluationResult, Record, Value


def test_compare_pairs_examples():
    def records(model, values):
        return [Record(model, "ig", "seqpg", key, {"seqpg": value}) for key, value in values.items()]

    keys = [str(i) for i in range(6)]
    first = records("a", dict.fromkeys(keys, 0.9) | {"only a": 0.0})
    second = records("b", dict.fromkeys(reversed(keys), 0.4) | {"only b": 1.0})
    result = EvaluationResult(first, {"seqpg": Value("SeqPG", True)}) + EvaluationResult(
        second, {"seqpg": Value("SeqPG", True)}
    )
    test = result.compare("a + ig", "b")
    assert test.difference.mean == pytest.approx(0.5)
    assert test.difference.count == 6
    assert test.p_value == 2 / 64
    with pytest.raises(ValueError, match="'ig' is more than one row; there are: 'a \\+ ig', 'b \\+ ig'"):
        result.compare("ig", "b")
    with pytest.raises(ValueError, match="'c' is no row"):
        result.compare("c", "b")
