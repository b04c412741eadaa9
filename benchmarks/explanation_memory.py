"""Memory that an explanation takes, by length, beside the stock model's gradient of its inputs.

Run: python benchmarks/explanation_memory.py [--output benchmarks/results/explanation_memory.json]
"""

from __future__ import annotations

import argparse
import copy

import torch
from measure import machine, peak_bytes, saved_bytes, write
from rich.console import Console
from rich.table import Table
from transformers import BertConfig, BertForSequenceClassification

from bcos_peft import BcosConfig, attribute, get_bcos_model


LENGTHS = (128, 256, 512, 1024, 2048, 4096)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--b", type=float, default=1.25, help="the exponent B (default: %(default)s)")
    parser.add_argument("--attention", choices=("sdpa", "eager"), default="sdpa")
    parser.add_argument("--longest", type=int, default=LENGTHS[-1], help="leave out lengths above this")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--output", help="write the numbers here, as JSON")
    return parser.parse_args()


def measure(options: argparse.Namespace) -> list[dict]:
    config = BertConfig(
        vocab_size=1000,
        num_hidden_layers=4,
        hidden_size=256,
        num_attention_heads=4,
        intermediate_size=1024,
        max_position_embeddings=LENGTHS[-1],
        attn_implementation=options.attention,
    )
    torch.manual_seed(0)
    stock = BertForSequenceClassification(config).eval().requires_grad_(False).to(options.device)
    bcos = get_bcos_model(copy.deepcopy(stock), BcosConfig(b=options.b))
    rows = []
    for length in LENGTHS:
        if length > options.longest:
            break
        ids = torch.randint(1000, (1, length), device=options.device)
        mask = torch.ones_like(ids)
        embedded = stock.get_input_embeddings()(ids).requires_grad_()

        def forward(embedded=embedded, mask=mask):
            return stock(inputs_embeds=embedded, attention_mask=mask).logits[:, 0]

        def gradient(embedded=embedded, forward=forward):
            return torch.autograd.grad(forward().sum(), embedded)

        def explanation(ids=ids, mask=mask):
            return attribute(bcos, ids, mask)

        row = {"tokens": length}
        for name, theirs, ours in (
            ("saved", saved_bytes(stock, forward), saved_bytes(bcos, explanation)),
            ("peak", peak_bytes(gradient, options.device), peak_bytes(explanation, options.device)),
        ):
            if theirs and ours:
                row[name] = {"stock_mib": theirs / 2**20, "bcos_mib": ours / 2**20, "ratio": ours / theirs}
        rows.append(row)
    return rows


def table(rows: list[dict]) -> Table:
    view = Table(title="Memory in MiB, one text: the stock model's gradient of its inputs / an explanation (ratio)")
    for column in ("tokens", "saved for backward", "an explanation's, per token", "peak"):
        view.add_column(column, justify="right")
    for row in rows:
        cells = {
            name: "{stock_mib:.1f} / {bcos_mib:.1f} ({ratio:.2f})".format(**row[name]) if name in row else "not known"
            for name in ("saved", "peak")
        }
        per_token = f"{1024 * row['saved']['bcos_mib'] / row['tokens']:.1f} KiB"
        view.add_row(str(row["tokens"]), cells["saved"], per_token, cells["peak"])
    return view


def main() -> None:
    options = arguments()
    rows = measure(options)
    console = Console()
    console.print(table(rows))
    setting = {"b": options.b, "attention": options.attention, "layers": 4, "hidden": 256}
    write(options.output, {"results": rows, "setting": setting, "machine": machine(options.device)})


if __name__ == "__main__":
    main()
