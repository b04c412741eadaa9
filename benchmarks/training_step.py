"""What a B-cos model costs beside the stock model: a training step, inference, an explanation, saved bytes.

Run: python benchmarks/training_step.py [--quick] [--output benchmarks/results/training_step.json]
"""

from __future__ import annotations

import argparse
import copy

import torch
from measure import load_average, machine, minilm, paired, saved_bytes, timed, write
from rich.console import Console
from rich.table import Table

from bcos_peft import BcosConfig, attribute, get_bcos_model


TARGETS = {"training step": 1.10, "inference": 1.10, "explanation": 2.5, "saved bytes": 1.15}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--b", type=float, default=1.25, help="the exponent B (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=128, help="tokens per text (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=40, help="pairs that are timed (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="5 pairs: a look, not a measurement")
    parser.add_argument("--dropout", type=float, help="instead of the checkpoint's own (0.1)")
    parser.add_argument("--normalize-weights", action="store_true", help="unit-norm rows, as the paper has them")
    parser.add_argument("--compile", action="store_true", help="compile both models for the step and inference")
    parser.add_argument("--only", choices=list(TARGETS), help="measure one of the four")
    return timed(parser, threads=2)


def training_step(model, inputs):
    # The same optimiser for both; one that was built for every step would not be what a training run pays for.
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def run():
        model(**inputs).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def inference(model, inputs):
    def run():
        with torch.no_grad():
            model(**inputs)

    return run


def measure(options: argparse.Namespace) -> dict[str, dict]:
    dropout = {"hidden_dropout_prob": options.dropout, "attention_probs_dropout_prob": options.dropout}
    stock = minilm(**({} if options.dropout is None else dropout)).to(options.device)
    bcos = get_bcos_model(copy.deepcopy(stock), BcosConfig(b=options.b, normalize_weights=options.normalize_weights))
    shape = (options.batch, options.length)
    inputs = {
        "input_ids": torch.randint(1000, stock.config.vocab_size, shape, device=options.device),
        "attention_mask": torch.ones(shape, dtype=torch.long, device=options.device),
    }
    labelled = inputs | {"labels": torch.randint(0, 2, shape[:1], device=options.device)}
    stock_run, bcos_run = (torch.compile(m) if options.compile else m for m in (stock, bcos))
    rounds, warmup = (5, 2) if options.quick else (options.rounds, 5)
    results = {}

    def wanted(name: str) -> bool:
        return options.only in (None, name)

    if wanted("saved bytes"):
        stock.train(), bcos.train()
        theirs, ours = (saved_bytes(model, lambda model=model: model(**labelled)) for model in (stock, bcos))
        results["saved bytes"] = {"stock_mib": theirs / 2**20, "bcos_mib": ours / 2**20, "ratio": ours / theirs}
    if wanted("inference"):
        stock.eval(), bcos.eval()
        pair = inference(stock_run, inputs), inference(bcos_run, inputs)
        results["inference"] = paired(*pair, rounds, warmup, options.device, options.clock)
    if wanted("explanation"):
        pair = inference(stock.eval(), inputs), lambda: attribute(bcos.eval(), **inputs)
        results["explanation"] = paired(*pair, rounds, warmup, options.device, options.clock)
    if wanted("training step"):  # last: it changes the weights
        stock.train(), bcos.train()
        pair = training_step(stock_run, labelled), training_step(bcos_run, labelled)
        results["training step"] = paired(*pair, rounds, warmup, options.device, options.clock)
    return {name: results[name] | {"target": TARGETS[name]} for name in TARGETS if name in results}


def table(results: dict[str, dict]) -> Table:
    view = Table(title="B-cos model against the stock model, in the same run")
    for column in ("", "stock", "B-cos", "ratio", "quartiles", "target"):
        view.add_column(column, justify="left" if not column else "right")
    for name, row in results.items():
        theirs, ours = (row.get(f"{who}_ms") for who in ("stock", "bcos"))
        unit = "ms" if theirs is not None else "MiB"
        theirs, ours = (row[f"{who}_{unit.lower()}"] for who in ("stock", "bcos"))
        spread = "{:.3f} to {:.3f}".format(*row["quartiles"]) if "quartiles" in row else "exact"
        colour = "green" if row["ratio"] <= row["target"] else "red"
        ratio, target = f"[{colour}]{row['ratio']:.3f}", f"≤ {row['target']:.2f}"
        view.add_row(name, f"{theirs:.1f} {unit}", f"{ours:.1f} {unit}", ratio, spread, target)
    return view


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    before = load_average()
    results = measure(options)
    setting = {key: value for key, value in vars(options).items() if key != "output"}
    load = {"before": before, "after": load_average()}
    result = {"results": results, "setting": setting, "machine": machine(options.device), "load_average": load}
    console = Console()
    console.print(table(results))
    console.print(", ".join(f"{key} {value}" for key, value in result["machine"].items()), highlight=False)
    console.print(f"load average {before} before, {load['after']} after (this run counts itself)", highlight=False)
    console.print("An explanation is compared with a stock forward pass.", highlight=False)
    write(options.output, result)


if __name__ == "__main__":
    main()
