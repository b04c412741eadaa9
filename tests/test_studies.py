"""A study runs from start to end, goes on where it stopped, and writes what it says."""

import csv
import json
import os
import re
import sys
from dataclasses import asdict

import pytest
import torch
from helpers import tiny
from helpers.launching import HUGGING_FACE, start
from helpers.paths import ROOT
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification


sys.path[:0] = [str(ROOT / "examples"), str(ROOT / "benchmarks")]

# Generous: on a busy machine it takes its time.
pytestmark = [pytest.mark.newest, pytest.mark.timeout(1800)]

SIZES = "--b 1.25 --steps 6 --batch 4 --train 48 --test 24 --rows 3 --pairs 2 --confidence 0.5 --ig-steps 2".split()


def run(script, *arguments):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    finished = start([ROOT / "benchmarks" / script, *arguments], environment, seconds=850, imported=HUGGING_FACE)
    assert finished.returncode == 0, f"{finished.stdout[-3000:]}\n{finished.stderr[-5000:]}"
    return finished.stdout


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory):
    """A folder with a small BERT that reads MiniLM's tokens. Its random weights make the study's models new."""
    import bundled

    folder = tmp_path_factory.mktemp("model") / "bert"
    tokenizer = AutoTokenizer.from_pretrained(bundled.minilm())
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=160,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_classification_study(tiny_bert, tmp_path):
    arguments = ["--model", tiny_bert, "--tasks", "tweets", "--output", tmp_path / "study", *SIZES]
    arguments += ["--kept", tmp_path / "kept", "--hide", "0"]
    run("paper_classification.py", *arguments, "--ways", "conventional")
    results = tmp_path / "study" / "results.json"
    first = json.loads(results.read_text())["cells"]["tweets"]
    assert list(first) == ["conventional"]

    ways = ["conventional", "published", "calibrated", "recommended", "control", "early", "further", "as_it_is"]
    out = run("paper_classification.py", *arguments, "--ways", *ways)
    cells = json.loads(results.read_text())["cells"]["tweets"]
    recommended, control = "B=1.25 calibrated at the end, BCE, hidden 0.1", "conventional, BCE, hidden 0.1"
    early = "B=1.25 calibrated, after 0.67, rate 0.0002, BCE, hidden 0.1"
    further = "B=1.25 calibrated at the end, a fifth more, BCE, hidden 0.1"
    usual = ["conventional", "B=1.25 published", "B=1.25 calibrated"]
    assert list(cells) == [*usual, early, further, "B=1.25 calibrated at the end", recommended, control]
    assert cells["conventional"] == first["conventional"], "it was there already, and its seconds are those of then"
    assert list(cells["B=1.25 calibrated"]["rows"]) == ["bcos", "random"]
    assert cells["B=1.25 published"]["costs"]["bcos"]["forward_rows_per_example"] == 1
    assert cells["conventional"]["costs"]["integrated_gradients"]["forward_rows_per_example"] == 2
    for cell in cells.values():
        assert cell["accuracy"]["count"] == 24
        assert cell["right"].count("1") == round(24 * cell["accuracy"]["mean"])
        assert cell["settings"]["rows"] == cell["rows"]["random"]["comprehensiveness"]["count"] == 3

    page = (tmp_path / "study" / "results.md").read_text()
    assert page in out
    assert "| B=1.25 calibrated | bcos |" in page
    assert f"| {recommended} | {control} |" in page, "compared with the conventional model trained alike"
    assert "| conventional | integrated_gradients |" in page
    assert "![tweets](tweets.svg)" in page
    assert (tmp_path / "study" / "tweets.svg").read_text().count("<path") > 10
    with open(tmp_path / "study" / "examples.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    kept = [float(row["B=1.25 published + bcos"]) for row in rows if row["value"] == "comprehensiveness"]
    mean = cells["B=1.25 published"]["rows"]["bcos"]["comprehensiveness"]["mean"]
    assert sum(kept) / len(kept) == pytest.approx(mean, abs=1e-3)


def test_tokens_are_hidden_in_the_last_third(monkeypatch):
    import study_models

    tokenizer = AutoTokenizer.from_pretrained(study_models.bundled.minilm())
    rows = [("An unfathomably overwrought melodrama", i % 2) for i in range(8)]
    task = study_models.Task("toy", rows, rows, 2, study_models.bundled.minilm(), tokenizer)
    shares = []
    inputs = task.inputs
    monkeypatch.setattr(task, "inputs", lambda texts, hidden=0.0: shares.append(hidden) or inputs(texts, hidden))
    recipe = study_models.conventional(steps=6, batch=2, hidden=0.25)
    study_models.train(task, task.stock(0), recipe, range(recipe.steps))
    assert shares == [0, 0, 0, 0, 0.25, 0.25]


def test_recipes():
    from study_models import calibrated, conventional, published

    assert conventional().before == published(1.5).before == 0
    assert calibrated(1.5, steps=300).before == 200
    assert calibrated(1.5, steps=300, after=0.5).before == 150
    assert calibrated(1.5, steps=300, after=0, more=60).before == 300
    assert published(1.5).config().normalize_weights
    assert not calibrated(1.5).config().normalize_weights


def test_a_model_is_compared_with_the_conventional_one_of_its_training():
    from classification_report import alike

    cells = dict.fromkeys(
        ["conventional", "conventional, BCE", "conventional, BCE, hidden 0.1", "conventional, seed 1"]
    )
    assert alike("B=1.25 calibrated", cells) == "conventional"
    assert alike("B=1.25 published", cells) == "conventional, BCE"
    assert alike("B=1.25 calibrated at the end, BCE, hidden 0.1", cells) == "conventional, BCE, hidden 0.1"
    assert alike("B=1.25 calibrated, BCE, seed 1", cells) == "conventional, seed 1", "there is none with both"


def test_accuracies_are_compared_text_by_text():
    from classification_report import more_accurate

    test = more_accurate({"right": "1101"}, {"right": "1000"})
    assert test.difference.mean == 0.5
    assert more_accurate({"right": "1101"}, {}) is None, "a cell from before there was one"


@pytest.mark.parametrize("study", ["full_training", "paper_classification", "ablation"])
def test_recipes_of_committed_cells_have_all_fields(study):
    """A run finds a cell by them."""
    from study_models import Recipe

    groups = json.loads((ROOT / "results" / study / "results.json").read_text())["cells"].values()
    found = [cell["settings"]["recipe"] for cells in groups for cell in cells.values() if "recipe" in cell["settings"]]
    assert found
    assert all(asdict(Recipe(**recipe)) == recipe for recipe in found)


def test_the_recommended_model_comes_from_the_control(monkeypatch):
    import study_models

    asked = []
    monkeypatch.setattr(study_models, "build", lambda task, recipe: asked.append(recipe) or ("model", {}))
    sharp = {"steps": 30, "loss": "bce", "hidden": 0.1, "seed": 2}
    usual = study_models.calibrated(1.25, after=0.0, **sharp)
    assert study_models._half_way(None, usual) == "model"
    assert study_models._half_way(None, study_models.replace(usual, alike=True)) == "model"
    assert asked == [study_models.conventional(steps=30, seed=2), study_models.conventional(**sharp)]


def test_cells_are_kept_by_their_settings(tmp_path):
    from argparse import Namespace

    from studies import Study

    options = Namespace(quick=False, output=tmp_path, kept=tmp_path, report=False, fresh=False)
    made = []

    def job(name, size):
        return "group", name, {"size": size}, lambda: made.append((name, size)) or {"value": size}

    Study("toy", "Toy", options).run([job("a", 1)])
    study = Study("toy", "Toy", options)
    study.run([job("a", 1), job("b", 1)])
    study.run([job("a", 2)])
    assert made == [("a", 1), ("b", 1), ("a", 2)]
    assert {name: cell["value"] for name, cell in study.cells["group"].items()} == {"a": 2, "b": 1}


def test_cells_say_which_machine_they_are_from(tmp_path, monkeypatch):
    from argparse import Namespace

    import studies

    options = Namespace(quick=False, output=tmp_path, kept=tmp_path, report=False, fresh=False)
    for cpu, name in (("Slow 1", "a"), ("Fast 2", "b")):
        monkeypatch.setattr(studies, "machine", lambda device, cpu=cpu: {"cpu": cpu, "cores": 2})
        study = studies.Study("toy", "Toy", options)
        study.run([("group", name, {}, lambda: {"value": 1})])
        study.write([])
        others = " (results.json says which cells are from: Slow 1)" if name == "b" else ""
        assert f"cpu {cpu}, cores 2{others}. 0 minutes" in (tmp_path / "results.md").read_text()
    assert {name: cell["cpu"] for name, cell in study.cells["group"].items()} == {"a": "Slow 1", "b": "Fast 2"}


def test_two_runs_write_to_one_study(tmp_path):
    from argparse import Namespace

    from studies import Study

    from bcos_peft.evaluation import EvaluationResult, Record, Value

    def job(study, name, *keys):
        records = [Record("m", "ig", "seqpg", key, {"seqpg": 0.5}) for key in keys]
        result = EvaluationResult(records, {"seqpg": Value("SeqPG", True)})
        return "group", name, {"keys": keys}, lambda: study.keep("group", name, result)

    options = Namespace(quick=False, output=tmp_path, kept=tmp_path, report=False, fresh=False)
    first, second = (Study("toy", "Toy", options) for _ in range(2))
    first.run([job(first, "a", "x", "y")])
    second.run([job(second, "b", "x")])
    first.run([job(first, "a", "x", "z")])  # other examples: y is gone
    found = Study("toy", "Toy", options)
    assert list(found.cells["group"]) == ["a", "b"]
    kept = {key[2]: row for key, row in found.examples.items() if row}
    assert kept == {"x": {"a + ig": 0.5, "b + ig": 0.5}, "z": {"a + ig": 0.5}}


def test_processes_share_the_models_of_a_study(tmp_path, monkeypatch):
    from argparse import Namespace

    import studies

    options = Namespace(quick=False, output=tmp_path, kept=tmp_path, report=False, fresh=False)
    made = {0: [], 1: []}
    for process in (1, 0):
        monkeypatch.setattr(studies, "PROCESS", process)
        monkeypatch.setattr(studies, "PROCESSES", 2)
        study = studies.Study("toy", "Toy", options)

        def job(group, name, found=made[process]):
            return group, name, {}, lambda: found.append((group, name)) or {"value": 1}

        study.run([job(group, name) for group in ("g", "h") for name in "abc"])
    assert made == {0: [("g", "a"), ("g", "c"), ("h", "a"), ("h", "c")], 1: [("g", "b"), ("h", "b")]}
    assert {group: list(cells) for group, cells in study.cells.items()} == {"g": ["a", "b", "c"], "h": ["a", "b", "c"]}


def test_a_report_names_the_machine_of_the_cells(tmp_path, monkeypatch):
    from argparse import Namespace

    import studies

    options = Namespace(quick=False, output=tmp_path, kept=tmp_path, report=False, fresh=False)
    monkeypatch.setattr(studies, "machine", lambda device: {"cpu": "of the run"})
    studies.Study("toy", "Toy", options).run([("group", "a", {}, lambda: {"value": 1})])
    monkeypatch.setattr(studies, "machine", lambda device: {"cpu": "of the report"})
    options.report = True
    studies.Study("toy", "Toy", options).write([])
    assert "cpu of the run" in (tmp_path / "results.md").read_text()


def test_methods_of_a_study_are_chosen_by_name_and_kept_with_its_cells(tmp_path):
    from argparse import Namespace

    from paper_classification import METHODS, USUAL, methods_of
    from studies import Study, labels
    from study_models import Task, calibrated, conventional

    task = Task("toy", [], [], 2, "", tokenizer=None)
    found = Namespace(ig_steps=2, methods=None)
    assert labels(methods_of(calibrated(1.25), task, found)) == ["bcos", "random"]
    assert {name for b in (None, 1.25) for name in labels(methods_of(calibrated(b), task, found))} == set(USUAL)
    assert labels(methods_of(conventional(hidden=0.1), task, found)) == ["integrated_gradients", "random"]
    found.methods = METHODS
    assert labels(methods_of(calibrated(1.25), task, found)) == ["bcos", "bcos, average word", "random"]
    assert {name for b in (None, 1.25) for name in labels(methods_of(calibrated(b), task, found))} == set(METHODS)
    found.methods = ["random", "attention_rollout, reversed", "bcos"]
    assert labels(methods_of(conventional(), task, found)) == ["attention_rollout, reversed", "random"]
    found.methods = ["bcos"]
    with pytest.raises(SystemExit, match="--methods names none of input_x_gradient"):
        methods_of(conventional(), task, found)

    options = Namespace(quick=False, output=tmp_path, kept=tmp_path, report=False, fresh=False)
    made = []
    for methods in (["bcos"], ["bcos"], ["bcos", "random"]):
        job = ("group", "a", {"methods": methods}, lambda m=methods: made.append(m) or {"value": 1})
        Study("toy", "Toy", options).run([job])
    assert made == [["bcos"], ["bcos", "random"]], "another method makes the cell again"


@pytest.mark.slow
@pytest.mark.parametrize("study", ["paper_classification", "efficiency", "ablation"])
def test_quick_studies_of_classifiers(study, tiny_bert, tmp_path):
    """As `make studies-quick` runs them, on a model that is quicker still."""
    arguments = ["--quick", "--model", tiny_bert, "--output", tmp_path / "study", "--kept", tmp_path / "kept"]
    out = run(f"{study}.py", *arguments)
    page = (tmp_path / "study" / "results.md").read_text()
    assert page in out
    pictures = re.findall(r"\]\((\w+\.svg)\)", page)
    assert pictures
    for picture in pictures:
        assert (tmp_path / "study" / picture).read_text().count("<path") > 10
    if study == "ablation":
        assert "*Alignment alone*, with the biases kept, is refused" in page
    if study == "efficiency":
        assert "| 256 |" in page


@pytest.mark.slow
def test_quick_study_of_language_models(smollm2_folder, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(smollm2_folder)
    tokenizer.save_pretrained(tmp_path / "llama")
    model = tiny.model("llama", "CausalLM", vocab_size=len(tokenizer), max_position_embeddings=1024)
    model.save_pretrained(tmp_path / "llama")
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    rows = ["prefix,good,bad,evidence", "Katherine can't help,herself,himself,Katherine", "Karla had,her,his,Karla"]
    (pairs / "gender.csv").write_text("\n".join(rows))
    arguments = ["--quick", "--model", tmp_path / "llama", "--output", tmp_path / "study", "--kept", tmp_path / "kept"]
    out = run("paper_generation.py", *arguments, "--minimal-pairs", pairs)
    page = (tmp_path / "study" / "results.md").read_text()
    assert page in out
    for model in ("original", "B=1.25 published", "B=1.25 calibrated + SFT"):
        assert f"| {model} |" in page
    assert (tmp_path / "study" / "by_b.svg").exists()


def test_models_are_compared_with_a_conventional_one_trained_alike():
    from classification_report import alike

    cells = dict.fromkeys(["conventional", "conventional, BCE", "conventional, hidden 0.1"])
    assert alike("B=1.25 calibrated", cells) == "conventional"
    assert alike("B=1.5 published", cells) == "conventional, BCE", "published ones learn with binary cross entropy"
    assert alike("B=1.25 calibrated, hidden 0.1", cells) == "conventional, hidden 0.1"
    assert alike("B=1.25 calibrated, after 0.67, rate 0.0002, BCE, hidden 0.1", cells) == "conventional, BCE"
    assert alike("B=2 calibrated, BCE", ["conventional"]) == "conventional"


@pytest.mark.slow
def test_quick_study_of_similarity(tiny_bert, tmp_path):
    """On a SentenceTransformer whose transformer is tiny."""
    from transformers import AutoModel

    folder = tmp_path / "encoder"
    AutoModel.from_pretrained(tiny_bert).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_bert).save_pretrained(folder)
    arguments = ["--quick", "--model", folder, "--output", tmp_path / "study", "--kept", tmp_path / "kept"]
    out = run("similarity.py", *arguments)
    page = (tmp_path / "study" / "results.md").read_text()
    assert page in out
    cells = json.loads((tmp_path / "study" / "results.json").read_text())["cells"]
    assert list(cells) == ["reviews", "news", "costs"]
    assert list(cells["news"])[:2] == ["B-cos, bcos", "B-cos, occlusion"]
    assert cells["news"]["stock, detached"]["rows"]["detached"]["pointing"]["count"] == 4
    assert cells["costs"]["B-cos"]["costs"]["bcos"] | {"milliseconds": 0} == {
        "milliseconds": 0, "ratio": 1.0, "forward": 2.0, "backward": 2.0, "pairs": 2, "estimated": False,
    }  # fmt: skip
    assert cells["costs"]["B-cos"]["costs"]["integrated_jacobians, table"]["estimated"]
    assert "| B-cos | integrated_jacobians, table | ≈ " in page
    assert (tmp_path / "study" / "news.svg").read_text().count("<path") > 10
