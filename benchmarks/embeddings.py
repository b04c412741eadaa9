"""What calibrated conversion keeps of an embedding model, by B, by how much text there is, and by ingredient.

    python benchmarks/embeddings.py              # hours of a core; what is there is not computed again
    python benchmarks/embeddings.py --quick      # small, to see that it runs; its figures are thrown away
    python benchmarks/embeddings.py --b 1.25 --texts 4000 --ways default
    python benchmarks/embeddings.py --table      # print what is there

all-MiniLM-L6-v2, tested on sentences of movie reviews and of newspaper editorials, 1,500 of each, no two the same. It
is calibrated on tweets, on other sentences of these two kinds, or on all three, in turn. Measured: the correlation of
the cosines of all pairs with the stock model's, for how many texts the nearest other one is the same, and how many of
the ten nearest are. Every figure is written to results/embeddings.json as soon as it is there.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from functools import cache
from itertools import islice, product, zip_longest
from pathlib import Path

import torch
from measure import machine
from sentence_transformers import SentenceTransformer
from texts import news, reviews

from bcos_peft import BcosConfig, get_bcos_model
from bcos_peft.models import find_transformer


sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
import bundled


RESULTS = Path(__file__).parent / "results" / "embeddings.json"
DOCUMENTS = 1500
WAYS = {
    "layers": {"calibration_epochs": 0},
    "layers, the data alone": {"calibration_epochs": 0, "calibration_replay": 0},
    "blocks": {"calibration_pooling": "none"},
    "default": {},
}
SOURCES = ["tweets", "same kinds", "all"]
MEASURES = ("correlation", "first", "ten")


def stock() -> SentenceTransformer:
    return SentenceTransformer(bundled.minilm(), device="cpu")


@cache
def sentences() -> dict[str, list[str]]:
    """Each once, in an order that is the same each time; the first `DOCUMENTS` are those tested on."""
    domains = {"movies": [text for text, _ in reviews()], "news": news()}
    for name, found in domains.items():
        domains[name] = list(dict.fromkeys(found))
        random.Random(1).shuffle(domains[name])
    return domains


def documents(count: int) -> dict[str, list[str]]:
    return {name: found[:count] for name, found in sentences().items()}


def unlabelled(source: str, count: int) -> list[str]:
    """Texts to calibrate on."""
    tweets = [row["text"] for row in bundled.read_tweets()]
    random.Random(0).shuffle(tweets)
    others = [found[DOCUMENTS:] for found in sentences().values()]
    kinds = {"tweets": [tweets], "same kinds": others, "all": [*others, tweets]}[source]
    turns = (text for texts in zip_longest(*kinds) for text in texts if text is not None)
    return list(islice(turns, count))


def embed(model: SentenceTransformer, count: int) -> dict[str, torch.Tensor]:
    return {
        name: torch.nn.functional.normalize(model.encode(found, convert_to_tensor=True), dim=-1)
        for name, found in documents(count).items()
    }


def compare(wanted: torch.Tensor, found: torch.Tensor) -> dict[str, float]:
    """Two models' embeddings of the same documents, of length 1."""
    before, after = wanted @ wanted.t(), found @ found.t()
    pairs = torch.triu_indices(len(wanted), len(wanted), 1)
    both = torch.stack([similarities[pairs[0], pairs[1]].double() for similarities in (before, after)])
    nearest = [similarities.fill_diagonal_(-2).topk(10).indices.tolist() for similarities in (before, after)]
    shared = [(left[0] == right[0], len(set(left) & set(right)) / 10) for left, right in zip(*nearest, strict=True)]
    first, ten = (sum(values) / len(shared) for values in zip(*shared, strict=True))
    return {"correlation": float(torch.corrcoef(both)[0, 1]), "first": first, "ten": ten}


def measured(b: float, data: list[str], way: dict, count: int, wanted: dict[str, torch.Tensor]) -> dict[str, float]:
    began, model = time.process_time(), stock()
    config = BcosConfig(b=b, calibration_tokens=10**9, **way)
    get_bcos_model(model, config, calibration_data=data)
    seconds = time.process_time() - began
    report = find_transformer(model).bcos_config.calibration_report
    found = embed(model, count)
    figures = {f"{name} {key}": value for name in wanted for key, value in compare(wanted[name], found[name]).items()}
    learnt = {key: report[key] for key in ("refinement", "distillation", "embedding_cosine") if key in report}
    return figures | learnt | {"seconds": seconds}


def read() -> dict:
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {"figures": {}, "machines": {}}


def table(figures: dict[str, dict[str, float]]) -> str:
    head = [f"{name} {key}" for name in ("movies", "news") for key in MEASURES]
    lines = ["| | " + " | ".join(head) + " | minutes of a core |", "|---" * (len(head) + 2) + "|"]
    for case, values in figures.items():
        cells = [f"{values[key]:.4f}" if key.endswith("correlation") else f"{values[key]:.3f}" for key in head]
        lines.append(f"| {case} | {' | '.join(cells)} | {values['seconds'] / 60:.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--b", type=float, nargs="+", default=[1.1, 1.25])
    parser.add_argument("--texts", type=int, nargs="+", default=[256, 2000, 4000, 20000], help="to calibrate on")
    parser.add_argument("--sources", nargs="+", choices=SOURCES, default=SOURCES, help="of the texts")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["layers", "blocks", "default"])
    parser.add_argument("--quick", action="store_true", help="few texts and documents; nothing is written")
    parser.add_argument("--table", action="store_true", help="compute nothing")
    options = parser.parse_args()
    made = read()
    if options.quick:
        options.b, options.texts, options.sources = options.b[-1:], [32], options.sources[-1:]
        made = {"figures": {}, "machines": {}}
    count = 100 if options.quick else DOCUMENTS
    cases = product(options.texts, options.sources, options.b, options.ways)
    wanted = None
    for texts, source, b, way in () if options.table else cases:
        name = f"B = {b:g}, {texts:,} texts ({source}), {way}"
        if name in made["figures"]:
            continue
        wanted = wanted or embed(stock(), count)
        how = WAYS[way] | ({"calibration_replay": 0} if options.quick else {})
        values = measured(b, unlabelled(source, texts), how, count, wanted)
        made = made if options.quick else read()  # another run may have added to it
        made["figures"][name] = {key: round(value, 4) for key, value in values.items()}
        made["machines"][name] = machine("cpu")
        print(name, made["figures"][name], flush=True)
        if not options.quick:
            RESULTS.write_text(json.dumps(made, indent=2) + "\n")
    print(table(made["figures"]))
    kinds = {f"{facts['cpu']}, torch {facts['torch']}" for facts in made["machines"].values()}
    print("\n" + "; ".join(sorted(kinds)))


if __name__ == "__main__":
    main()
