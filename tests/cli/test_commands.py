"""The command `bcos-peft`."""

import json

import numpy as np
import pytest
from helpers import tiny
from helpers.commands import refused, run
from helpers.launching import start

import bcos_peft
from bcos_peft import BcosConfig, BcosExplainer, Explanation, get_bcos_model


TEXT = "An awful movie with a great soundtrack."


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    path = tmp_path_factory.mktemp("stock")
    labels = ["bad", "so-so", "good"]
    changes = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    tiny.model("bert", **changes).save_pretrained(path)
    tiny.tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def converted(stock, tmp_path_factory):
    path = tmp_path_factory.mktemp("bcos") / "model"
    result = run("convert", stock, path, "--b", "1.5", "--b-pattern", "classifier=1", "--gates", "hold")
    assert result.exit_code == 0, result.output
    assert "7 with B = 1.5" in result.stdout
    assert f"Saved in {path}" in result.stdout
    return path


def explanations_in(path):
    return [Explanation.from_dict(values) for values in json.loads(path.read_text(encoding="utf-8"))]


def test_version():
    assert run("--version").stdout == f"bcos-peft {bcos_peft.__version__}\n"


def test_the_console_script_is_installed():
    code = "import sys; from importlib.metadata import entry_points as e; sys.argv = ['bcos-peft', '--version']; "
    code += "next(p for p in e(group='console_scripts') if p.name == 'bcos-peft').load()()"
    run = start(["-c", code])
    assert (run.returncode, run.stdout) == (0, f"bcos-peft {bcos_peft.__version__}\n")


def test_convert_is_get_bcos_model(stock, converted):
    saved = BcosConfig.from_pretrained(converted)
    assert (saved.b, saved.b_pattern) == (1.5, {"classifier": 1.0})
    model = get_bcos_model(tiny.model("bert"), BcosConfig(b=1.5, b_pattern={"classifier": 1}))
    cls = bcos_peft.models.BcosBertForSequenceClassification
    for name, weight in cls.from_pretrained(converted).state_dict().items():
        assert (weight == model.state_dict()[name]).all(), name


def test_convert_to_another_task(stock, tmp_path):
    result = run("convert", stock, tmp_path / "new", "--task", "token-classification", "--num-labels", "7")
    assert result.exit_code == 0, result.output
    assert "BcosBertForTokenClassification" in run("info", tmp_path / "new").stdout


def test_convert_a_language_model(tmp_path):
    tiny.model("gpt2", "CausalLM").save_pretrained(tmp_path / "stock")  # a GPT2LMHeadModel, and no ...ForCausalLM
    result = run("convert", tmp_path / "stock", tmp_path / "bcos")
    assert result.exit_code == 0, result.output
    assert "BcosGPT2LMHeadModel" in result.stdout


def test_info(converted):
    result = run("info", converted)
    assert result.exit_code == 0
    assert bcos_peft.BcosConfig.from_pretrained(converted).gates == "hold"
    assert result.stdout.startswith("BcosBertForSequenceClassification, converted from ")
    assert "1 with B = 1, 7 with B = 1.5" in result.stdout


def test_explain(converted, tmp_path):
    result = run("explain", converted, TEXT, "Dull!", "--json", tmp_path / "out.json", "--html", tmp_path / "out.html")
    assert result.exit_code == 0, result.output
    assert "soundtrack" in result.stdout
    expected = BcosExplainer(bcos_peft.models.BcosBertForSequenceClassification.from_pretrained(converted).eval(),
                             tiny.tokenizer())([TEXT, "Dull!"])  # fmt: skip
    for one, two in zip(explanations_in(tmp_path / "out.json"), expected, strict=True):
        assert (one.text, one.target_label) == (two.text, two.target_label)
        np.testing.assert_allclose(one.scores, two.scores, atol=1e-5)
    page = (tmp_path / "out.html").read_text(encoding="utf-8")
    assert page.count("<section") == 2


def test_words_compared_with_the_average_one(converted, tmp_path):
    result = run("explain", converted, TEXT, "--baseline", "average", "--json", tmp_path / "out.json")
    assert result.exit_code == 0, result.output
    assert "average words" in result.stdout
    (found,) = explanations_in(tmp_path / "out.json")
    assert found.scores.sum() + found.baseline == pytest.approx(found.logit, abs=1e-4)
    assert "baseline must be 'zero' or 'average', got 'mean'" in refused(
        "explain", converted, TEXT, "--baseline", "mean"
    )


@pytest.mark.parametrize("target", ["good", "2"])
def test_choices(converted, tmp_path, target):
    result = run("explain", converted, TEXT, "--target", target, "--foil", "bad", "--json", tmp_path / "out.json")
    assert result.exit_code == 0, result.output
    (explanation,) = explanations_in(tmp_path / "out.json")
    assert (explanation.target_label, explanation.foil_label) == ("good", "bad")


def test_every_class_pairs_and_files(converted, tmp_path):
    (tmp_path / "texts.txt").write_text("Dull!\n\nA café.\n", encoding="utf-8")
    arguments = ("explain", converted, "--file", tmp_path / "texts.txt", "--pair", "Good.", "--target", "all")
    result = run(*arguments, "--json", "-")
    assert result.exit_code == 0, result.output
    explanations = [Explanation.from_dict(values) for values in json.loads(result.stdout)]
    assert [(one.text, one.target) for one in explanations] == [
        ((text, "Good."), target) for text in ("Dull!", "A café.") for target in range(3)
    ]
    piped = run("explain", converted, "--file", "-", "--json", "-", input="Dull!\n")
    assert json.loads(piped.stdout)[0]["text"] == "Dull!"


def test_top_and_tokens(converted):
    assert run("explain", converted, TEXT, "--top", "1").stdout != run("explain", converted, TEXT).stdout
    assert run("explain", converted, TEXT, "--tokens").stdout != run("explain", converted, TEXT).stdout


def test_refusals(stock, converted, tmp_path):
    assert "b must be a finite number of at least 1" in refused("convert", stock, tmp_path / "x", "--b", "0.5")
    assert "'nonsense' matches no" in refused("convert", stock, tmp_path / "x", "--b-pattern", "nonsense=2")
    assert "must be REGEX=B" in refused("convert", stock, tmp_path / "x", "--b-pattern", "classifier")
    assert "'nonsense' is unknown; there are: text-" in refused("convert", stock, tmp_path / "x", "--task", "nonsense")
    assert "not an empty directory" in refused("convert", stock, converted)
    assert "is converted already" in refused("convert", converted, tmp_path / "x")
    assert "Error: " in refused("convert", tmp_path / "missing", tmp_path / "x")
    assert not (tmp_path / "x").exists()
    assert "not a B-cos model" in refused("explain", stock, TEXT)
    assert "not a B-cos model" in refused("info", tmp_path)
    assert "There is no text" in refused("explain", converted)
    assert "No such file" in refused("explain", converted, "--file", tmp_path / "missing.txt")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    assert "not UTF-8" in refused("explain", converted, "--file", tmp_path / "latin.txt")
    assert "is not a label of the model; it has 'bad'" in refused("explain", converted, TEXT, "--target", "great")
    assert "target must be between 0 and 2" in refused("explain", converted, TEXT, "--target", "9")
    assert "inputs[1] is empty" in refused("explain", converted, TEXT, " ")
    assert "truncation=True" in refused("explain", converted, "film " * 90)
    assert "--top" in refused("explain", converted, TEXT, "--top", "-1")


def test_a_model_of_an_unknown_family(converted, tmp_path):
    for file in converted.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    config["architectures"] = ["BcosNovelForSequenceClassification"]
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert "a BcosNovelForSequenceClassification, of no family that this package has" in refused("info", tmp_path)


def test_a_model_without_a_tokenizer(tmp_path):
    tiny.model("roberta").save_pretrained(tmp_path / "stock")
    result = run("convert", tmp_path / "stock", tmp_path / "bcos")
    assert result.exit_code == 0, result.output
    assert "has no tokenizer" in result.stderr
    assert "has no tokenizer" in refused("explain", tmp_path / "bcos", TEXT)


def test_a_model_without_a_head(tmp_path):
    tiny.model("bert").bert.save_pretrained(tmp_path / "stock")
    assert "choose one: --task text-classification" in refused("convert", tmp_path / "stock", tmp_path / "bcos")


@pytest.fixture(scope="module")
def language_model(tmp_path_factory):
    path = tmp_path_factory.mktemp("language")
    model = get_bcos_model(tiny.model("llama", "CausalLM"), BcosConfig())
    model.generation_config.update(eos_token_id=None, pad_token_id=0)
    model.save_pretrained(path)
    tokenizer = tiny.tokenizer("bpe")
    tokenizer.chat_template = "{% for m in messages %}<s>{{ m.content }}</s>{% endfor %}"
    tokenizer.save_pretrained(path)
    return path


def test_next_token(language_model, tmp_path):
    out = tmp_path / "out.json"
    assert run("explain", language_model, TEXT, "--json", out).exit_code == 0
    (against,) = explanations_in(out)
    assert against.foil is not None
    assert run("explain", language_model, TEXT, "--no-contrast", "--json", out).exit_code == 0
    (plain,) = explanations_in(out)
    assert (plain.target, plain.foil) == (against.target, None)
    assert run("explain", language_model, TEXT, "--target", "40", "--foil", "41", "--json", out).exit_code == 0
    assert [(one.target, one.foil) for one in explanations_in(out)] == [(40, 41)]
    assert run("explain", language_model, "Is it?", "--chat", "--json", out).exit_code == 0
    (chat,) = explanations_in(out)
    assert (chat.text, chat.segments) == ("<s>Is it?</s>", {"user": (3, 9)})


def test_generate(language_model, tmp_path):
    out, page = tmp_path / "out.json", tmp_path / "out.html"
    result = run("explain", language_model, TEXT, "--generate", "4", "--json", out, "--html", page)
    assert result.exit_code == 0, result.output
    assert "generated 4 tokens" in result.stdout
    (values,) = json.loads(out.read_text(encoding="utf-8"))
    assert len(bcos_peft.GenerationExplanation.from_dict(values)) == 4
    assert "bcosx-step" in page.read_text(encoding="utf-8")
    two = run("explain", language_model, TEXT, "Dull!", "--generate", "2", "--chat")
    assert two.stdout.count("Σ contributions to all tokens") == 2


def test_json_for_a_console_that_lacks_characters(language_model, monkeypatch):
    monkeypatch.setattr("bcos_peft.explanation.views.terminal.encodable", lambda encoding, sample: False)
    result = run("explain", language_model, TEXT, "--json", "-")
    assert result.stdout.isascii()
    assert any("\u0120" in token for token in json.loads(result.stdout)[0]["tokens"]), "what BPE has for a space"


def test_generate_refusals(language_model, converted):
    assert "--foil cannot go with --generate" in refused("explain", language_model, TEXT, "--generate", 2, "--foil", 3)
    prompt = ["explain", language_model, TEXT]
    assert "--pair cannot go with a causal language model" in refused(*prompt, "--chat", "--pair", "b")
    assert "--truncation cannot go with a causal language model" in refused(*prompt, "--truncation")
    html = refused("explain", "no/model", TEXT, "b", "--generate", 2, "--html", "no.html")  # before anything is read
    assert "takes a single text" in html
    assert "is neither" in refused("explain", converted, TEXT, "--generate", 2)


def test_a_file_has_a_text_on_each_line_whatever_else_is_in_it(converted, tmp_path):
    lines = tmp_path / "texts.txt"
    lines.write_bytes("\ufeffa film\r\nanother\u2028one\n".encode())
    assert run("explain", converted, "--file", lines, "--json", tmp_path / "found.json").exit_code == 0
    texts = [one.text for one in explanations_in(tmp_path / "found.json")]
    assert texts == ["a film", "another\u2028one"]
    piped = run("explain", converted, "--file", "-", "--json", "-", input=lines.read_bytes())
    assert [values["text"] for values in json.loads(piped.stdout)] == texts


def test_a_device_that_is_not_there(converted):
    assert "--device nonsense cannot be used here" in refused("explain", converted, TEXT, "--device", "nonsense")


def test_what_is_no_model_is_told_apart(tmp_path, monkeypatch):
    assert "there is no such folder" in refused("info", tmp_path / "nothing")
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "is an adapter, not a model: load it with bcos_peft.load" in refused("info", tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "is not in the cache, and the hub cannot be reached" in refused("info", "someone/something")


def test_a_file_in_no_folder(converted, tmp_path):
    wanted = tmp_path / "nowhere" / "found.json"
    assert f"there is no folder '{wanted.parent}'" in refused("explain", converted, TEXT, "--json", wanted)


def test_a_folder_that_cannot_be_written_to(converted, tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: str(path) != str(tmp_path))
    page = tmp_path / "page.html"
    assert f"no file can be made in '{tmp_path}'" in refused("explain", converted, TEXT, "--html", page)


def test_all_files_can_be_written_or_none_is(converted, tmp_path):
    page = tmp_path / "page.html"
    nowhere = refused("explain", converted, TEXT, "--html", page, "--json", tmp_path / "nowhere" / "found.json")
    assert "there is no folder" in nowhere
    assert f"'{tmp_path}': it is a folder" in refused("explain", converted, TEXT, "--html", page, "--json", tmp_path)
    assert not page.exists()
    assert "there is no folder" in refused("explain", "no/model", TEXT, "--html", tmp_path / "nowhere" / "page.html")


def test_a_number_in_quotes_is_the_text_that_follows(language_model, tmp_path):
    out = tmp_path / "out.json"
    vocabulary = tiny.tokenizer("bpe").get_vocab()
    digit = next(token for token in vocabulary if token.isdecimal() and len(token) == 1)
    assert run("explain", language_model, TEXT, "--target", f'"{digit}"', "--json", out).exit_code == 0
    (found,) = explanations_in(out)
    assert (found.target, found.target_label) == (vocabulary[digit], digit)
    assert run("explain", language_model, TEXT, "--target", digit, "--json", out).exit_code == 0
    assert explanations_in(out)[0].target == int(digit)
