"""Memory that explaining a long prompt takes: the next token after 512 to 4,096 tokens, on SmolLM2.

Each length is measured in a process of its own, by the largest resident set that it ever had. Memory counts here, not
time. Run: python benchmarks/long_prompt.py [--output benchmarks/results/long_prompt.json]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table


LENGTHS = (512, 1024, 2048, 4096)
LIMIT = 8.0  # GiB, for the longest
EXAMPLES = Path(__file__).parent.parent / "examples"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--b", type=float, default=1.25, help="the exponent B (default: %(default)s)")
    parser.add_argument("--generated", type=int, default=0, help="explain so many last tokens instead of the next one")
    parser.add_argument("--longest", type=int, default=LENGTHS[-1], help="leave out lengths above this")
    parser.add_argument("--output", help="write the numbers here, as JSON")
    parser.add_argument("--inside", type=int, help=argparse.SUPPRESS)  # the length to measure, in this process
    return parser.parse_args()


def resident() -> float:
    """The largest resident set so far, GiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def inside(options: argparse.Namespace) -> dict:
    """Measure one length in this process."""
    sys.path.insert(0, str(EXAMPLES))
    import torch
    from bundled import read_tweets, smollm2

    from bcos_peft import BcosConfig, BcosExplainer, get_bcos_model

    model, tokenizer = smollm2()
    model = get_bcos_model(model, BcosConfig(b=options.b))
    text = "\n".join(tweet["text"] for tweet in read_tweets()[:1000])
    ids = tokenizer(text[: 8 * options.inside])["input_ids"][: options.inside]
    if len(ids) < options.inside:
        raise SystemExit(f"The text has only {len(ids)} tokens.")
    with torch.no_grad():
        model(torch.tensor([ids[:8]]))
    before = resident()
    explainer = BcosExplainer(model, tokenizer)
    if options.generated:
        cut = len(ids) - options.generated
        found = explainer.explain_generation(ids[:cut], ids[cut:])
        residual = float(abs(found.residuals / abs(found.scores).sum(1)).max())
    else:
        found = explainer.explain(ids)
        residual = abs(found.residual) / float(abs(found.scores).sum())
    return {"tokens": len(ids), "model_gib": before, "peak_gib": resident(), "residual": residual}


def table(rows: list[dict]) -> Table:
    view = Table(title="Explaining a long prompt on SmolLM2-135M (float32)")
    for column in ("tokens", "peak RSS", "above the model", "per token", "residual / Σ|contributions|"):
        view.add_column(column, justify="right")
    for row in rows:
        more = row["peak_gib"] - row["model_gib"]
        each = f"{more * 2**20 / row['tokens']:.0f} KiB"
        cells = (f"{row['peak_gib']:.2f} GiB", f"{more:.2f} GiB", each, f"{row['residual']:.0e}")
        view.add_row(str(row["tokens"]), *cells)
    return view


def main() -> None:
    options = arguments()
    if options.inside is not None:
        print(json.dumps(inside(options)))
        return
    rows = []
    for length in LENGTHS:
        if length <= options.longest:
            command = [sys.executable, __file__, "--inside", str(length), "--b", str(options.b)]
            command += ["--generated", str(options.generated)]
            run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            rows.append(json.loads(run.stdout.splitlines()[-1]))
    Console().print(table(rows))
    if options.output:
        from measure import machine, write

        setting = {"b": options.b, "generated": options.generated, "model": "SmolLM2-135M-Instruct, float32"}
        write(options.output, {"results": rows, "setting": setting, "machine": machine("cpu")})
    if rows[-1]["peak_gib"] > LIMIT:
        raise SystemExit(f"{rows[-1]['tokens']} tokens took {rows[-1]['peak_gib']:.1f} GiB, more than {LIMIT:.0f}.")


if __name__ == "__main__":
    main()
