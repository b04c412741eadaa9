"""Two ways to a fine-tuned B-cos model, with learning curves: same data, same number of steps, three seeds.

    python benchmarks/recipes.py                        # all cases: some hours on two cores
    python benchmarks/recipes.py --case classifier --seeds 0
    python benchmarks/recipes.py --plot                 # only draw what results/recipes.json holds

*convert → fine-tune* is the published order: the stock model is converted (unit rows), then trained. *fine-tune →
calibrate → fine-tune* trains the stock model for two thirds of the steps, converts it with calibration, and trains the
B-cos model for the last third. *conventional* never converts. The classifier is MiniLM on movie reviews (accuracy);
the language model is SmolLM2-135M on chats about the sentiment of tweets: trained and measured on answers alone, or on
whole chats (nats per token, and how many of the answers are right). Every run is written to results/recipes.json as
soon as it is done, and not run again.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from bcos_peft import BcosConfig, bcos_bce_loss, get_bcos_model


sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
import bundled
from measure import machine
from texts import reviews


RESULTS = Path(__file__).parent / "results" / "recipes.json"
PLOT = Path(__file__).parent.parent / "docs" / "images" / "recipes.svg"


@dataclass(frozen=True)
class Case:
    """What is trained, how long, and at which rates."""

    steps: int
    batch: int
    every: int  # steps between two measurements
    rates: dict[str, float]
    config: dict[str, int]  # more fields of BcosConfig, for the calibration


RATES_LLM = {"conventional": 5e-5, "published": 3e-4, "after": 5e-5}
CALIBRATION_LLM = {"calibration_tokens": 2048, "calibration_replay": 1024, "calibration_epochs": 0}
CASES = {
    "classifier": Case(
        300, 16, 100, {"conventional": 1e-4, "published": 3e-4, "after": 1e-4},
        {"calibration_replay": 0, "calibration_epochs": 0},  # training follows
    ),
    "answers": Case(60, 8, 20, {**RATES_LLM, "after": 2e-5}, CALIBRATION_LLM),
    "chats": Case(24, 8, 8, RATES_LLM, CALIBRATION_LLM),
}  # fmt: skip


class Classifier:
    """MiniLM on movie reviews that readers found good or bad.

    What it is tested on are some texts that are the same for every seed, and more that no step of its seed reads.
    """

    measures = ("accuracy",)

    def __init__(self, seed: int, test: int = 600, more: int = 1400):
        rated = [(text, int(rating > 0)) for text, rating in reviews() if abs(rating) >= 0.5]
        random.Random(0).shuffle(rated)
        test, train = rated[:test], rated[test:]
        random.Random(seed).shuffle(train)
        self.train, self.test = train[:-more], test + train[-more:]
        self.tokenizer = AutoTokenizer.from_pretrained(bundled.minilm())
        self.seed = seed

    def model(self) -> PreTrainedModel:
        torch.manual_seed(self.seed)
        return AutoModelForSequenceClassification.from_pretrained(bundled.minilm(), num_labels=2)

    def calibration(self) -> list[str]:
        return [text for text, _ in self.train[:256]]

    def _inputs(self, rows):
        return self.tokenizer([text for text, _ in rows], padding=True, truncation=True, return_tensors="pt")

    def loss(self, model, rows, published: bool) -> Tensor:
        outputs = model(**self._inputs(rows), labels=torch.tensor([label for _, label in rows]))
        return bcos_bce_loss(outputs, torch.tensor([label for _, label in rows])) if published else outputs.loss

    @torch.no_grad()
    def measure(self, model) -> dict[str, float]:
        right, rows = 0, sorted(self.test, key=lambda row: len(row[0]))
        for start in range(0, len(rows), 50):
            part = rows[start : start + 50]
            right += sum(
                int(found == label)
                for found, (_, label) in zip(model(**self._inputs(part)).logits.argmax(-1), part, strict=True)
            )
        return {"accuracy": right / len(rows)}


class LanguageModel:
    """SmolLM2 on chats that ask for the sentiment of a tweet.

    Args:
        seed (`int`): of the order of the chats.
        answers (`bool`): train and measure the tokens of answers only, which is what TRL does with prompts and
            completions; otherwise whole chats.
        test (`int`): chats to test on, the same for every seed.
    """

    measures = ("loss", "accuracy")

    def __init__(self, seed: int, answers: bool, test: int):
        self.stock, self.tokenizer = bundled.smollm2()
        data = bundled.tweet_instructions(train=2000, test=test)
        self.train, self.test = ([self._encode(row) for row in data[part]] for part in ("train", "test"))
        random.Random(seed).shuffle(self.train)
        self.of_answers, self.answers = answers, sorted({row["answer"] for row in self.test})

    def _encode(self, row) -> dict:
        chat = self.tokenizer.apply_chat_template(row["prompt"] + row["completion"], return_dict=True)["input_ids"]
        asked = self.tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=True)
        return {"ids": chat, "asked": len(asked["input_ids"]), "answer": chat[len(asked["input_ids"])]}

    def model(self) -> PreTrainedModel:
        return copy.deepcopy(self.stock)

    def calibration(self) -> list[list[int]]:
        return [row["ids"] for row in self.train[:128]]

    def _inputs(self, rows):
        """Padded on the left, so that answers are at the end, and only their logits are computed."""
        length = max(len(row["ids"]) for row in rows)
        ids = torch.tensor([[0] * (length - len(row["ids"])) + row["ids"] for row in rows])
        places = torch.arange(length) - torch.tensor([[length - len(row["ids"])] for row in rows])
        first = torch.tensor([[row["asked"] if self.of_answers else 0] for row in rows])
        keep = max(len(row["ids"]) - row["asked"] for row in rows) + 1 if self.of_answers else length
        labels = ids.masked_fill(places < first, -100)[:, -keep:]
        return {"input_ids": ids, "attention_mask": (places >= 0).long(), "labels": labels, "logits_to_keep": keep}

    def loss(self, model, rows, published: bool) -> Tensor:
        return model(**self._inputs(rows)).loss

    @torch.no_grad()
    def measure(self, model) -> dict[str, float]:
        total, count, right = 0.0, 0, 0
        rows = sorted(self.test, key=lambda row: len(row["ids"]))
        for start in range(0, len(rows), 8):
            inputs = self._inputs(rows[start : start + 8])
            outputs = model(**inputs)
            tokens = int((inputs["labels"][:, 1:] != -100).sum())
            total, count = total + float(outputs.loss) * tokens, count + tokens
            for logits, row in zip(outputs.logits, rows[start : start + 8], strict=True):
                before_answer = logits[row["asked"] - len(row["ids"]) - 1]
                right += self.answers[before_answer[self.answers].argmax()] == row["answer"]
        return {"loss": total / count, "accuracy": right / len(rows)}


TASKS: dict[str, Callable] = {
    "classifier": Classifier,
    "answers": partial(LanguageModel, answers=True, test=200),
    "chats": partial(LanguageModel, answers=False, test=48),
}
MEASURES = {"classifier": Classifier.measures, "answers": LanguageModel.measures, "chats": LanguageModel.measures}


def train(task, case: Case, model, steps: range, rate: float, curve: list, published=False, keep: int | None = None):
    """Train for these steps of the budget, and measure on the way; a copy of the model after step `keep`."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=len(steps), pct_start=0.1, anneal_strategy="linear"
    )
    kept = None
    for step in steps:
        rows = task.train[step * case.batch : (step + 1) * case.batch]
        task.loss(model.train(), rows, published).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step(), schedule.step(), optimizer.zero_grad()
        if (step + 1) % case.every == 0 or step + 1 == case.steps:
            curve.append([step + 1, task.measure(model.eval())])
        if step + 1 == keep:
            kept = copy.deepcopy(model.eval())
    return kept


def run(name: str, seed: int, bs: list[float], report: Report) -> None:
    case, task = CASES[name], TASKS[name](seed)
    part = 2 * case.steps // 3
    ways = [f"B={b:g} {way}" for b in bs for way in ("published", "calibrated")]
    kept = None
    if not report.has(name, "conventional", seed) or not all(report.has(name, way, seed) for way in ways):
        model = task.model().eval()
        curve = [[0, task.measure(model)]]
        kept = train(task, case, model, range(case.steps), case.rates["conventional"], curve, keep=part)
        report(name, "conventional", seed, curve)
        del model
    for b in bs:
        if not report.has(name, f"B={b:g} published", seed):
            model = get_bcos_model(task.model(), BcosConfig(b=b, normalize_weights=name == "classifier")).eval()
            curve = [[0, task.measure(model)]]
            train(task, case, model, range(case.steps), case.rates["published"], curve, published=True)
            report(name, f"B={b:g} published", seed, curve)
        if not report.has(name, f"B={b:g} calibrated", seed):
            config = BcosConfig(b=b, **case.config)
            model = get_bcos_model(
                copy.deepcopy(kept), config, calibration_data=task.calibration(), tokenizer=task.tokenizer
            ).eval()
            curve = [[part, task.measure(model)]]
            train(task, case, model, range(part, case.steps), case.rates["after"], curve)
            report(name, f"B={b:g} calibrated", seed, curve)


class Report:
    """The runs so far, on disk after each."""

    def __init__(self) -> None:
        self.runs = self._read()

    @staticmethod
    def _read() -> dict:
        return json.loads(RESULTS.read_text())["runs"] if RESULTS.exists() else {}

    def has(self, case: str, way: str, seed: int) -> bool:
        return str(seed) in self.runs.get(case, {}).get(way, {})

    def __call__(self, case: str, way: str, seed: int, curve: list) -> None:
        rounded = [[step, {name: round(value, 4) for name, value in found.items()}] for step, found in curve]
        self.runs = self._read()  # another process may have added to it
        self.runs.setdefault(case, {}).setdefault(way, {})[str(seed)] = rounded
        print(case, way, f"seed {seed}", rounded[0][1], "→", rounded[-1][1], flush=True)
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps({"runs": self.runs, "machine": machine("cpu")}, indent=1) + "\n")


def table(runs: dict) -> str:
    """Start and end of every curve, mean and range over the seeds, as Markdown."""
    lines = []
    for case, ways in sorted(runs.items(), key=lambda item: list(CASES).index(item[0])):
        measures = MEASURES[case]
        lines += ["", f"| {case} | " + " | ".join(f"{m}, at first | at the end" for m in measures) + " |"]
        lines.append("|---" * (1 + 2 * len(measures)) + "|")
        for way, seeds in ways.items():
            cells = []
            for measure in measures:
                for point in (0, -1):
                    values = [curve[point][1][measure] for curve in seeds.values()]
                    cells.append(f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})")
            lines.append(f"| {way} | " + " | ".join(cells) + " |")
    return "\n".join(lines[1:])


def plot(runs: dict) -> None:
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    matplotlib.rcParams.update({"svg.hashsalt": "recipes", "font.size": 9})
    # Of so few chats the share of right answers says little.
    panels = [(case, measure) for case in CASES if case in runs for measure in MEASURES[case]]
    panels = [panel for panel in panels if panel != ("chats", "accuracy")]
    rows = -(-len(panels) // 2)
    figure, axes = plt.subplots(rows, 2, figsize=(8.4, 3.4 * rows), squeeze=False)
    colours = {"conventional": "#555555", "B=1.25": "#0072b2", "B=1.5": "#d55e00"}
    for axis, (case, measure) in zip(axes.flat, panels, strict=False):
        for way, seeds in runs[case].items():
            curves = list(seeds.values())
            steps = [step for step, _ in curves[0]]
            values = [[curve[i][1][measure] for curve in curves] for i in range(len(steps))]
            style = {"color": colours[way.split()[0]], "linestyle": "--" if "published" in way else "-"}
            axis.plot(steps, [statistics.mean(found) for found in values], label=way, **style)
            axis.fill_between(steps, list(map(min, values)), list(map(max, values)), alpha=0.12, color=style["color"])
        axis.set(xlabel="training steps", title=f"{case}: {measure}", yscale="log" if measure == "loss" else "linear")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(PLOT, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=list(CASES), nargs="+", default=list(CASES))
    parser.add_argument("--b", type=float, nargs="+", default=[1.25, 1.5])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--plot", action="store_true", help="run nothing: table and plot of what there is")
    options = parser.parse_args()
    report = Report()
    if not options.plot:
        for name in options.case:
            for seed in options.seeds:
                run(name, seed, options.b, report)
    print(table(report.runs))
    plot(report.runs)


if __name__ == "__main__":
    main()
