"""`evaluate` and its result: tables, comparison, merging and saving."""

import csv
import io
import json
import sys

import pytest
from helpers import tiny
from helpers.evaluations import TEXTS, run, stock
from helpers.toys import Gradient, Noise

from bcos_peft import BcosConfig, get_bcos_model
from bcos_peft.evaluation import (
    Comprehensiveness,
    EvaluationResult,
    Metered,
    Record,
    Sufficiency,
    Texts,
    Value,
    evaluate,
    ioi_pairs,
    planted_answers,
)


def converted():
    return get_bcos_model(tiny.model(num_labels=2), BcosConfig(b=1.25))


def test_records_are_those_of_the_metrics():
    model, result = stock(), run()
    assert result.rows == [("conventional", "gradient"), ("conventional", "noise")]
    assert len(result.records) == 2 * 2 * len(TEXTS)
    metric = Comprehensiveness()
    examples = metric.examples(Texts(model, tiny.tokenizer(), TEXTS))
    scores = [[Gradient()(model, example.questions[0]).double()] for example in examples]
    expected = {
        example.key: row["comprehensiveness"]
        for example, row in zip(examples, metric.measure(model, examples, scores, None), strict=True)
    }
    assert result.examples("comprehensiveness", "gradient") == pytest.approx(expected)
    assert set(result.texts.values()) == set(TEXTS)
    assert result.settings[0]["metrics"]["comprehensiveness"]["perturbation"] == "mask"


def test_each_question_is_attributed_once():
    class Counting(Gradient):
        calls = 0

        def __call__(self, model, question):
            type(self).calls += 1
            return super().__call__(model, question)

    result = run(
        methods=[Metered(Counting(), memory_examples=0)], metrics=["comprehensiveness", "sufficiency", "completeness"]
    )
    assert Counting.calls == len(TEXTS)
    assert result.costs["conventional + gradient"]["examples"] == len(TEXTS)
    assert result.costs["conventional + gradient"]["forward_rows_per_example"] == 1


@pytest.mark.newest  # needs captum
def test_defaults():
    found = run(converted(), methods=None, texts=TEXTS[:2])
    assert found.rows == [("B-cos", "gradient"), ("B-cos", "noise")]
    tokenizer = tiny.tokenizer()
    assert evaluate(converted(), tokenizer, TEXTS[:2]).rows == [("B-cos", "bcos"), ("B-cos", "random")]
    assert evaluate(stock(), tokenizer, TEXTS[:2]).rows[0] == ("conventional", "input_x_gradient")
    language, words = tiny.model("llama", "CausalLM"), tiny.tokenizer("bpe")
    assert {r.metric for r in evaluate(language, words, ioi_pairs(2), ["random"]).records} == {"contrastive_evidence"}
    rows = planted_answers(2, passages=2, filler=0)
    language = tiny.model("llama", "CausalLM", max_position_embeddings=512)
    words.model_max_length = 512
    assert {r.metric for r in evaluate(language, words, rows, ["random"]).records} == {"passage_attribution"}


@pytest.mark.newest  # needs captum
def test_all_metrics_of_texts_with_all_methods_of_a_converted_model():
    model = converted()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    metrics = ["comprehensiveness", "sufficiency", "parameter_randomization", "completeness"]
    result = evaluate(model, tiny.tokenizer(), TEXTS, ["bcos", "saliency", "random"], metrics)
    summary = result.summary()
    assert summary["B-cos", "bcos"]["completeness_gap"].mean < 1e-4
    assert summary["B-cos", "bcos"]["own_gap"].mean < 1e-4
    assert "own_gap" not in summary["B-cos", "saliency"]
    assert summary["B-cos", "random"]["randomization"].mean == pytest.approx(1), "its seed is of the text"
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


def test_table_and_page():
    means = {"a|b": 0.75, "c": 0.25}
    records = [
        Record("m", n, "seqpg", str(i), {"seqpg": v}, {"seqpg": 0.5}) for n, v in means.items() for i in range(3)
    ]
    result = EvaluationResult(records, {"seqpg": Value("SeqPG", True), "gap": Value("Gap", False)})
    assert result.table().splitlines() == [
        "| Model | Method | SeqPG ↑ | Gap ↓ |",
        "| --- | --- | ---: | ---: |",
        "| m | a\\|b | **0.750** [0.750, 0.750] | – |",
        "| m | c | 0.250 [0.250, 0.250] | – |",
        "|  | random order, expected | 0.500 | – |",
    ]
    assert "0.750 [" not in result.table(intervals=False)
    assert "Gap" not in result.table(["seqpg"])
    assert "Examples: seqpg 3." in result.markdown()
    with pytest.raises(ValueError, match="no value 'mrr'"):
        result.table(["mrr"])
    for show in (result.table, result.show, lambda values: result.plot(values=values)):
        with pytest.raises(TypeError, match=r"not the name 'seqpg': write \['seqpg'\]"):
            show("seqpg")
        with pytest.raises(ValueError, match="values is empty; leave it out"):
            show([])
    with pytest.raises(ValueError, match="nothing to merge"):
        EvaluationResult.merge([])


def test_rows_of_different_examples_are_not_ranked():
    values = {"seqpg": Value("SeqPG", True), "gap": Value("Gap", False)}
    rows = {"a": range(5), "b": range(2)}
    records = [Record(m, "ig", "seqpg", str(i), {"seqpg": 1 / (1 + i)}) for m, keys in rows.items() for i in keys]
    records += [Record(model, "ig", "fit", "0", {"gap": gap}) for model, gap in (("a", 0.5), ("b", 0.25))]
    result = EvaluationResult(records, values)
    assert "| b | ig | 0.750 [" in result.table()
    assert "| **0.250** |" in result.table(), "both have the same example of this one"
    page = result.markdown()
    assert "Examples: seqpg 5 of a + ig, 2 of b + ig; fit 1. Where rows are of different examples, none is" in page
    same = EvaluationResult([record for record in records if record.example in ("0", "1")], values)
    assert "Examples: seqpg 2, fit 1.\n" in same.markdown()


def test_costs_of_parts_are_added():
    first, second = run(texts=TEXTS[:2], methods=[Gradient()]), run(texts=TEXTS[2:5], methods=[Gradient()])
    one, two = (part.costs["conventional + gradient"] for part in (first, second))
    cost = (first + second).costs["conventional + gradient"]
    assert cost["examples"] == 5
    assert cost["seconds"] == one["seconds"] + two["seconds"]
    assert cost["seconds_per_example"] == cost["seconds"] / 5
    assert cost["peak_memory"] == max(one["peak_memory"], two["peak_memory"])
    assert first.costs["conventional + gradient"]["examples"] == 2


def test_terminal(capsys):
    run().show(["sufficiency"])
    shown = capsys.readouterr().out
    assert "gradient" in shown
    assert "Sufficiency" in shown


def test_a_terminal_without_unicode_and_names_with_brackets(monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setenv("COLUMNS", "160")
    run(metrics=[Sufficiency(label="kept[only]")], label="\u4e2d:b:1").show()
    out.seek(0)
    shown = out.read()
    assert "Kept[only] (area) v" in shown
    assert r"\u4e2d:b:1" in shown


def test_a_missing_scipy_is_told_before_anything_runs(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    asked = []

    def method(model, question):
        asked.append(question)
        return Noise()(model, question)

    method.name = "mine"
    with pytest.raises(ImportError, match=r'need scipy: pip install "bcos-peft\[evaluation\]"'):
        run(methods=[method])
    assert asked == []


def test_models_side_by_side():
    conventional = run(metrics=["comprehensiveness"])
    bcos = run(converted(), methods=["bcos"], metrics=["comprehensiveness"])
    both = conventional + bcos
    assert both.rows == [*conventional.rows, *bcos.rows]
    assert both.compare("B-cos + bcos", "conventional + noise").difference.count == len(TEXTS)
    assert len(both.settings) == 2
    with pytest.raises(ValueError, match="label="):
        conventional + conventional


def test_saving(tmp_path):
    result = run()
    result.save(tmp_path / "run")
    again = EvaluationResult.load(tmp_path / "run")
    assert again.to_dict() == result.to_dict()
    assert again.table() == result.table()
    rows = list(csv.DictReader(open(tmp_path / "run" / "examples.csv", encoding="utf-8")))
    assert len(rows) == 2 * 4 * len(TEXTS)
    assert {row["text"] for row in rows} == set(TEXTS)
    assert (tmp_path / "run" / "results.md").read_text().startswith("# Evaluation")
    (tmp_path / "run" / "results.json").write_text("[]")
    with pytest.raises(ValueError, match="cannot load a result"):
        EvaluationResult.load(tmp_path / "run")
    whole = result.to_dict()
    for damaged in ({"records": 3}, {"records": [{}]}, {"values": []}):
        (tmp_path / "run" / "results.json").write_text(json.dumps(whole | damaged))
        with pytest.raises(ValueError, match="cannot load a result from .*it is damaged"):
            EvaluationResult.load(tmp_path / "run")
    (tmp_path / "run" / "results.json").write_text(json.dumps({key: whole[key] for key in ("format", "version")}))
    with pytest.raises(ValueError, match=r"is missing or is something else \('records'\)"):
        EvaluationResult.load(tmp_path / "run")


def test_two_kinds_of_one_metric():
    metrics = [Sufficiency(), Sufficiency(perturb_special=True, label="sufficiency_reference")]
    result = run(metrics=metrics)
    assert "Sufficiency reference (area) ↓" in result.table()
    with pytest.raises(ValueError, match="Two of metrics are called 'sufficiency'"):
        run(metrics=[Sufficiency(), Sufficiency(perturb_special=True)])
    with pytest.raises(ValueError, match="Two of methods"):
        run(methods=[Noise(), Noise()])
    twin = Comprehensiveness(label="comprehensiveness_aopc")
    with pytest.raises(ValueError, match="Two of the metrics' numbers are called 'comprehensiveness_aopc'"):
        run(metrics=[Comprehensiveness(), twin])
    with pytest.raises(ValueError, match="both have a number 'comprehensiveness_aopc'"):
        run(metrics=[Comprehensiveness()]) + run(metrics=[twin])


def test_result_is_valid_json(tmp_path):
    result = run(texts=["A film."])  # one example has no interval
    json.dumps(result.to_dict(), allow_nan=False)
    assert "[" not in result.table()


@pytest.mark.newest
def test_plots(tmp_path):
    result = run() + run(converted(), ["bcos"], ["comprehensiveness"])
    figure = result.plot(tmp_path / "means.png", ["comprehensiveness", "sufficiency"])
    assert (tmp_path / "means.png").read_bytes().startswith(b"\x89PNG")
    first, second = (panel for panel in figure.axes if panel.get_visible())
    assert [bar.get_width() for bar in first.patches] == pytest.approx(
        [numbers["comprehensiveness"].mean for numbers in result.summary().values()]
    )
    assert len(second.patches) == 2, "no sufficiency of the last row"
    curves = result.plot_curves()
    assert [len(panel.lines) for panel in curves.axes] == [3, 2]
    mean = sum(curves.axes[0].lines[0].get_ydata()) / 9
    assert mean == pytest.approx(result.summary()["conventional", "gradient"]["comprehensiveness_aopc"].mean)
    result.save(tmp_path / "saved", plot=True)
    assert (tmp_path / "saved" / "results.png").exists()
    other = run(metrics=[Sufficiency(label="kept_only"), Comprehensiveness(), "parameter_randomization"])
    panels = other.plot_curves().axes
    assert [panel.get_title() for panel in panels] == ["Kept only", "Comprehensiveness"]
    assert [panel.get_xlabel().split()[-1] for panel in panels] == ["kept", "perturbed"]
    with pytest.raises(ValueError, match="no curves"):
        run(metrics=["completeness"]).plot_curves()


@pytest.mark.newest
def test_a_row_has_one_colour_in_all_panels_and_in_the_legend():
    result = run(methods=[Noise()], metrics=["sufficiency"]) + run(methods=[Gradient()], metrics=["comprehensiveness"])
    figure = result.plot_curves()
    drawn = {line.get_label(): line.get_color() for panel in figure.axes for line in panel.lines}
    (legend,) = figure.legends
    named = zip(legend.get_texts(), legend.legend_handles, strict=True)
    assert {text.get_text(): line.get_color() for text, line in named} == drawn
    assert len(set(drawn.values())) == 2
