"""What calibrated conversion keeps of a model without training, and which ingredient gives what.

    python benchmarks/calibration.py             # all of it: about five hours of a core
    python benchmarks/calibration.py --case llm --b 1.25 --ways rows auto

LLM: SmolLM2-135M-Instruct, calibrated on at most 8,192 tokens of movie reviews, tested on newspaper editorials: the
mean negative log-likelihood in nats per token. Classifier: MiniLM, fine-tuned here on 4,000 sentences of movie
reviews, calibrated on 256 of these without their labels, tested on all others, about 6,000: the accuracy, and how many
of the original's predictions are kept. Every figure is written to results/calibration.json as soon as it is there;
what is there is not computed again.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import sys
from pathlib import Path

import torch
from texts import editorials, reviews
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from bcos_peft import BcosConfig, get_bcos_model


sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
import bundled
from measure import machine


RESULTS = Path(__file__).parent / "results" / "calibration.json"
TOKENS, TEXTS = 8192, 256
WAYS = {
    "published": None,
    "rows": {"calibration": "rows", "calibration_replay": 0},
    "auto, data alone": {"calibration_replay": 0, "calibration_epochs": 0},
    "auto, not refined": {"calibration_epochs": 0},
    "auto": {},
}


@torch.no_grad()
def nll(model, rows: list[list[int]]) -> float:
    """Mean negative log-likelihood in nats per token."""
    total, count = 0.0, 0
    for row in rows:
        ids = torch.tensor([row])
        total += float(model(input_ids=ids, labels=ids).loss) * (len(row) - 1)
        count += len(row) - 1
    return total / count


def convert(model, b: float, way: dict | None, data, tokenizer):
    if way is None:
        return get_bcos_model(model, BcosConfig(b=b))
    config = BcosConfig(b=b, calibration_tokens=TOKENS, **way)
    return get_bcos_model(model, config, calibration_data=data, tokenizer=tokenizer)


def language_model(report, bs: list[float], ways: list[str]) -> None:
    stock, tokenizer = bundled.smollm2()
    calibration = [text for text, _ in reviews()[::17]]
    articles = editorials()[::3]
    pieces = [tokenizer(article, truncation=True, max_length=256)["input_ids"] for article in articles][:40]
    sentences = [tokenizer(article.split(". ")[0] + ".")["input_ids"] for article in editorials()[1::3]][:80]
    tests = {"articles": pieces, "sentences": sentences}
    if not report.has("llm", "original"):
        report("llm", "original", {name: nll(stock, rows) for name, rows in tests.items()})
    for b in bs:
        for name in ways:
            if not report.has(f"llm B={b:g}", name):
                model = convert(copy.deepcopy(stock), b, WAYS[name], calibration, tokenizer)
                report(f"llm B={b:g}", name, {test: nll(model, rows) for test, rows in tests.items()})


def classifier(report, bs: list[float], ways: list[str], seed: int) -> None:
    """The seed draws the texts to train on and to test on, too."""
    case = "classifier" if seed == 0 else f"classifier, seed {seed}"
    rated = [(text, int(rating > 0)) for text, rating in reviews() if abs(rating) >= 0.5]
    random.Random(seed).shuffle(rated)
    test, train = [*rated[:1000], *rated[5000:]], rated[1000:5000]
    tokenizer = AutoTokenizer.from_pretrained(bundled.minilm())
    stock = fine_tuned(train, tokenizer, seed)
    labels = torch.tensor([label for _, label in test])
    wanted = choices(stock, test, tokenizer)
    report(case, "original", {"accuracy": share(wanted == labels)})
    calibration = [text for text, _ in train[:TEXTS]]
    for b in bs:
        for name in ways:
            if not report.has(f"{case} B={b:g}", name):
                model = convert(copy.deepcopy(stock), b, WAYS[name], calibration, tokenizer)
                found = choices(model, test, tokenizer)
                kept = {"accuracy": share(found == labels), "agreement": share(found == wanted)}
                report(f"{case} B={b:g}", name, kept)


def fine_tuned(train: list[tuple[str, int]], tokenizer, seed: int, epochs: int = 1):
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(bundled.minilm(), num_labels=2)
    batches = [train[i : i + 32] for i in range(0, len(train), 32)] * epochs
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-4, total_steps=len(batches), pct_start=0.1)
    for batch in batches:
        inputs = tokenizer([text for text, _ in batch], padding=True, truncation=True, return_tensors="pt")
        model.train()(**inputs, labels=torch.tensor([label for _, label in batch])).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step(), schedule.step(), optimizer.zero_grad()
    return model.eval()


@torch.no_grad()
def choices(model, rows: list[tuple[str, int]], tokenizer) -> torch.Tensor:
    """The classes that a model predicts."""
    found = []
    for start in range(0, len(rows), 50):
        texts = [text for text, _ in rows[start : start + 50]]
        inputs = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        found.append(model(**inputs).logits.argmax(-1))
    return torch.cat(found)


def share(flags: torch.Tensor) -> float:
    return float(flags.double().mean())


class Report:
    """The figures so far, on disk after each."""

    def __init__(self, fresh: bool):
        if fresh:
            RESULTS.unlink(missing_ok=True)
        self.figures, self.cpus = self._read()

    @staticmethod
    def _read() -> tuple[dict, dict]:
        found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"figures": {}, "cpus": {}}
        return found["figures"], found["cpus"]

    def has(self, case: str, way: str) -> bool:
        return way in self.figures.get(case, {})

    def __call__(self, case: str, way: str, values: dict[str, float]) -> None:
        facts = machine("cpu")
        self.figures, self.cpus = self._read()  # another run may have added to it
        self.figures.setdefault(case, {})[way] = {name: round(value, 4) for name, value in values.items()}
        self.cpus.setdefault(case, {})[way] = facts.pop("cpu")
        print(case, way, self.figures[case][way], flush=True)
        RESULTS.parent.mkdir(exist_ok=True)
        made = {"figures": self.figures, "cpus": self.cpus, "machine": facts}
        RESULTS.write_text(json.dumps(made, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=["llm", "classifier", "all"], default="all")
    parser.add_argument("--b", type=float, nargs="+", default=[1.1, 1.25, 1.5, 2.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3], help="of the classifiers")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["published", "auto"], help="of converting")
    parser.add_argument("--fresh", action="store_true", help="forget the figures of earlier runs")
    options = parser.parse_args()
    report = Report(options.fresh)
    if options.case in ("classifier", "all"):
        for seed in options.seeds:
            classifier(report, options.b, options.ways, seed)
    if options.case in ("llm", "all"):
        language_model(report, options.b, options.ways)


if __name__ == "__main__":
    main()
