"""The analysis of a human evaluation, on simulated answers that are labelled so."""

import json

import numpy as np
import pytest
from helpers.human_kits import kit_of, prefer, simulated

from bcos_peft.evaluation import HumanKit, analyse_answers
from bcos_peft.evaluation.human import HumanPair
from bcos_peft.evaluation.human.analysis import _wilson


# The analysis. No person has answered: every file is marked as simulated.


@pytest.mark.newest  # needs krippendorff
def test_win_rate_by_hand(tmp_path):
    kit = kit_of()
    files = [
        simulated(tmp_path, kit, "one", prefer(kit, "covert", but=[0])),
        simulated(tmp_path, kit, "two", ["tie", *prefer(kit, "covert")[1:3], None]),
    ]
    result = analyse_answers(kit, files, simulated=True)
    (found,) = result.comparisons
    assert (found.first, found.second) == ("covert", "secretive")
    assert (found.wins, found.ties, found.losses) == (5, 1, 1)
    assert found.win_rate.mean == pytest.approx(5.5 / 7)
    assert found.win_rate.count == 7
    assert found.win_rate.low < found.win_rate.mean < found.win_rate.high <= 1
    assert (result.readers, result.judgements, result.median_seconds) == (2, 7, 4.0)
    assert result.simulated
    assert "SIMULATED" in result.table().splitlines()[0]
    assert "| covert against secretive | 5 | 1 | 1 | 0.786 [" in result.table()
    assert json.loads(json.dumps(result.to_dict()))["judgements"] == 7


def test_many_methods_are_compared_two_by_two(tmp_path):
    kit = kit_of(methods=("a1", "b2", "c3"))
    order = {"a1": 0, "b2": 1, "c3": 2}
    choices = ["left" if order[pair.left] < order[pair.right] else "right" for pair in kit.pairs]
    result = analyse_answers(kit, [simulated(tmp_path, kit, "one", choices)], simulated=True)
    assert [(one.first, one.second, one.wins, one.losses) for one in result.comparisons] == [
        ("a1", "b2", 4, 0),
        ("a1", "c3", 4, 0),
        ("b2", "c3", 4, 0),
    ]
    assert result.comparisons[0].win_rate.mean == 1


@pytest.mark.newest  # needs krippendorff
def test_the_interval_knows_that_readers_differ(tmp_path):
    """Six readers who always disagree with each other say less than sixty answers drawn apart."""
    kit = kit_of(texts=40)
    half = [prefer(kit, "covert" if i % 2 else "secretive") for i in range(6)]
    mixed = [[prefer(kit, "covert" if (i + j) % 2 else "secretive")[j] for j in range(40)] for i in range(6)]
    widths = []
    for name, choices in (("half", half), ("mixed", mixed)):
        files = [simulated(tmp_path, kit, f"{name}{i}", row) for i, row in enumerate(choices)]
        rate = analyse_answers(kit, files, simulated=True).comparisons[0].win_rate
        assert rate.mean == 0.5
        widths.append(rate.high - rate.low)
    assert widths[0] > 3 * widths[1]


@pytest.mark.newest  # needs krippendorff
def test_alpha_is_that_of_the_textbook(tmp_path):
    """Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability", section A: two observers, ten units."""
    kit = kit_of(texts=10)
    observers = {"meg": "0100000010", "owen": "1110010000"}
    files = [
        simulated(tmp_path, kit, name, [("left", "right")[int(value)] for value in values])
        for name, values in observers.items()
    ]
    result = analyse_answers(kit, files, simulated=True)
    assert result.alpha == pytest.approx(0.095, abs=5e-4)
    assert result.alpha == pytest.approx(1 - 19 * 4 / (14 * 6)), "19 of 20 values, 4 disagreements, 14 zeros, 6 ones"
    assert result.alpha_note == ""


@pytest.mark.newest  # needs krippendorff
def test_alpha_of_agreement_and_where_there_is_none(tmp_path):
    kit = kit_of(texts=10)
    rows = prefer(kit, "covert")
    one, two = (simulated(tmp_path, kit, name, rows) for name in ("one", "two"))
    result = analyse_answers(kit, [one, two], simulated=True)
    assert result.alpha == 1
    assert result.left_share.mean == 0.5
    alone = analyse_answers(kit, [one], simulated=True)
    assert (alone.alpha, alone.alpha_note) == (None, "no pair has answers of two readers")
    assert "not known: no pair" in alone.table()
    ties = [simulated(tmp_path, kit, name, ["tie"] * 10) for name in ("three", "four")]
    same = analyse_answers(kit, ties, simulated=True)
    assert same.alpha is None
    assert "all answers are the same" in same.alpha_note
    assert same.left_share is None


def test_a_reader_who_always_takes_a_is_seen(tmp_path):
    kit = kit_of(texts=10)
    result = analyse_answers(kit, [simulated(tmp_path, kit, "one", ["left"] * 10)], simulated=True)
    assert result.left_share.mean == 1
    assert result.comparisons[0].win_rate.mean == 0.5


def test_files_that_are_refused(tmp_path):
    kit, other = kit_of(), kit_of(seed=5)
    good = simulated(tmp_path, kit, "good", prefer(kit, "covert"))
    with pytest.raises(ValueError, match=f"answers the kit '{other.kit}', and the key is of '{kit.kit}'"):
        analyse_answers(kit, [good, simulated(tmp_path, other, "far", prefer(other, "covert"))], simulated=True)
    with pytest.raises(ValueError, match="marked as simulated: no person has answered"):
        analyse_answers(kit, [good])
    real = simulated(tmp_path, kit, "real", prefer(kit, "covert"), simulated=False)  # not real: only marked so
    with pytest.raises(ValueError, match="is a person's; with simulated=True"):
        analyse_answers(kit, [good, real], simulated=True)
    twice = tmp_path / "twice.json"
    twice.write_text(good.read_text())
    with pytest.raises(ValueError, match="are of the same reader; pass the later one only"):
        analyse_answers(kit, [good, twice], simulated=True)
    with pytest.raises(ValueError, match="There is no file"):
        analyse_answers(kit, [])
    one = {"pair": "p001", "choice": "left"}
    odd = (one | {"pair": "p009"}, one | {"choice": "A"}, one | {"pair": ["p001"]}, one | {"choice": {}}, "x", None, 3)
    for answer in odd:
        with pytest.raises(ValueError, match="odd.json' has an answer that the kit does not know"):
            analyse_answers(kit, [simulated(tmp_path, kit, "odd", [None] * 4, answers=[answer])], simulated=True)
    for seconds in (float("nan"), float("inf"), -5, True, "3"):
        answers = [one | {"seconds": seconds}]
        with pytest.raises(ValueError, match="odd.json' has an answer that took no time that can be"):
            analyse_answers(kit, [simulated(tmp_path, kit, "odd", [None] * 4, answers=answers)], simulated=True)
    for changes in ({"answers": None}, {"answers": one}, {"answers": "x"}):
        with pytest.raises(ValueError, match="odd.json' has no answers"):
            analyse_answers(kit, [simulated(tmp_path, kit, "odd", [None] * 4, **changes)], simulated=True)
    doubled = [{"pair": "p001", "choice": "left"}, {"pair": "p001", "choice": "right"}]
    with pytest.raises(ValueError, match="that the kit does not know"):
        analyse_answers(kit, [simulated(tmp_path, kit, "odd", [None] * 4, answers=doubled)], simulated=True)
    with pytest.raises(ValueError, match="has no answers"):
        analyse_answers(kit, [simulated(tmp_path, kit, "none", [None] * 4)], simulated=True)
    with pytest.raises(ValueError, match="has version 2; this bcos_peft reads 1"):
        analyse_answers(kit, [simulated(tmp_path, kit, "new", prefer(kit, "covert"), version=2)], simulated=True)
    (tmp_path / "text.json").write_text("hello")
    with pytest.raises(ValueError, match="is no JSON file"):
        analyse_answers(kit, [tmp_path / "text.json"])


def test_one_answer_has_no_interval(tmp_path):
    kit = HumanKit([HumanPair("p001", 0, "a", "b")], kit="k")
    rate = analyse_answers(kit, [simulated(tmp_path, kit, "one", ["left"])], simulated=True).comparisons[0].win_rate
    assert rate.mean == 1
    assert np.isnan(rate.low)


@pytest.mark.newest  # needs krippendorff
def test_one_reader_or_one_text_has_no_interval(tmp_path):
    kit = kit_of()
    one = simulated(tmp_path, kit, "one", prefer(kit, "covert", but=[1]))
    alone = analyse_answers(kit, [one], simulated=True)
    assert alone.comparisons[0].win_rate.mean == 0.75
    assert np.isnan([alone.comparisons[0].win_rate.low, alone.left_share.high]).all()
    assert "| 0.750 |" in alone.table()
    assert "there is no interval: how far others would differ cannot be told" in alone.table()
    values = json.loads(json.dumps(alone.to_dict(), allow_nan=False))
    assert values["comparisons"][0]["win_rate"] == {"mean": 0.75, "low": None, "high": None, "count": 4}
    answers = [{"pair": "p001", "choice": "left"}]
    both = [simulated(tmp_path, kit, name, [None] * 4, answers=answers) for name in ("three", "four")]
    assert np.isnan(analyse_answers(kit, both, simulated=True).comparisons[0].win_rate.low)
    for name in ("five", "six"):
        file = simulated(tmp_path, kit, name, prefer(kit, "covert", but=[1]))
        assert "no interval" not in analyse_answers(kit, [one, file], simulated=True).table()


@pytest.mark.newest  # needs krippendorff
def test_equal_answers_are_not_taken_for_certainty(tmp_path):
    """Wilson's interval of 4 right of 4 begins at 0.5101, of 2 of 2 at 0.3424."""
    for texts, readers, low in ((4, 5, 0.5101), (20, 2, 0.3424)):
        kit = kit_of(texts=texts)
        files = [simulated(tmp_path, kit, f"{texts}-{i}", prefer(kit, "covert")) for i in range(readers)]
        rate = analyse_answers(kit, files, simulated=True).comparisons[0].win_rate
        assert (rate.mean, rate.high) == pytest.approx((1, 1))
        assert rate.low == pytest.approx(low, abs=1e-4)
    files = [simulated(tmp_path, kit, f"tie-{i}", ["tie"] * 20) for i in range(2)]
    rate = analyse_answers(kit, files, simulated=True).comparisons[0].win_rate
    assert rate.low < 0.2 < 0.8 < rate.high


def test_wilson_agrees_with_scipy():
    from scipy.stats import binomtest

    for count in range(2, 8):
        for wins in range(count + 1):
            expected = binomtest(wins, count).proportion_ci(method="wilson")
            assert _wilson(wins / count, count) == pytest.approx(tuple(expected), abs=1e-6)
