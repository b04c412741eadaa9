"""The command `bcos-peft evaluate run`."""

import json

import pytest
from helpers import tiny
from typer.testing import CliRunner

from bcos_peft import BcosConfig, get_bcos_model
from bcos_peft.cli import app
from bcos_peft.evaluation import EvaluationResult, MinimalPair, PlantedAnswer, load_pairs
from bcos_peft.evaluation.data import load_hub_data, load_rows


TEXTS = ["A gripping film.", "Two hours that I shall not get back.", "We loved the music.", "An awful movie."]


def run(*arguments):
    arguments = ["evaluate", "run", *map(str, arguments)]
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "160"})


def refused(*arguments):
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    return result.stderr


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    path = tmp_path_factory.mktemp("stock")
    tiny.model(num_labels=2).save_pretrained(path)
    tiny.tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    path = tmp_path_factory.mktemp("bcos")
    get_bcos_model(tiny.model(num_labels=2), BcosConfig()).save_pretrained(path)
    tiny.tokenizer().save_pretrained(path)
    return path


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(TEXTS) + "\n\n")
    return path


@pytest.mark.newest  # needs captum
def test_two_models(stock, converted, texts, tmp_path):
    folder = tmp_path / "results"
    rows = ["--compare", "B-cos + bcos", "--compare", "conventional + saliency"]
    arguments = [
        stock,
        converted,
        "--data",
        texts,
        "--output",
        folder,
        "--method",
        "bcos",
        "--method",
        "saliency",
        *rows,
    ]
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert f"Saved in {folder}" in result.stdout.replace("\n", "")
    assert "B-cos + bcos less conventional + saliency:" in result.stdout
    found = EvaluationResult.load(folder)
    assert found.rows == [("conventional", "saliency"), ("B-cos", "bcos"), ("B-cos", "saliency")]
    assert len(found.examples("sufficiency", "B-cos + bcos")) == len(TEXTS)
    assert {path.name for path in folder.iterdir()} == {"results.json", "results.md", "examples.csv", "records.jsonl"}
    lines = (folder / "records.jsonl").read_text()
    assert run(*arguments).exit_code == 0
    assert (folder / "records.jsonl").read_text() == lines, "nothing was computed again"


def test_labels_columns_and_pairs(stock, tmp_path):
    data, pairs = tmp_path / "data.jsonl", tmp_path / "pairs.json"
    data.write_text("\n".join(json.dumps({"review": text, "y": i % 2}) for i, text in enumerate(TEXTS)))
    options = [
        "--data",
        data,
        "--text-column",
        "review",
        "--label-column",
        "y",
        "--target",
        "label",
        "--method",
        "random",
    ]
    pairs.write_text(
        json.dumps(
            {"format": "bcos_peft.sequence_pairs", "version": 1}
            | {"pairs": [{"first": "Good.", "second": "Bad.", "first_class": 1, "second_class": 0}]}
        )
    )
    result = run(
        f"mine={stock}",
        *options,
        "--metric",
        "seqpg",
        "--metric",
        "completeness",
        "--pairs",
        pairs,
        "--output",
        tmp_path / "out",
    )
    assert result.exit_code == 0, result.output
    found = EvaluationResult.load(tmp_path / "out")
    assert found.rows == [("mine", "random")]
    assert len(found.examples("seqpg", "mine")) == len(load_pairs(pairs)) == 1
    assert len(found.examples("completeness_gap", "mine")) == len(TEXTS)


@pytest.mark.newest  # needs captum
def test_pairs_are_made_for_all_models_and_kept(stock, converted, tmp_path):
    data, pairs = tmp_path / "data.txt", tmp_path / "pairs.json"
    data.write_text("\n".join(TEXTS))
    options = [
        "--data",
        data,
        "--metric",
        "seqpg",
        "--method",
        "random",
        "--pairs",
        pairs,
        "--output",
        tmp_path / "out",
    ]
    assert "confidence" in refused(stock, converted, *options), "a random model is sure of nothing"
    assert not pairs.exists()


def test_perturbation(stock, texts, tmp_path):
    options = ["--data", texts, "--method", "random", "--perturbation", "delete", "--output", tmp_path / "out"]
    assert run(stock, *options).exit_code == 0
    (settings,) = EvaluationResult.load(tmp_path / "out").settings
    assert {metric["perturbation"] for metric in settings["metrics"].values()} == {"delete"}


@pytest.mark.newest  # needs captum
def test_language_model(tmp_path):
    path = tmp_path / "lm"
    tiny.model("llama", "CausalLM").save_pretrained(path)
    tiny.tokenizer("bpe").save_pretrained(path)
    data = tmp_path / "pairs.csv"
    data.write_text("prefix,good,bad,evidence\nnot a gripping,film,ending,not\n")
    result = run(path, "--data", data, "--method", "input_x_gradient", "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "evidence_mrr" in EvaluationResult.load(tmp_path / "out").values


def test_rows_by_name(tmp_path):
    assert isinstance(load_rows("ioi", count=3)[0][2], MinimalPair)
    assert isinstance(load_rows("planted", count=3)[0][2], PlantedAnswer)
    (tmp_path / "data.csv").write_text("text,other\nOne.,1\nTwo.,2\n")
    assert load_rows(str(tmp_path / "data.csv"), label_column="other") == (["One.", "Two."], ["1", "2"])
    (tmp_path / "data.json").write_text('[["One.", "Two."], ["Three.", "Four."]]')
    assert load_rows(str(tmp_path / "data.json"))[0] == [("One.", "Two."), ("Three.", "Four.")]


def test_files_as_spreadsheets_write_them(tmp_path):
    bom, text = "\ufeff", "text,label\nOne.,1\nTwo.,0\n"
    for name, content in {
        "data.csv": bom + text,
        "D.CSV": text,
        "d.tsv": text.replace(",", "\t"),
        "data.jsonl": bom + '{"text": "One.", "label": "1"}\n\n{"text": "Two.", "label": "0"}\n',
        "data.json": bom + '[{"text": "One.", "label": "1"}, {"text": "Two.", "label": "0"}]',
    }.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
        assert load_rows(str(tmp_path / name), label_column="label") == (["One.", "Two."], ["1", "0"]), name
    (tmp_path / "data.txt").write_text(bom + "One.\nTwo\u2028more.\n", encoding="utf-8")
    assert load_rows(str(tmp_path / "data.txt")) == (["One.", "Two\u2028more."], None)


def test_files_that_cannot_be_read_are_named(stock, tmp_path):
    (tmp_path / "data.jsonl").write_text('{"text": "One\u2028more."}\n\n{"text": }\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"data.jsonl', line 3 is no valid JSON: Expecting value"):
        load_rows(str(tmp_path / "data.jsonl"))
    (tmp_path / "data.json").write_text("[")
    with pytest.raises(ValueError, match=r"data.json' is no valid JSON"):
        load_rows(str(tmp_path / "data.json"))
    (tmp_path / "data.csv").write_text("text\ncafé\n", encoding="latin-1")
    with pytest.raises(ValueError, match=r"data.csv' is no UTF-8 text.*Save it as UTF-8"):
        load_rows(str(tmp_path / "data.csv"))


def test_tables_lose_nothing(tmp_path):
    for text, message in {
        "text,label\nFine.,1\nA film, with a comma,1\n": "line 3: there are 3 cells for 2 columns",
        'text,label\n"No end,1\nTwo.,0\n': "line 3, is no line of a table",
        f"text,label\n{'x' * 140_000},1\n": "line 2, is no line of a table",
    }.items():
        (tmp_path / "data.csv").write_text(text)
        with pytest.raises(ValueError, match=message):
            load_rows(str(tmp_path / "data.csv"))
    (tmp_path / "data.csv").write_text("prefix,good,bad,evidence\nKarla, she saw,herself,himself,Karla\n")
    with pytest.raises(ValueError, match="line 2: there are 5 cells for 4 columns"):
        load_rows(str(tmp_path / "data.csv"))


def test_a_number_is_a_label_where_the_model_has_one_of_that_name(texts, tmp_path):
    tiny.model(num_labels=2, id2label={0: "1", 1: "2"}, label2id={"1": 0, "2": 1}).save_pretrained(tmp_path / "a=b")
    tiny.tokenizer().save_pretrained(tmp_path / "a=b")  # a folder, and no model b that is called a
    result = run(
        tmp_path / "a=b", "--data", texts, "--method", "random", "--target", 1, "--output", tmp_path / "out"
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert EvaluationResult.load(tmp_path / "out").settings[0]["target"] == "1"


def test_columns_that_say_nothing(stock, texts, tmp_path):
    out = ["--output", tmp_path / "out"]
    assert "--label-column is 'label', but" in refused(stock, "--data", texts, "--label-column", "label", *out)
    with pytest.raises(ValueError, match="--text-column is 'text', but 'ioi' has no columns"):
        load_rows("ioi", text_column="text")
    three = [option for name in "abc" for option in ("--text-column", name)]
    assert "--text-column is given 3 times, a, b, c" in refused(stock, "--data", "data.csv", *three, *out)


def test_refusals(stock, texts, tmp_path):
    out = ["--output", tmp_path / "out"]
    assert "There is no file" in refused(stock, "--data", "nothing.txt", *out)
    assert "--device nonsense cannot be used" in refused(stock, "--data", texts, "--device", "nonsense", *out)
    pairs = refused(stock, "--data", texts, "--metric", "completeness", "--pairs", "pairs.json", *out)
    assert "--pairs is for the metric seqpg" in pairs
    named = [f"{name}={stock}" for name in ("first", "again", "again")]
    assert "Two models are called 'again'" in refused(*named, "--data", texts, *out)
    assert "There is no metric 'x'" in refused(stock, "--data", texts, "--metric", "x", *out)
    assert "There is no method 'x'" in refused(stock, "--data", texts, "--method", "x", *out)
    assert "needs a converted model" in refused(stock, "--data", texts, "--method", "bcos", *out)
    tiny.model(num_labels=2).save_pretrained(tmp_path / "bare")
    assert "has no tokenizer. Save it" in refused(tmp_path / "bare", "--data", texts, *out)
    assert "give them others" in refused(stock, stock, "--data", texts, *out)
    assert "given 1 times" in refused(stock, "--data", texts, "--compare", "a", *out)
    compare = [
        "--compare",
        "conventional + random",
        "--compare",
        "conventional + randon",
        "--output",
        tmp_path / "new",
    ]
    there = "there are: 'conventional + input_x_gradient', 'conventional + random'."
    assert f"'conventional + randon' is no row; {there}" in refused(stock, "--data", texts, *compare)
    compare = ["--compare", "random", "--compare", "B-cos", "--method", "random", "--output", tmp_path / "new"]
    assert "'B-cos' is no row; there are: 'conventional + random'" in refused(stock, "--data", texts, *compare)
    assert not (tmp_path / "new").exists(), "nothing was computed"
    (tmp_path / "data.csv").write_text("review\nOne.\n")
    assert "say with --text-column" in refused(stock, "--data", tmp_path / "data.csv", *out)
    assert not (tmp_path / "out" / "results.json").exists()


def test_data_sets_with_a_script_are_read_from_their_copy(monkeypatch):
    datasets = pytest.importorskip("datasets")
    asked = []

    def load(name, *arguments, **options):
        asked.append((name, *arguments, options))
        if "revision" not in options:
            raise RuntimeError(f"Dataset scripts are no longer supported, but found {name}.py")
        if name == "gone":
            raise FileNotFoundError("no such revision")
        row = {"post_tokens": ["you", "fools"], "annotators": {"label": [2, 2, 0]}, "rationales": [[0, 1], [1, 1]]}
        return datasets.Dataset.from_list([row])

    monkeypatch.setattr(datasets, "load_dataset", load)
    rows, _ = load_rows("Hate-speech-CNERG/hatexplain", split="train")
    assert rows[0].text == "you fools"
    assert asked[1] == ("Hate-speech-CNERG/hatexplain", None, {"split": "train", "revision": "refs/convert/parquet"})
    with pytest.raises(ValueError, match="'gone' is a data set with a script"):
        load_hub_data("gone")
    monkeypatch.setattr(datasets, "load_dataset", lambda name: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        load_hub_data("other")
