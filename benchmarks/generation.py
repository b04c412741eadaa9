"""What writing a text takes beside the stock model: SmolLM2-135M, greedy, with a cache.

Run: python benchmarks/generation.py [--quick] [--output benchmarks/results/generation.json]

A token of one text is read weights and little else, and a B-cos layer needs the norms of its rows besides. While
`generate` runs they are taken once (`steady_weights`). *Taken anew* is without that, for comparison.
"""

from __future__ import annotations

import argparse
import copy
import sys
from pathlib import Path

import torch
from measure import paired, ratios, report, timed

from bcos_peft import BcosConfig, get_bcos_model


sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
from bundled import smollm2


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--b", type=float, default=1.1, help="the exponent B (default: %(default)s)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8], help="texts at a time")
    parser.add_argument("--length", type=int, default=32, help="tokens of each prompt (default: %(default)s)")
    parser.add_argument("--new", type=int, default=32, help="tokens that are written (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=10, help="pairs that are timed (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="3 pairs, 4 tokens: a look, not a measurement")
    options = timed(parser, threads=1)
    if options.quick:
        options.rounds, options.new = 3, 4
    return options


def measure(options: argparse.Namespace) -> dict[str, dict]:
    stock = smollm2()[0].to(options.device).eval()
    bcos = get_bcos_model(copy.deepcopy(stock), BcosConfig(b=options.b)).eval()
    given = {"max_new_tokens": options.new, "min_new_tokens": options.new, "do_sample": False, "pad_token_id": 0}
    results = {}
    for batch in options.batches:
        shape, generator = (batch, options.length), torch.Generator().manual_seed(batch)
        ids = torch.randint(5, stock.config.vocab_size, shape, generator=generator).to(options.device)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **given}
        ways = {
            "": lambda inputs=inputs: bcos.generate(**inputs),
            ", norms taken anew": lambda inputs=inputs: bcos.bcos_stock_class.generate(bcos, **inputs),
        }
        for way, run in ways.items():
            pair = (lambda inputs=inputs: stock.generate(**inputs)), run
            name = f"{batch} text{'s' * (batch > 1)}{way}"
            results[name] = paired(*pair, options.rounds, 1, options.device, options.clock)
    return results


def main() -> None:
    options = arguments()
    title = f"Writing {options.new} tokens, B-cos model against the stock model, in the same run"
    report(
        options,
        measure,
        lambda found: ratios(title, ("stock", "B-cos"), found, lambda ms: f"{ms / options.new:.1f} ms"),
        "Times are for a token of each text.",
    )


if __name__ == "__main__":
    main()
