"""The examples run as they stand, without a network, and print what they promise."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.docs_env import run_page
from helpers.launching import HUGGING_FACE, start
from helpers.paths import ROOT
from transformers import AutoModelForCausalLM, AutoTokenizer


sys.path.insert(0, str(ROOT / "examples"))

# Generous: on a busy machine SmolLM2 takes its time.
pytestmark = [pytest.mark.newest, pytest.mark.timeout(900)]


def run(script, *arguments, **variables):
    fixed = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "100", "NO_COLOR": "1"}
    environment = {**os.environ, **fixed, **variables}
    finished = start([ROOT / "examples" / script, *arguments], environment, seconds=850, imported=HUGGING_FACE)
    assert finished.returncode == 0, f"{finished.stdout[-3000:]}\n{finished.stderr[-5000:]}"
    return finished.stdout, finished.stderr


@pytest.fixture(scope="module")
def short_smollm2(smollm2_folder, tmp_path_factory):
    """The first four of SmolLM2's thirty layers: it writes nonsense, on the same ways."""
    folder = tmp_path_factory.mktemp("short") / "smollm2"
    model = AutoModelForCausalLM.from_pretrained(smollm2_folder)
    del model.model.layers[4:]
    model.config.num_hidden_layers = 4
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(smollm2_folder).save_pretrained(folder)
    return folder


def test_translate_and_explain(tmp_path):
    out, _ = run("translate_and_explain.py", "--offline", "--steps=300", "--output", tmp_path)
    right = int(re.search(r"^(\d+) of 50 sentences", out, re.MULTILINE)[1])
    assert right >= 35
    assert re.search(r"^source +\+", out, re.MULTILINE)
    assert "residual of a token" in " ".join(out.split())
    assert (tmp_path / "translation.html").exists()


@pytest.mark.slow
def test_demo(tmp_path):
    out, err = run("demo.py", "--quick", "--train=48", "--test=40", "--output", tmp_path)
    assert err == "", "the libraries stay quiet"
    for label in ("always “negative”", "conventional", "B-cos", "conventional, calibrated"):
        assert re.search(rf"^{label} +\d+\.\d%", out, re.MULTILINE), label
    largest = re.search(r"differ by at most ([\d.e-]+) \(logit units\)", " ".join(out.split()))
    assert 0 < float(largest[1]) < 1e-4
    assert "identical outputs" in out
    assert re.search(r"^Wrong: why \w+ rather than \w+\?", out, re.MULTILINE)
    assert out.count("Σ contributions") == 3
    report = tmp_path / "report.html"
    assert report.resolve().as_uri() in out
    page = report.read_text(encoding="utf-8")
    assert "<script" not in page
    # Counted by the Trainer for the table, by the explanations for the report.
    accuracy = re.search(r"^B-cos +(\d+\.\d%)", out, re.MULTILINE)[1]
    assert f"it labels {accuracy} of 40 test tweets" in page
    assert not re.search(r"(src|href)=.?https?:", page)
    assert (tmp_path / "model" / "model.safetensors").exists()


@pytest.mark.slow
def test_classify_and_explain_offline(tmp_path):
    sizes = ["--train=32", "--test=16", "--replay=64"]
    out, _ = run("classify_and_explain.py", "--offline", *sizes, "--output", tmp_path)
    assert len(re.findall(r"test accuracy \d+\.\d%", out)) == 2, "before the conversion, and at the end"
    assert out.count("Σ contributions") == 3
    assert (tmp_path / "explanation.html").exists()


@pytest.mark.slow
def test_classify_and_explain_in_the_published_order(tmp_path):
    sizes = ["--published", "--train=32", "--test=16"]
    out, _ = run("classify_and_explain.py", "--offline", *sizes, "--output", tmp_path)
    assert len(re.findall(r"test accuracy \d+\.\d%", out)) == 1
    assert json.loads((tmp_path / "config.json").read_text())["bcos"]["normalize_weights"] is True


@pytest.mark.slow
def test_classify_and_explain_with_names_of_the_hub(tmp_path):
    """The default path, against the documentation's stand-ins for the hub."""
    page = tmp_path / "page.md"
    script = (ROOT / "examples" / "classify_and_explain.py").as_posix()
    code = f"""
import runpy, sys
from datasets import load_dataset
sys.argv = ["classify_and_explain.py", "--output", "out"]
options = runpy.run_path({script!r})["options"]
assert (options.model, options.dataset) == ("google-bert/bert-base-uncased", "stanfordnlp/imdb")
"""
    page.write_text(f"```python\n{code}\n```\n", encoding="utf-8")
    finished = run_page(page, tmp_path)
    assert finished.returncode == 0, finished.stderr[-5000:]
    assert "test accuracy" in finished.stdout
    assert (tmp_path / "work" / "out" / "explanation.html").exists()


@pytest.mark.slow
def test_explain_a_finetuned_classifier(tmp_path):
    """Both paths: a folder with a fine-tuned model, and names of the hub, stood in for."""
    page = tmp_path / "page.md"
    script = (ROOT / "examples" / "explain_a_finetuned_classifier.py").as_posix()
    code = f"""
import runpy, sys
from datasets import load_dataset
sys.argv = ["explain_a_finetuned_classifier.py"]
ran = runpy.run_path({script!r})
assert ran["options"].dataset == "stanfordnlp/imdb"
model = ran["model"]
assert model.bcos_config.base_model_name_or_path == "distilbert/distilbert-base-uncased-finetuned-sst-2-english"
assert model.bcos_config.calibration_report["texts"] == 16
sys.path.insert(0, {str(ROOT / "examples")!r})
from transformers import AutoModelForSequenceClassification, AutoTokenizer
name = "distilbert/distilbert-base-uncased-finetuned-sst-2-english"
AutoModelForSequenceClassification.from_pretrained(name).save_pretrained("mine")
AutoTokenizer.from_pretrained(name).save_pretrained("mine")
sys.argv = ["explain_a_finetuned_classifier.py", "--offline", "mine", "--b", "1.5"]
model = runpy.run_path({script!r})["model"]
assert model.bcos_config.calibration_report["texts"] == 256
"""
    page.write_text(f"```python\n{code}\n```\n", encoding="utf-8")
    finished = run_page(page, tmp_path)
    assert finished.returncode == 0, finished.stderr[-5000:]
    assert finished.stdout.count("Σ contributions") == 2
    assert (tmp_path / "work" / "outputs" / "explained-classifier" / "model.safetensors").exists()
    assert len(Path(script).read_text(encoding="utf-8").splitlines()) < 40


@pytest.mark.slow
def test_demo_llm(short_smollm2, tmp_path):
    sizes = ["--quick", "--test=4", "--tokens=4"]
    out, err = run("demo_llm.py", *sizes, "--output", tmp_path, SMOLLM2_UNPACKED=str(short_smollm2))
    assert err == "", "the libraries stay quiet"
    for name in ("original", "B-cos, as published", "B-cos, calibrated"):
        assert re.search(rf"^{name}.* \d+\.\d\d +\d+\.\d%", out, re.MULTILINE), name
    assert "identical outputs" in out
    largest = re.search(r"differ by at most ([\d.e-]+):", " ".join(out.split()))
    assert 0 < float(largest[1]) < 1e-3
    pages = sorted(tmp_path.glob("answer-*.html"))
    assert len(pages) == 3
    assert not any(re.search(r"(src|href)=.?https?:", page.read_text(encoding="utf-8")) for page in pages)


@pytest.mark.slow
def test_demo_llm_stops_in_time(tmp_path):
    command = [sys.executable, str(ROOT / "examples" / "demo_llm.py"), "--minutes=0.001", f"--output={tmp_path}"]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert finished.returncode == 1
    assert "not ready after 0.001 minutes" in finished.stdout


@pytest.mark.slow
def test_sft_bcos_llama_offline(short_smollm2, tmp_path):
    sizes = ["--steps=8", "--test=4", "--replay=64"]
    variables = {"SMOLLM2_UNPACKED": str(short_smollm2)}
    out, _ = run("sft_bcos_llama.py", "--offline", *sizes, "--output", tmp_path, **variables)
    for name in ("conventional", "B-cos"):
        assert re.search(rf"^{name}: \d+\.\d% before, \d+\.\d% after", out, re.MULTILINE), name
    assert out.count("Σ contributions") >= 1
    assert (tmp_path / "explanation.html").exists()
    assert (tmp_path / "model.safetensors").exists()


@pytest.mark.slow
def test_sft_bcos_llama_with_names_of_the_hub(tmp_path):
    page = tmp_path / "page.md"
    script = (ROOT / "examples" / "sft_bcos_llama.py").as_posix()
    code = f"""
import runpy, sys
from datasets import load_dataset
sys.argv = ["sft_bcos_llama.py", "--steps", "2", "--test", "4", "--output", "out"]
options = runpy.run_path({script!r})["options"]
assert (options.model, options.dataset) == ("meta-llama/Llama-3.2-1B", "tatsu-lab/alpaca")
"""
    page.write_text(f"```python\n{code}\n```\n", encoding="utf-8")
    finished = run_page(page, tmp_path)
    assert finished.returncode == 0, finished.stderr[-5000:]
    assert "B-cos: " in finished.stdout
    assert (tmp_path / "work" / "out" / "explanation.html").exists()


def test_tweets_are_the_same_each_time_and_apart():
    from bundled import LABELS, fingerprint, tweets

    data, again = tweets(train=3000, test=500), tweets(train=100, test=500)
    assert data["test"][:] == again["test"][:]
    assert data["train"][:100] == again["train"][:]
    assert data["train"].features["label"].names == LABELS
    assert set(data["train"]["label"]) == {0, 1, 2}
    seen = [fingerprint(text) for part in data.values() for text in part["text"]]
    assert len(seen) == len(set(seen)) == 3500
    assert all(text.isascii() and "http" not in text for text in data["test"]["text"])


@pytest.mark.parametrize(
    "copy",
    [
        "RT @someone: My flight was late AGAIN, thanks @united",
        "my flight was late again thanks",
        "So true RT @someone My flight was late again, thanks #travel",
    ],
)
def test_copies_of_a_tweet_have_one_fingerprint(copy):
    from bundled import fingerprint

    assert fingerprint(copy) == fingerprint("@united My flight was late again, thanks")
    assert fingerprint(copy) != fingerprint("@united My flight was early again, thanks")


def test_too_many_tweets_are_refused():
    from bundled import tweets

    with pytest.raises(ValueError, match="more than the"):
        tweets(train=10**6, test=1)


def test_tweets_as_a_chat_task():
    from bundled import tweet_instructions

    data, again = tweet_instructions(train=400, test=60), tweet_instructions(train=10, test=60)
    assert data["test"][:] == again["test"][:]
    answers = [row["completion"][0]["content"] for row in data["train"]]
    assert answers.count("positive") == answers.count("negative") == 200
    prompts = [row["prompt"] for part in data.values() for row in part]
    assert len({tweet["content"] for _, tweet in prompts}) == 460
    assert {question["content"] for question, _ in prompts} == {
        "What is the sentiment of this tweet: negative or positive?"
    }
    three = tweet_instructions(train=9, test=3, labels=("negative", "neutral", "positive"))
    assert {row["completion"][0]["content"] for row in three["test"]} == {"negative", "neutral", "positive"}
    with pytest.raises(ValueError, match="more than the"):
        tweet_instructions(train=10**5)


@pytest.mark.slow
def test_smollm2_is_an_ordinary_model(smollm2_folder):
    """As unpacked from its file, saved, and loaded again."""
    from bundled import smollm2

    unpacked = json.loads((smollm2_folder / "unpacked.json").read_text())
    assert unpacked == {"class": "LlamaForCausalLM", "dtype": "torch.float32", "quantised": False, "imported": False}
    model, tokenizer = smollm2()
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
    )
    answer = model.generate(**text, max_new_tokens=8, do_sample=False)
    assert "Paris" in tokenizer.decode(answer[0, text["input_ids"].shape[1] :])
    weight = torch.load(smollm2_folder / "up_proj.pt")
    assert torch.equal(model.model.layers[3].mlp.up_proj.weight, weight)
