"""What `evaluate` reads: datasets, tables, rows and scores, and what it refuses."""

import pytest
from datasets import Dataset
from helpers import tiny
from helpers.evaluations import TEXTS, run, stock
from helpers.toys import Noise

from bcos_peft.evaluation import Sufficiency, Texts, ask, evaluate, explain_with, get_metric, logits
from bcos_peft.evaluation.data import read_dataset


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
        ({"metrics": [Sufficiency]}, TypeError, r"metrics has the class Sufficiency; make one of it: Sufficiency\("),
        ({"methods": [Noise]}, TypeError, "methods has the class Noise"),
        ({"count": 1.5}, TypeError, "count must be a whole number, got 1.5"),
        ({"count": 0}, ValueError, "count must be at least 1, got 0"),
        ({"confidence": 95}, ValueError, "confidence must be between 0 and 1, got 95"),
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

    class Undefined(Sufficiency):
        def measure(self, *arguments):
            return [{**row, "sufficiency": float("nan")} for row in super().measure(*arguments)]

    with pytest.raises(ValueError, match="The metric 'sufficiency' gave sufficiency=nan for 'noise' on the example"):
        run(methods=[Noise()], metrics=[Undefined()])

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
