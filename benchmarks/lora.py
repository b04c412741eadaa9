"""What LoRA inside B-cos layers costs beside peft's LoRA on the stock model: a training step, and saved bytes.

Run: python benchmarks/lora.py [--quick] [--output benchmarks/results/lora.json]
"""

from __future__ import annotations

import argparse
import copy

import torch
from measure import load_average, machine, minilm, paired, saved_bytes, timed, write
from peft import LoraConfig, get_peft_model
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig, LlamaForCausalLM

from bcos_peft import BcosConfig, get_bcos_model


TARGETS = {"training step": 1.15, "saved bytes": 1.25}
MODELS = {"MiniLM": "SEQ_CLS", "Llama": "CAUSAL_LM"}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=list(MODELS), help="measure one of the two")
    parser.add_argument("--b", type=float, default=1.25, help="the exponent B (default: %(default)s)")
    parser.add_argument("--rank", type=int, default=8, help="of the adapters (default: %(default)s)")
    parser.add_argument("--dropout", type=float, default=0.05, help="of the adapters (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=128, help="tokens per text (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=20, help="pairs that are timed (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="5 pairs: a look, not a measurement")
    parser.add_argument("--dtype", default="float32", help="of the base; adapters are float32")
    return timed(parser, threads=1)


def stock_model(name: str):
    """MiniLM, or four random layers of the widths of SmolLM2-135M with a small vocabulary."""
    if name == "MiniLM":
        return minilm()
    torch.manual_seed(0)
    widths = {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3}
    return LlamaForCausalLM(LlamaConfig(num_hidden_layers=4, vocab_size=4096, **widths))


def training_step(model, inputs):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)

    def run():
        model(**inputs).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def measure(name: str, options: argparse.Namespace) -> dict[str, dict]:
    stock = stock_model(name).to(options.device, getattr(torch, options.dtype))
    bcos = get_bcos_model(copy.deepcopy(stock), BcosConfig(b=options.b))
    lora = {"r": options.rank, "lora_dropout": options.dropout, "target_modules": "all-linear"}
    pair = [get_peft_model(model, LoraConfig(task_type=MODELS[name], **lora)).train() for model in (stock, bcos)]
    shape = (options.batch, options.length)
    ids = torch.randint(1000, stock.config.vocab_size, shape, device=options.device)
    labels = ids if MODELS[name] == "CAUSAL_LM" else torch.randint(0, 2, shape[:1], device=options.device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    theirs, ours = (saved_bytes(model, lambda model=model: model(**inputs)) for model in pair)
    rounds, warmup = (5, 2) if options.quick else (options.rounds, 3)
    steps = [training_step(model, inputs) for model in pair]
    return {
        "training step": paired(*steps, rounds, warmup, options.device, options.clock),
        "saved bytes": {"stock_mib": theirs / 2**20, "bcos_mib": ours / 2**20, "ratio": ours / theirs},
    }


def table(results: dict[str, dict]) -> Table:
    view = Table(title="LoRA inside B-cos layers against peft's LoRA on the stock model, in the same run")
    for column in ("", "", "stock", "B-cos", "ratio", "quartiles", "target"):
        view.add_column(column, justify="left" if not column else "right")
    for name, rows in results.items():
        for what, row in rows.items():
            unit = "ms" if "stock_ms" in row else "MiB"
            theirs, ours = (f"{row[f'{who}_{unit.lower()}']:.1f} {unit}" for who in ("stock", "bcos"))
            spread = "{:.3f} to {:.3f}".format(*row["quartiles"]) if "quartiles" in row else "exact"
            colour = "green" if row["ratio"] <= TARGETS[what] else "red"
            view.add_row(name, what, theirs, ours, f"[{colour}]{row['ratio']:.3f}", spread, f"≤ {TARGETS[what]:.2f}")
    return view


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    before = load_average()
    results = {name: measure(name, options) for name in MODELS if options.model in (None, name)}
    setting = {key: value for key, value in vars(options).items() if key != "output"}
    load = {"before": before, "after": load_average()}
    result = {"results": results, "setting": setting, "machine": machine(options.device), "load_average": load}
    console = Console()
    console.print(table(results))
    console.print(", ".join(f"{key} {value}" for key, value in result["machine"].items()), highlight=False)
    console.print(f"load average {before} before, {load['after']} after (this run counts itself)", highlight=False)
    write(options.output, result)


if __name__ == "__main__":
    main()
