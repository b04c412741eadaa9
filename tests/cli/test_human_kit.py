"""`bcos-peft evaluate human-kit`, from texts to the result. The answers are simulated, and marked so."""

import json

import pytest
from helpers import tiny
from helpers.commands import refused, run
from helpers.human_kits import TEXTS, prefer, simulated

from bcos_peft import BcosConfig, Explanation, get_bcos_model
from bcos_peft.evaluation import HumanKit


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A classifier before and after its conversion, a file of texts, and explanations by two methods."""
    path = tmp_path_factory.mktemp("kit")
    model, tokenizer = tiny.model("bert", num_labels=2), tiny.tokenizer()
    for name in ("stock", "bcos"):
        model.save_pretrained(path / name)
        tokenizer.save_pretrained(path / name)
        model = model if name == "bcos" else get_bcos_model(model, BcosConfig(b=1.25))
    (path / "texts.txt").write_text("\n".join([*TEXTS, ""]), encoding="utf-8-sig")  # with the mark of Windows
    for name, method in (("bcos", "bcos"), ("stock", "attention")):
        result = run(
            "evaluate", "human-kit", "explain", path / name, path / f"{method}.json",
            "--method", method, "--file", path / "texts.txt", "--target", 1, "--foil", "LABEL_0",
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        assert f"4 explanations by {method}" in result.stdout
    return path


def files(folder):
    return [f"--explanations={name}={folder / name}.json" for name in ("bcos", "attention")]


def test_a_number_may_be_a_label(folder, tmp_path):
    tiny.model("bert", num_labels=2, id2label={0: "1", 1: "2"}, label2id={"1": 0, "2": 1}).save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    options = ("--method", "random", "--file", folder / "texts.txt", "--target", 1, "--foil", 2)
    assert run("evaluate", "human-kit", "explain", tmp_path, tmp_path / "out.json", *options).exit_code == 0
    found = Explanation.from_dict(json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))[0])
    assert (found.target, found.target_label, found.foil) == (0, "1", 1)


def test_explanations_are_written(folder):
    found = [Explanation.from_dict(one) for one in json.loads((folder / "bcos.json").read_text(encoding="utf-8"))]
    assert [one.text for one in found] == TEXTS
    assert all((one.target, one.foil) == (1, 0) for one in found)
    assert all(abs(one.residual) < 1e-5 for one in found)


def test_from_explanations_to_the_result(folder, tmp_path):
    result = run("evaluate", "human-kit", "export", tmp_path / "kit", *files(folder), "--seed", 3, "--title", "Hello")
    assert result.exit_code == 0, result.output
    assert "4 pairs. For readers:" in result.stdout
    page = (tmp_path / "kit" / "page.html").read_text(encoding="utf-8")
    assert "<title>Hello</title>" in page
    assert "attention" not in page
    kit = HumanKit.load(tmp_path / "kit")
    answers = simulated(tmp_path, kit, "one", prefer(kit, "bcos", but=[1]))
    result = run(
        "evaluate", "human-kit", "analyse", tmp_path / "kit", answers, "--simulated", "--json", tmp_path / "r.json"
    )
    assert result.exit_code == 0, result.output
    assert "SIMULATED" in result.stdout
    assert "| attention against bcos | 1 | 0 | 3 | 0.250 |" in result.stdout
    written = (tmp_path / "r.json").read_text()
    assert json.loads(written)["comparisons"][0]["losses"] == 3
    assert "NaN" not in written, "which is no JSON"


def test_refusals(folder, tmp_path):
    kit = ("evaluate", "human-kit")
    assert "must be METHOD=FILE" in refused(*kit, "export", tmp_path, "--explanations", "bcos")
    one = f"--explanations=bcos={folder / 'bcos.json'}"
    assert "a comparison needs two" in refused(*kit, "export", tmp_path, one)
    assert "names a method twice" in refused(*kit, "export", tmp_path, one, one)
    assert "no JSON file" in refused(*kit, "export", tmp_path, f"--explanations=bcos={folder / 'texts.txt'}")
    explain = (*kit, "explain", folder / "stock", tmp_path / "x.json", "--file", folder / "texts.txt")
    assert "There is no method 'magic'" in refused(*explain, "--method", "magic")
    assert "not a label of the model" in refused(*explain, "--method", "random", "--target", "good")
    assert "get_bcos_model" in refused(*explain, "--method", "bcos")
    assert not (tmp_path / "x.json").exists()
    assert "--device nonsense cannot be used" in refused(*explain, "--method", "random", "--device", "nonsense")
    lost = (*kit, "explain", "no/model", tmp_path / "nowhere" / "x.json", "--file", folder / "texts.txt")
    assert "there is no folder" in refused(*lost, "--method", "random")
    tiny.model("bert", "MaskedLM").save_pretrained(tmp_path / "mlm")
    tiny.tokenizer().save_pretrained(tmp_path / "mlm")
    other = (*kit, "explain", tmp_path / "mlm", tmp_path / "x.json", "--file", folder / "texts.txt")
    assert "takes sequence classifiers" in refused(*other, "--method", "random")
    (tmp_path / "answers.json").write_text("{}")
    run(*kit, "export", tmp_path / "kit", *files(folder))
    assert "no file of the format" in refused(*kit, "analyse", tmp_path / "kit", tmp_path / "answers.json")


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_language_models_are_explained_as_they_were_saved(family, tmp_path):
    model = tiny.model(family, "CausalLM")
    for name in ("stock", "bcos"):
        model.save_pretrained(tmp_path / name)
        tiny.tokenizer("bpe").save_pretrained(tmp_path / name)
        model = get_bcos_model(model, BcosConfig(b=1.25)) if name == "stock" else model
    (tmp_path / "texts.txt").write_text("The film was\n")
    for name, method in (("stock", "random"), ("bcos", "bcos")):
        result = run(
            "evaluate", "human-kit", "explain", tmp_path / name, tmp_path / "x.json", "--method", method,
            "--file", tmp_path / "texts.txt",
        )  # fmt: skip
        assert result.exit_code == 0, result.output
