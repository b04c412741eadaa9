"""Measured numbers on model cards: what `eval_results` writes, what stays at later saves, and what is refused."""

import dataclasses
import textwrap

import numpy as np
import pytest
import torch
from helpers import tiny
from helpers.fake_hub import FakeHub
from helpers.hub_process import BY_HAND, PREPARE, card_of, converted, run
from helpers.paths import TESTS
from huggingface_hub import EvalResult, ModelCard
from peft import LoraConfig, get_peft_model

from bcos_peft import BcosConfig, get_bcos_model
from bcos_peft.evaluation import EvaluationResult, Record, Value


def accuracy(value=0.9, **changes):
    given = {"task_type": "text-classification", "dataset_type": "stanfordnlp/imdb", "dataset_name": "IMDb"}
    given |= {"dataset_split": "test", "metric_type": "accuracy", "metric_name": "Accuracy", "metric_value": value}
    return EvalResult(**given | changes)


F1 = accuracy(0.1 + 0.2, metric_type="f1", metric_name=None, metric_args={"average": "macro", "labels": [0, 1]})
OTHER = accuracy(0.8, dataset_type="me/reviews", dataset_name="Reviews", dataset_split=None, metric_config="mine")


def numbers_of(folder):
    return ModelCard.load(folder / "README.md").data.eval_results


def text_of(folder):
    return (folder / "README.md").read_text(encoding="utf-8")


# ---- The card of a model --------------------------------------------------------------------------------------------


def test_numbers_are_in_the_metadata_and_in_a_table(tmp_path):
    converted().save_pretrained(tmp_path / "my-model", eval_results=[accuracy(), F1, OTHER])
    assert numbers_of(tmp_path / "my-model") == [accuracy(), F1, OTHER]
    data, body = card_of(tmp_path / "my-model")
    assert [entry["name"] for entry in data["model-index"]] == ["my-model"]
    assert data["pipeline_tag"] == "text-classification"
    rows = [line for line in body.splitlines() if line.startswith("| ")]
    assert rows == [
        "| Data | Metric | Value | How |",
        "| --- | --- | ---: | --- |",
        "| IMDb, test | Accuracy | 0.9 |  |",
        "| IMDb, test | f1 | 0.3 | average: macro, labels: [0, 1] |",
        "| Reviews | Accuracy | 0.8 | config: mine |",
    ]
    assert "Residual: " in body


def test_numbers_stay_until_others_are_given(tmp_path):
    model = converted()
    model.save_pretrained(tmp_path, eval_results=[accuracy()])
    before = text_of(tmp_path)
    model.save_pretrained(tmp_path)
    assert text_of(tmp_path) == before
    model.set_b(2.0)
    model.save_pretrained(tmp_path)
    assert "B: 2" in text_of(tmp_path), "the rest of the card is written anew"
    assert numbers_of(tmp_path) == [accuracy()]
    model.save_pretrained(tmp_path, eval_results=[OTHER])
    assert numbers_of(tmp_path) == [OTHER]
    assert text_of(tmp_path).count("## Measured") == 1
    model.save_pretrained(tmp_path, eval_results=[])
    assert "model-index" not in text_of(tmp_path)
    assert "Measured" not in text_of(tmp_path)


def test_a_card_written_by_hand_gets_numbers_in_its_metadata(tmp_path):
    (tmp_path / "README.md").write_text(BY_HAND)
    model = converted()
    model.save_pretrained(tmp_path, eval_results=[accuracy()])
    assert numbers_of(tmp_path) == [accuracy()]
    data, body = card_of(tmp_path)
    assert (data["license"], data["tags"], body) == ("mit", ["mine"], "\n# Written by hand\n")
    before = text_of(tmp_path)
    model.save_pretrained(tmp_path)
    assert text_of(tmp_path) == before
    model.save_pretrained(tmp_path, eval_results=[])
    assert text_of(tmp_path) == BY_HAND


def test_a_card_that_was_generated_and_changed_by_hand_keeps_its_table_up_to_date(tmp_path):
    model = converted()
    model.save_pretrained(tmp_path, eval_results=[accuracy()])
    lines = text_of(tmp_path).splitlines(keepends=True)
    text = "".join(line for line in lines if "Delete this line" not in line) + "\n## Mine\n"
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    model.save_pretrained(tmp_path, eval_results=[accuracy(0.75)])
    assert text_of(tmp_path) == text.replace("0.9", "0.75")


def test_a_damaged_card_is_written_anew(tmp_path, caplog):
    model = converted()
    model.save_pretrained(tmp_path, eval_results=[accuracy()])
    whole = text_of(tmp_path)
    (tmp_path / "README.md").write_text(whole.replace("license: unknown", "license: [unclosed"))
    model.save_pretrained(tmp_path)
    assert not numbers_of(tmp_path)
    assert text_of(tmp_path).endswith("```\n"), "all else is there"
    assert "measured numbers on it, they are not kept" in caplog.text


def test_what_could_end_the_table_is_escaped(tmp_path):
    name = "a | b\n<!-- End of the numbers. -->"
    model = converted()
    model.save_pretrained(tmp_path, eval_results=[accuracy(dataset_name=name)])
    assert numbers_of(tmp_path)[0].dataset_name == name
    assert "| a \\| b &lt;!-- End of the numbers. -->, test | Accuracy |" in text_of(tmp_path)
    model.save_pretrained(tmp_path, eval_results=[])
    assert "Accuracy" not in text_of(tmp_path)


def test_values_of_numpy_and_torch_become_plain(tmp_path):
    values = np.float64(0.5), torch.tensor(0.25), np.int64(3)
    given = [accuracy(value, metric_type=f"metric {i}") for i, value in enumerate(values)]
    converted().save_pretrained(tmp_path, eval_results=given)
    assert [result.metric_value for result in numbers_of(tmp_path)] == [0.5, 0.25, 3]
    assert isinstance(given[0].metric_value, np.float64), "what was given is left as it was"


@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        ({"eval_accuracy": 0.9}, TypeError, r"list of huggingface_hub\.EvalResult, got dict.*by hand: \[EvalResult\("),
        ([0.9], TypeError, r"eval_results must be .* got float.*EvaluationResult\.eval_results"),
        ([None], TypeError, "got NoneType"),
        (accuracy(), TypeError, "got a single one"),
        (EvaluationResult([], {}), TypeError, "got EvaluationResult"),
        ([accuracy(), accuracy(float("nan"))], ValueError, r"eval_results\[1\] has metric_value=nan"),
        ([accuracy(None)], ValueError, "metric_value=None"),
        ([accuracy(metric_args={"interval": (0.0, 1.0)})], ValueError, r"metric_args=\{'interval': \(0\.0, 1\.0\)\}"),
        ([accuracy(metric_args={"mean": np.float64(1)})], ValueError, "metric_args"),
        ([accuracy(), accuracy(metric_type="f1", dataset_name="Films")], ValueError, "'Films', and another .*'IMDb'"),
    ],
)
def test_what_a_card_cannot_hold_is_refused_before_anything_is_written(given, error, match, tmp_path):
    model = converted()
    with pytest.raises(error, match=match):
        model.save_pretrained(tmp_path / "model", eval_results=given)
    with pytest.raises(error, match=match):
        model.push_to_hub("me/model", eval_results=given)  # without a network
    adapted = get_peft_model(model, LoraConfig(target_modules=["query"]))
    with pytest.raises(error, match=match):
        adapted.save_pretrained(tmp_path / "model", eval_results=given)
    assert not (tmp_path / "model").exists()


# ---- The cards of adapters ------------------------------------------------------------------------------------------


def adapter(native=False):
    model = get_bcos_model(tiny.model("llama", "CausalLM"), BcosConfig(b=1.5), verify=False)
    config = LoraConfig(r=2, target_modules=["up_proj"], task_type="CAUSAL_LM")
    if not native:
        return get_peft_model(model, config)
    model.add_adapter(config)
    return model


@pytest.mark.parametrize("native", [False, True], ids=["saved by peft", "saved by transformers"])
def test_numbers_on_the_card_of_an_adapter(native, tmp_path):
    model = adapter(native)
    folder = tmp_path / "my-adapter"
    model.save_pretrained(folder)
    assert not numbers_of(folder)
    model.save_pretrained(folder, eval_results=[accuracy(), OTHER])
    before = text_of(folder)
    assert numbers_of(folder) == [accuracy(), OTHER]
    assert "name: my-adapter" in before
    assert "| Reviews | Accuracy | 0.8 | config: mine |" in before
    assert "bcos_peft.load(" in before
    model.save_pretrained(folder)
    assert text_of(folder).rstrip() == before.rstrip()
    model.save_pretrained(folder, eval_results=[F1])
    assert numbers_of(folder) == [F1]
    assert text_of(folder).count("## Measured") == text_of(folder).count("bcos_peft.load(") == 1
    model.save_pretrained(folder, eval_results=[])
    assert "model-index" not in text_of(folder)
    assert "## Measured" not in text_of(folder)


@pytest.mark.parametrize("native", [False, True], ids=["saved by peft", "saved by transformers"])
def test_a_card_written_by_hand_beside_an_adapter_stays(native, tmp_path):
    (tmp_path / "README.md").write_text(BY_HAND)
    adapter(native).save_pretrained(tmp_path, eval_results=[accuracy()])
    data, body = card_of(tmp_path)
    assert data["license"] == "mit"
    assert "# Written by hand\n" in body
    assert "bcos_peft.load(" in body
    assert numbers_of(tmp_path) == [accuracy()]


# ---- Pushing --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_numbers_that_are_pushed(tmp_path):
    code = f"""
        import sys
        sys.path.insert(0, {str(TESTS / "models")!r})
        from test_measured_numbers import OTHER, accuracy, adapter
        model.push_to_hub("me/model", eval_results=[accuracy()])
        model.push_to_hub("me/model")
        model.push_to_hub("me/model", revision="none", eval_results=[])
        model.push_to_hub("me/hand", eval_results=[accuracy()])
        model.save_pretrained("saved", push_to_hub=True, eval_results=[OTHER])
        model.save_pretrained("saved", push_to_hub=True, repo_id="me/model", revision="saved")
        adapter().push_to_hub("me/adapter", eval_results=[accuracy()])
        adapter().push_to_hub("me/adapter")
        adapter().push_to_hub("me/adapter", revision="other", eval_results=[OTHER])
    """
    with FakeHub() as hub:
        hub.repos["me/hand"] = {"main": {"README.md": BY_HAND.encode()}}
        run(PREPARE + textwrap.indent(textwrap.dedent(code), "    "), tmp_path, hub.environment(tmp_path / "home"))
    cards = {
        (repo.removeprefix("me/"), branch): files["README.md"].decode()
        for repo, branches in hub.repos.items()
        for branch, files in branches.items()
    }
    found = {key: ModelCard(card).data.eval_results for key, card in cards.items()}
    assert found["model", "main"] == [accuracy()], "kept by the second push"
    assert "| IMDb, test | Accuracy | 0.9 |" in cards["model", "main"]
    assert not found["model", "none"]
    assert "## Measured" not in cards["model", "none"]
    assert found["hand", "main"] == [accuracy()]
    assert cards["hand", "main"].endswith("---\n\n# Written by hand\n")
    assert found["saved", "main"] == found["model", "saved"] == [OTHER]
    assert found["adapter", "main"] == [accuracy()]
    assert found["adapter", "other"] == [OTHER]
    assert "| Reviews | Accuracy | 0.8 | config: mine |" in cards["adapter", "other"]
    assert "0.9" not in cards["adapter", "other"].split("---\n", 2)[2]


# ---- Numbers of an evaluation ---------------------------------------------------------------------------------------


def evaluated():
    values = {"seqpg": Value("SeqPG", True), "gap": Value("Gap")}
    records = [
        Record("B-cos", "bcos", "m", key, {"seqpg": x, "gap": 1.0}) for key, x in zip("abc", (0, 0.5, 1), strict=True)
    ]
    return EvaluationResult([*records, Record("B-cos", "random", "m", "a", {"seqpg": 0.125})], values)


ABOUT = {"task_type": "text-classification", "dataset_type": "stanfordnlp/imdb"}


def test_an_evaluation_gives_eval_results(tmp_path):
    result = evaluated()
    found = result.eval_results("bcos", dataset_name="IMDb", dataset_split="test", **ABOUT)
    interval = result.summary()["B-cos", "bcos"]["seqpg"]
    args = {"method": "bcos", "examples": 3, "interval": [interval.low, interval.high], "confidence": 0.95}
    expected = accuracy(0.5, metric_type="seqpg", metric_name="SeqPG, bcos", metric_args=args)
    assert found[0] == expected
    assert [one.metric_type for one in found] == ["seqpg", "gap"]
    (chance,) = result.eval_results(("B-cos", "random"), dataset_name="IMDb", dataset_split="test", **ABOUT)
    assert chance.metric_args == {"method": "random", "examples": 1}, "of one example there is no interval"
    converted().save_pretrained(tmp_path, eval_results=[*found, chance, accuracy()])
    assert numbers_of(tmp_path) == [*found, chance, accuracy()]
    named = result.eval_results("bcos", values=["gap"], **ABOUT)
    assert [dataclasses.asdict(one)["dataset_name"] for one in named] == ["stanfordnlp/imdb"]


def test_what_an_evaluation_does_not_have(tmp_path):
    result = evaluated()
    with pytest.raises(ValueError, match=r"2 rows; say of which: row=.*'B-cos \+ random'"):
        result.eval_results(**ABOUT)
    with pytest.raises(ValueError, match="'nothing' is no row"):
        result.eval_results("nothing", **ABOUT)
    with pytest.raises(ValueError, match="no value 'gap'; there are: seqpg"):
        result.eval_results("random", values=["gap"], **ABOUT)
    with pytest.raises(TypeError, match="spilt"):
        result.eval_results("bcos", spilt="test", **ABOUT)
    one = EvaluationResult(result.records[:1], result.values)
    assert one.eval_results(**ABOUT)[0].metric_value == 0
