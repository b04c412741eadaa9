"""What training a part of the parameters buys: SmolLM2 on tweets, as a calibrated B-cos model.

    python benchmarks/parameter_efficiency.py            # every way that is not in the results yet
    python benchmarks/parameter_efficiency.py --way lora # one way; --quick to see that it runs

The model is calibrated once, on training tweets without their labels, and every way starts from there: as many steps,
the same tweets in the same order. Measured on other tweets: how many of the answers (positive or negative) are right,
and the mean negative log-likelihood of the right answer among all tokens. What is there is not computed again.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from bcos_peft import BcosConfig, attribute, get_bcos_model, train_only


sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
import bundled
from measure import machine


ROOT = Path(__file__).parent
# What is trained, and a learning rate. A gain near 1 takes larger steps than a weight near 0.02.
WAYS: dict[str, tuple[tuple[str, ...], float]] = {
    "gain_and_norms": (("gain_and_norms",), 5e-3),
    "lora": (("lora",), 5e-4),
    "all": (("all",), 3e-5),
    "gain": (("gain",), 5e-3),
    "norms": (("norms",), 5e-3),
    "lora, gain_and_norms": (("lora", "gain_and_norms"), 5e-4),
    "head": (("head",), 3e-4),
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--way", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--b", type=float, default=1.25, help="the exponent B (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=24, help="training steps of each way (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=4, help="tweets per step (default: %(default)s)")
    parser.add_argument("--test", type=int, default=100, help="tweets to test on (default: %(default)s)")
    parser.add_argument("--rank", type=int, default=8, help="of LoRA, in all linear layers (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=2048, help="to calibrate on (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="2 steps, 6 tweets, nothing kept")
    parser.add_argument("--table", action="store_true", help="print what is there as a table; measure nothing")
    parser.add_argument("--fresh", action="store_true", help="forget the figures of earlier runs")
    parser.add_argument("--cache", default="outputs/parameter-efficiency", help="where the calibrated model is kept")
    options = parser.parse_args()
    if options.quick:
        options.steps, options.test, options.tokens = 2, 6, 512
        options.cache += "-quick"
    return options


def encoded(rows, tokenizer) -> list[tuple[list[int], int]]:
    """For each tweet the ids of the question, and the first token of the right answer."""
    asked = []
    for row in rows:
        prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=False)
        ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        asked.append((ids, tokenizer(row["completion"][0]["content"], add_special_tokens=False)["input_ids"][0]))
    return asked


def calibrated(options, data, tokenizer, stock) -> Path:
    """The folder of the converted and calibrated model."""
    folder = Path(options.cache) / f"b{options.b:g}-{options.tokens}"
    if not (folder / "config.json").exists():
        rows = data["train"].select(range(min(80, len(data["train"]))))
        texts = [tokenizer.apply_chat_template(row["prompt"], tokenize=False) for row in rows]
        config = BcosConfig(
            b=options.b,
            calibration_tokens=options.tokens,
            calibration_replay=options.tokens // 4,
            calibration_epochs=0,  # what is trained afterwards is the question
        )
        began = time.perf_counter()
        model = get_bcos_model(stock, config, calibration_data=texts, tokenizer=tokenizer, progress=False)
        model.save_pretrained(folder)
        print(f"calibrated in {time.perf_counter() - began:.0f} s", flush=True)
    return folder


def last_logits(model, rows: list[tuple[list[int], int]]) -> torch.Tensor:
    """Of the token after each question; padded on the left, where a causal model may be."""
    longest = max(len(ids) for ids, _ in rows)
    padded = torch.tensor([[0] * (longest - len(ids)) + ids for ids, _ in rows])
    mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids, _ in rows])
    places = (mask.cumsum(-1) - 1).clamp_min(0)
    return model(input_ids=padded, attention_mask=mask, position_ids=places, logits_to_keep=1).logits[:, -1]


@torch.no_grad()
def score(model, rows: list[tuple[list[int], int]]) -> dict[str, float]:
    answers = sorted({answer for _, answer in rows})
    right, nll = 0, 0.0
    model.eval()
    for row in rows:
        logits = last_logits(model, [row])[0]
        right += answers[int(logits[answers].argmax())] == row[1]
        nll -= float(logits.log_softmax(-1)[row[1]])
    return {"accuracy": right / len(rows), "nll": nll / len(rows)}


def train(model, rows, options, learning_rate: float) -> None:
    torch.manual_seed(options.seed)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], learning_rate, weight_decay=0.0)
    warm = max(1, options.steps // 10)
    model.train()
    for step in range(options.steps):
        batch = rows[step * options.batch : (step + 1) * options.batch]
        share = min((step + 1) / warm, 0.5 * (1 + math.cos(math.pi * step / options.steps)))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * share
        labels = torch.tensor([answer for _, answer in batch])
        torch.nn.functional.cross_entropy(last_logits(model, batch), labels).backward()
        torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
        optimizer.step()
        optimizer.zero_grad()


def measure(way: str, options, folder: Path, data: dict) -> dict:
    parts, learning_rate = WAYS[way]
    torch.manual_seed(options.seed)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if "lora" in parts:
        lora = LoraConfig(
            r=options.rank, lora_alpha=2 * options.rank, target_modules="all-linear", task_type="CAUSAL_LM"
        )
        model = get_peft_model(model, lora)
    train_only(model, *parts)
    count = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    train(model, data["train"], options, learning_rate)
    found = score(model, data["test"])
    result = attribute(model, torch.tensor([data["test"][0][0]]))
    residual = float((result.residual.abs() / result.scores.abs().sum(-1)).max())
    return {"parameters": count, "learning_rate": learning_rate, **found, "residual": residual}


class Report:
    """The figures so far, on disk after each, with the setting that they belong to."""

    def __init__(self, options):
        keys = ("b", "steps", "batch", "test", "rank", "tokens", "seed")
        self.setting = {key: getattr(options, key) for key in keys}
        self.path = None if options.quick else ROOT / "results" / "parameter_efficiency.json"
        self.figures: dict[str, dict] = {}
        if self.path and self.path.exists() and not options.fresh:
            kept = json.loads(self.path.read_text(encoding="utf-8"))
            if kept["setting"] == self.setting:
                self.figures = kept["figures"]

    def __call__(self, name: str, values: dict) -> None:
        self.figures[name] = {
            key: round(value, 8) if isinstance(value, float) else value for key, value in values.items()
        }
        print(name, self.figures[name], flush=True)
        if self.path:
            self.path.parent.mkdir(exist_ok=True)
            result = {"figures": self.figures, "setting": self.setting, "machine": machine("cpu")}
            self.path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def table(figures: dict[str, dict]) -> str:
    """The figures so far, for the guide."""
    lines = ["| trained | parameters | accuracy | NLL of the answer |", "|---|---|---|---|"]
    for name, row in figures.items():
        lines.append(f"| {name} | {row['parameters']:,} | {row['accuracy']:.1%} | {row['nll']:.2f} |")
    return "\n".join(lines)


def main() -> None:
    options = arguments()
    report = Report(options)
    if options.table:
        print(table(report.figures))
        return
    stock, tokenizer = bundled.smollm2()
    data = bundled.tweet_instructions(train=max(options.steps * options.batch, 80), test=options.test)
    rows = {part: encoded(data[part], tokenizer) for part in ("train", "test")}
    if "original" not in report.figures:
        report("original", {"parameters": 0, **score(stock, rows["test"])})
    folder = calibrated(options, data, tokenizer, stock)
    del stock
    if "calibrated" not in report.figures:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        report("calibrated", {"parameters": 0, **score(model, rows["test"])})
        del model
    for way in options.way:
        if way not in report.figures:
            report(way, measure(way, options, folder, rows))


if __name__ == "__main__":
    main()
