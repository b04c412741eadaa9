"""An evaluation that several processes share, against one process."""

import json

import pytest
from helpers import tiny
from helpers.evaluation_worker import TEXTS, shared
from helpers.launching import launch
from helpers.paths import TESTS

from bcos_peft._utils.processes import Processes
from bcos_peft.evaluation import Cost, EvaluationResult


pytestmark = pytest.mark.timeout(300)


def test_costs_add_and_keep_the_greater_peak():
    total = Cost(2, 1.0, 3, 4, 5, 6, None) + Cost(1, 0.5, 1, 1, 1, 1, 70)
    assert total == Cost(3, 1.5, 4, 5, 6, 7, 70)
    assert (total + Cost(peak_memory=9)).peak_memory == 70
    assert (Cost() + Cost()).peak_memory is None


def test_one_process_has_everything_to_do():
    alone = Processes(share=True)  # asked to share, but nobody is there
    assert (alone.index, alone.count, alone.mine(TEXTS), alone.gather(1)) == (0, 1, TEXTS, [1])


@pytest.mark.slow
@pytest.mark.newest
def test_two_processes_find_what_one_finds_and_go_on_together(tmp_path):
    """Begun by one process, then by two; all have the whole result, in order, and nothing was done twice."""
    tokenizer = tiny.tokenizer()
    tokenizer.save_pretrained(tmp_path)
    begun = shared(False, tokenizer, tmp_path / "records.jsonl", TEXTS[:2])
    launch(TESTS / "helpers" / "evaluation_worker.py", tmp_path, 5)
    launch(TESTS / "helpers" / "evaluation_worker.py", tmp_path, len(TEXTS))
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert found[0] == found[1]
    assert (tmp_path / "records.process-1.jsonl").exists()
    expected = shared(False, tokenizer)
    rows = [[r.method, r.metric, r.example] for r in expected.records]
    assert [row[:3] for row in found[0]["rows"]] == rows
    for row, record in zip(found[0]["rows"], expected.records, strict=True):
        assert row[3] == pytest.approx(record.values, abs=1e-12)
    cost = found[0]["costs"]["conventional + gradient"]
    assert cost["examples"] == len(TEXTS)
    assert cost["seconds"] > begun.costs["conventional + gradient"]["seconds"]


@pytest.mark.slow
@pytest.mark.newest
def test_the_command_in_two_processes(tmp_path):
    tiny.model(num_labels=2).save_pretrained(tmp_path / "model")
    tiny.tokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    arguments = ["evaluate", "run", tmp_path / "model", "--data", tmp_path / "texts.txt", "--method", "random"]
    out = launch("-m", "bcos_peft", *arguments, "--output", tmp_path / "results")
    assert out.count("Saved in") == 1  # the first process speaks for both
    result = EvaluationResult.load(tmp_path / "results")
    assert list(result.texts.values()) == TEXTS
    assert len(result.examples("comprehensiveness", "random")) == len(TEXTS)
    assert result.costs["conventional + random"]["examples"] == len(TEXTS)
