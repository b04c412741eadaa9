"""`evaluate` and its result: tables, comparison, merging, saving, and going on after an interruption."""

import csv
import json
from dataclasses import replace

import pytest
import tiny
import torch
from datasets import Dataset
from evaluation_toys import Gradient, Noise

from bcos_peft import BcosConfig, get_bcos_model
from bcos_peft.evaluation import (
    Comprehensiveness,
    EvaluationResult,
    Metered,
    PrecomputedScores,
    Record,
    SequencePair,
    SequencePointingGame,
    Sufficiency,
    Texts,
    Value,
    ask,
    evaluate,
    explain_with,
    get_metric,
    ioi_pairs,
    logits,
    planted_answers,
)
from bcos_peft.evaluation.reading import read_dataset


TEXTS = [
    "A gripping, beautifully shot film.", "Two hours that I shall not get back.", "We loved the music.",
    "The story isn't good.", "Who made this boring thing?", "An awful movie.", "Don't miss it!",
]  # fmt: skip


def stock():
    return tiny.model(num_labels=2)


def converted():
    return get_bcos_model(tiny.model(num_labels=2), BcosConfig(b=1.25))


def run(model=None, methods=None, metrics=None, texts=TEXTS, tokenizer=None, **options):
    model = stock() if model is None else model
    methods = [Gradient(), Noise()] if methods is None else methods
    return evaluate(model, tokenizer or tiny.tokenizer(), texts, methods, metrics, progress=False, **options)


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


class Flaky(Gradient):
    """Fails after some calls."""

    def __init__(self, left):
        self.left, self.calls = left, 0

    def __call__(self, model, question):
        if self.calls == self.left:
            raise KeyboardInterrupt
        self.calls += 1
        return super().__call__(model, question)


def test_an_interrupted_run_goes_on(tmp_path):
    file = tmp_path / "run.jsonl"
    many = [f"{text} {word}" for text in TEXTS for word in ("film", "music", "story")]
    whole = run(texts=many, methods=[Gradient()])
    with pytest.raises(KeyboardInterrupt):
        run(texts=many, methods=[Metered(Flaky(18), 0)], checkpoint=file)
    with open(file, "a", encoding="utf-8") as half:
        half.write('{"run": "abc')
    second = Flaky(100)
    with pytest.warns(UserWarning, match="32 records of 'gradient' are those that .* no dict of settings"):
        result = run(texts=many, methods=[Metered(second, 0)], checkpoint=file)
    assert second.calls == len(many) - 16, "both metrics had their records of the first sixteen"
    assert result.table() == whole.table()
    third = Flaky(0)
    with pytest.warns(UserWarning, match="42 records of 'gradient' are those that .* no dict of settings"):
        assert run(texts=many, methods=[Metered(third, 0)], checkpoint=file).table() == whole.table()
    assert result.costs["conventional + gradient"]["examples"] >= len(many)


def test_a_checkpoint_of_another_model_or_metric_is_not_used(tmp_path):
    file = tmp_path / "run.jsonl"
    run(checkpoint=file)
    other = stock()
    with torch.no_grad():
        other.classifier.weight *= 2
    assert run(other, checkpoint=file).table() == run(other).table()
    metrics = [Sufficiency(perturb_special=True)]
    assert run(metrics=metrics, checkpoint=file).table() == run(metrics=metrics).table()


def resumed_equals_new(tmp_path, before, after, **options):
    """Whether a run on the file of another one gives what it gives by itself."""
    file = tmp_path / "asked.jsonl"
    first = run(**options | before, checkpoint=file)
    found, expected = run(**options | after, checkpoint=file), run(**options | after)
    assert expected.to_dict()["records"] != first.to_dict()["records"], "the test would show nothing"
    return found.to_dict()["records"] == expected.to_dict()["records"]


@pytest.mark.filterwarnings("error:.*no dict of settings")
def test_a_checkpoint_of_other_questions_or_scores_is_not_used(tmp_path):
    rows = [{"text": text, "a": 0, "b": 1} for text in TEXTS]
    options = {"texts": rows, "text_column": "text", "target": "label"}
    assert resumed_equals_new(tmp_path, {"label_column": "a"}, {"label_column": "b"}, **options)
    pair = SequencePair("A gripping film.", "The story isn't good.", 1, 0)
    games = [[SequencePointingGame([one])] for one in (pair, replace(pair, first_class=2))]
    assert resumed_equals_new(tmp_path, {"metrics": games[0]}, {"metrics": games[1]}, model=tiny.model())
    questions = [ask(stock(), tiny.tokenizer(), text) for text in TEXTS]
    scores = [Noise()(None, question) for question in questions]
    mine = [PrecomputedScores("mine", questions, given) for given in (scores, [-one for one in scores])]
    assert resumed_equals_new(tmp_path, {"methods": mine[:1]}, {"methods": mine[1:]})
    cut = {"texts": ["film music story good " * 4], "metrics": ["sufficiency"]}
    tokenizers = tiny.tokenizer(), tiny.tokenizer()
    tokenizers[1].model_max_length = 10
    assert resumed_equals_new(tmp_path, *({"tokenizer": one} for one in tokenizers), **cut)


def test_a_file_of_something_else_is_no_checkpoint(tmp_path):
    file = tmp_path / "reviews.jsonl"
    for content in ('{"text": "A film.", "label": 1}\n', "text,label\n", "[]"):
        file.write_text(content)
        with pytest.raises(ValueError, match=r"line 1 of checkpoint='.*reviews\.jsonl' is none that evaluate wrote"):
            run(checkpoint=file)
        assert file.read_text() == content


def test_half_a_letter_and_separators_of_lines_in_a_checkpoint(tmp_path):
    file = tmp_path / "run.jsonl"
    options = {"methods": [Gradient()], "checkpoint": file, "label": "a\u2028b"}
    expected = run(**options)
    with open(file, "ab") as half:
        half.write('{"run": "ä'.encode()[:-1])
    with pytest.warns(UserWarning, match="14 records of 'gradient'"):
        assert run(**options).table() == expected.table()
    file.write_text('{"run": "5f", "records": [{"example": "3f"}], "row": [], "cost": {}}\n')
    assert run(checkpoint=file).table() == run().table(), "a line of an older version"


def test_costs_of_the_same_method_with_other_options_stay_apart(tmp_path):
    class Stepped(Gradient):
        def __init__(self, steps):
            self.settings = {"steps": steps}

        def __call__(self, model, question):
            return sum(super(Stepped, self).__call__(model, question) for _ in range(self.settings["steps"]))

    for steps in (2, 3, 2):
        result = run(methods=[Metered(Stepped(steps), 0)], metrics=["comprehensiveness"], checkpoint=tmp_path / "run")
        cost = result.costs["conventional + gradient"]
        assert (cost["examples"], cost["forward_rows_per_example"]) == (len(TEXTS), steps)


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


def test_datasets():
    rows = [{"text": text, "label": i % 2} for i, text in enumerate(TEXTS)]
    for dataset in (rows, Dataset.from_list(rows)):
        assert read_dataset(dataset, "text", "label") == (TEXTS, [i % 2 for i in range(len(TEXTS))])
        some, labels = read_dataset(dataset, "text", "label", count=3, seed=1)
        assert len(some) == 3
        assert [TEXTS.index(text) % 2 for text in some] == labels
    pairs = read_dataset(Dataset.from_list([{"a": "One.", "b": "Two."}]), ("a", "b"))[0]
    assert pairs == [("One.", "Two.")]
    result = run(texts=rows, text_column="text", label_column="label", target="label", metrics=["completeness"])
    assert len(result.records) == 2 * len(TEXTS)
    with pytest.raises(ValueError, match="label_column='class' is no column"):
        read_dataset(rows, "text", "class")
    with pytest.raises(ValueError, match="empty"):
        read_dataset([])
    with pytest.raises(TypeError, match="single text"):
        read_dataset("A film.")


def test_pandas_tables():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"review": TEXTS, "stars": [i % 2 for i in range(len(TEXTS))]})
    assert read_dataset(table, "review", "stars") == (TEXTS, [i % 2 for i in range(len(TEXTS))])
    with pytest.raises(ValueError, match="text_column"):
        read_dataset(table)
    assert read_dataset(table.rename(columns={"review": "text"}))[0] == TEXTS
    assert read_dataset(table["review"])[0] == TEXTS


def test_rows_with_optional_fields():
    rows = [{"note": "x", "text": "One."}, {"text": "Two.", "label": 1}]
    assert read_dataset(rows, "text") == (["One.", "Two."], None)
    assert read_dataset(rows, "text", "label") == (["One.", "Two."], [None, 1])
    assert read_dataset(rows, label_column="label") == (["One.", "Two."], [None, 1])
    with pytest.raises(ValueError, match=r"dataset\[1\] has no text_column='note'; it has \['text', 'label'\]"):
        read_dataset(rows, "note")
    with pytest.raises(ValueError, match=r"label_column='class' is no column of the dataset; it has \['note', 'text'"):
        read_dataset(rows, "text", "class")


def test_streams_that_do_not_know_their_columns():
    rows = [{"text": text, "label": i % 2} for i, text in enumerate(TEXTS)]
    stream = Dataset.from_list(rows).to_iterable_dataset().map(lambda row: row)
    assert stream.column_names is None
    assert read_dataset(stream, "text", "label") == (TEXTS, [i % 2 for i in range(len(TEXTS))])
    with pytest.raises(ValueError, match="needs text_column"):
        read_dataset(stream)


@pytest.mark.parametrize("missing", [None, "", float("nan")])
def test_a_missing_label_is_no_prediction(missing):
    rows = [{"text": "good", "label": 1}, {"text": "bad", "label": missing}]
    options = {"text_column": "text", "label_column": "label", "metrics": ["comprehensiveness"]}
    with pytest.raises(ValueError, match=r"the label of dataset\[1\], 'bad', is missing"):
        run(texts=rows, target="label", **options)
    assert len(run(texts=rows, methods=[Noise()], **options).records) == 2, "nothing is asked of the labels here"


def test_labels_as_text_and_as_floats():
    def targets(labels, model=None):
        texts = Texts(model or stock(), tiny.tokenizer(), TEXTS[: len(labels)], labels, target="label")
        return [example.questions[0].target for example in texts.examples()]

    assert targets(["1", "0", 1.0, "LABEL_0", 1]) == [1, 0, 1, 0, 1]
    stars = tiny.model(num_labels=2, id2label={0: "1", 1: "2"}, label2id={"1": 0, "2": 1})
    assert targets(["1", "2"], stars) == [0, 1], "a name comes before a number"
    with pytest.raises(ValueError, match=r"the label of dataset\[1\]='good' is not a label of the model"):
        targets(["1", "good"])
    with pytest.raises(ValueError, match=r"the label of dataset\[1\] must be between 0 and 1, got 7"):
        targets(["1", "7"])


def test_texts_twice_and_texts_too_long():
    result = run(texts=["A film."] * 2 + ["film " * 100])
    assert len(result.examples("sufficiency", "noise")) == 3


def test_refusals():
    with pytest.raises(ValueError, match="There is no metric 'faith'"):
        run(metrics=["faith"])
    with pytest.raises(ValueError, match="There is no method 'magic'"):
        run(methods=["magic"])
    with pytest.raises(TypeError, match="with a name"):
        run(methods=[lambda model, question: question.input_ids])
    with pytest.raises(TypeError, match="unexpected keyword"):
        get_metric("sufficiency", colour="red")

    for options, error, message in [
        ({"methods": "random"}, TypeError, "methods must be a list, got 'random'; write methods="),
        ({"methods": Noise()}, TypeError, "methods must be a list, got <"),
        ({"methods": ()}, ValueError, "methods is empty"),
        ({"metrics": "comprehensiveness"}, TypeError, "metrics must be a list, got 'comprehensiveness'"),
        ({"metrics": Sufficiency()}, TypeError, "metrics must be a list, got <"),
        ({"metrics": []}, ValueError, "metrics is empty"),
    ]:
        with pytest.raises(error, match=message):
            run(**options)
    with pytest.raises(TypeError, match="tokenizer must be a transformers tokenizer, got NoneType"):
        evaluate(stock(), None, TEXTS, [Noise()])
    with pytest.raises(TypeError, match="tokenizer must be a transformers tokenizer, got NoneType"):
        explain_with(stock(), None, TEXTS, Noise())
    for name in ("comprehensiveness", "completeness", "contrastive_evidence", "passage_attribution"):
        with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
            get_metric(name, batch_size=0)
    questions = [ask(stock(), tiny.tokenizer(), "A film.")]
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        logits(stock(), questions, batch_size=0)

    class Wrong(Noise):
        def __call__(self, model, question):
            return super().__call__(model, question)[1:]

    with pytest.raises(ValueError, match="The scores of 'noise' must have the shape"):
        run(methods=[Wrong()])


class Given:
    """A method that gives its scores in some form."""

    name = "given"

    def __init__(self, form):
        self.form = form

    def __call__(self, model, question):
        return self.form(question.input_ids)


@pytest.mark.parametrize("form", [lambda ids: ids.numpy(), lambda ids: ids.tolist(), lambda ids: ids[None].float()])
def test_scores_may_be_arrays_or_lists(form):
    metrics = ["comprehensiveness", "parameter_randomization"]
    expected = run(methods=[Given(lambda ids: ids.float())], metrics=metrics, texts=TEXTS[:2])
    found = run(methods=[Given(form)], metrics=metrics, texts=TEXTS[:2])
    assert found.to_dict()["records"] == expected.to_dict()["records"]
    explained = explain_with(stock(), tiny.tokenizer(), TEXTS[:1], Given(form))[0]
    assert explained.scores.tolist() == explained.token_ids


def test_scores_that_are_no_numbers():
    with pytest.raises(TypeError, match="The scores of 'given' must be one number for each token, got 'words'"):
        run(methods=[Given(lambda ids: "words")])


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
