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


def test_compare_all_adjusts_for_how_many_rows_there_are():
    numbers = {"best": [0.5] * 8, "good": [0.5, -0.1, *[0.5] * 6], "alike": [0.1, -0.1] * 4, "random": [0.0] * 8}
    records = [
        Record("a", method, "seqpg", str(i), {"seqpg": value})
        for method, values in numbers.items()
        for i, value in enumerate(values)
    ]
    records.append(Record("a", "elsewhere", "seqpg", "another", {"seqpg": 1.0}))
    result = EvaluationResult(records, {"seqpg": Value("SeqPG", True)})
    tests = result.compare_all("random")
    assert list(tests) == [("a", "best"), ("a", "good"), ("a", "alike")], "no example in common with 'elsewhere'"
    # As extreme are all plus and all minus; with 'good', also these two with the small one turned.
    assert [test.p_value for test in tests.values()] == [2 / 256, 4 / 256, 1]
    assert [test.adjusted for test in tests.values()] == pytest.approx([2 / 256 * 3, 4 / 256 * 3 / 2, 1])
    assert [test.adjusted for test in result.compare_all("random", method="holm").values()] == pytest.approx(
        [2 / 256 * 3, 4 / 256 * 2, 1]
    )
    assert tests["a", "best"].difference == result.compare("best", "random").difference
    with pytest.raises(ValueError, match="No other row has an example of 'seqpg' in common with 'elsewhere'"):
        result.compare_all("elsewhere")
    with pytest.raises(ValueError, match="'c' is no row"):
        result.compare_all("c")
