"""Explanations of similarity: whether hiding the words that they name takes two texts apart, and what they cost.

    python benchmarks/similarity.py                     # about an hour on a core
    python benchmarks/similarity.py --sources reviews --methods bcos occlusion
    python benchmarks/similarity.py --quick             # a minute or two; the figures mean nothing

Sentences of movie reviews and of newspaper editorials, embedded by all-MiniLM-L6-v2 as it is and converted (calibrated
on other sentences of reviews). A pair is a sentence with its nearest among many; a document is that nearest one joined
with a sentence as long that is far away. Pairs are chosen with the embeddings of the stock model, and each sentence is
in one pair only. Every method is tried on the converted model and on the stock one; exact contributions of the stock
one (`detached`) leave out what its biases add.

Integrated Jacobians take a hundred passes for one of the others, so they are tried on the first `--integrated` pairs.
Time is the processor's where one thread runs (OMP_NUM_THREADS=1). Methods take turns on the same pairs, and medians
of the ratios count.
"""

from __future__ import annotations

import os


os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import json
import random
import statistics
from functools import cache
from pathlib import Path

import numpy as np
from measure import CLOCKS, clock
from sentence_transformers import SentenceTransformer
from similarity_report import MODELS, report
from studies import Study, options, smaller
from study_models import DEVICE, alone, bundled
from texts import news, reviews

from bcos_peft import BcosConfig, get_bcos_model
from bcos_peft.evaluation import Cost, EvaluationResult, JoinedDocument, evaluate_similarity, get_similarity_method
from bcos_peft.evaluation.similarity import SimilarityComprehensiveness, SimilaritySufficiency, WordReader


SOURCES = {"reviews": lambda: [text for text, _ in reviews()], "news": news}
METHODS = {
    "bcos": {},
    "occlusion": {"perturbation": "mask"},
    "occlusion, deleting": {"name": "occlusion", "perturbation": "delete"},
    "input_x_gradient": {},
    "integrated_jacobians": {},
    "token_matching": {},
    "random": {},
}
TABLES = ("bcos", "integrated_jacobians")  # that can give a table of pairs of words
FEW = 2  # steps with which the table of integrated Jacobians is timed: all take so many times longer
WORDS = range(6, 21)


def arguments(parser) -> None:
    parser.add_argument("--model", default=bundled.minilm(), help="folder or hub name of a SentenceTransformer")
    parser.add_argument("--b", type=float, default=1.25)
    parser.add_argument("--texts", type=int, default=256, help="sentences of reviews to calibrate on")
    parser.add_argument("--sources", nargs="+", choices=SOURCES, default=list(SOURCES))
    parser.add_argument("--pairs", type=int, default=200, help="of each source")
    parser.add_argument("--integrated", type=int, default=60, help="of these, for integrated Jacobians")
    parser.add_argument("--part", nargs="+", choices=["scores", "costs"], default=["scores", "costs"])
    parser.add_argument("--pool", type=int, default=1500, help="sentences among which the nearest are looked for")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--steps", type=int, default=100, help="of integrated Jacobians")
    parser.add_argument("--timed", type=int, default=20, help="pairs on which times are taken")
    parser.add_argument(
        "--tables",
        type=int,
        default=2,
        help="pairs on which those of tables are; of integrated Jacobians few steps, and then estimated",
    )


def method(name: str, model: str, steps: int, **more):
    """A method of `METHODS`; of a stock model the contributions are `detached`."""
    given = {"name": name, **METHODS[name], **more}
    kind = given.pop("name")
    if kind == "bcos" and model == "stock":
        kind = name = "detached"
    if kind == "integrated_jacobians":
        given["steps"] = min(steps, FEW) if more else steps
    return get_similarity_method(kind, label=name + (", table" if more else ""), **given)


class Models:
    """The stock model, and the converted one, which is kept."""

    def __init__(self, found, kept: Path):
        self.base, self.b, self.texts = found.model, found.b, found.texts
        name = Path(self.base).resolve().parent.name if Path(self.base).exists() else self.base.replace("/", "--")
        self.base_name = name
        self.folder = kept / f"{name}-b{self.b:g}-{self.texts}"
        self.get = cache(self._get)

    def _get(self, name: str) -> SentenceTransformer:
        if name == "stock":
            return SentenceTransformer(self.base, device=DEVICE)
        with alone(self.folder):
            if not (self.folder / "modules.json").exists():
                model = SentenceTransformer(self.base, device=DEVICE)
                rows = calibration_texts()[-self.texts :]
                config = BcosConfig(b=self.b)
                get_bcos_model(model[0].auto_model, config, calibration_data=rows, tokenizer=model.tokenizer)
                model.save(str(self.folder))
        return SentenceTransformer(str(self.folder), device=DEVICE)


@cache
def calibration_texts() -> list[str]:
    """Sentences of reviews that are in no pair."""
    rows = SOURCES["reviews"]()
    random.Random(0).shuffle(rows)
    return rows[-1000:]


@cache
def sentences(source: str) -> list[str]:
    """Those of usual length that no model is calibrated on, in an order drawn by chance."""
    kept = set(calibration_texts())
    found = [text for text in dict.fromkeys(SOURCES[source]()) if len(text.split()) in WORDS and text not in kept]
    random.Random(0).shuffle(found)
    return found


def pairs_of(models: Models, source: str, count: int, pool: int) -> tuple[list, list[JoinedDocument]]:
    """So many pairs of near sentences, and documents of a sentence's nearest and one that is far."""
    path = models.folder.parent / f"pairs-{models.base_name}-{source}-{pool}.json"
    with alone(path):
        if not path.exists():
            found = list(choose(models.get("stock"), sentences(source)[:pool]))
            path.write_text(json.dumps(found))
    rows = json.loads(path.read_text())[:count]
    documents = []
    for i, (text, near, far) in enumerate(rows):
        halves = (far, near) if i % 2 else (near, far)
        documents.append(JoinedDocument(text, *halves, related=i % 2))
    return [(text, near) for text, near, _ in rows], documents


def choose(model: SentenceTransformer, texts: list[str]):
    """Sentences, each with its nearest and with one that is far from it and has as many words, or two more or less."""
    vectors = model.encode(texts, batch_size=64, normalize_embeddings=True, show_progress_bar=False)
    near = vectors @ vectors.T
    np.fill_diagonal(near, -1)
    free = set(range(len(texts)))
    # Of few sentences none are near; and to a tiny model, which only shows that this runs, all are.
    least, most, far_off = (0.4, 0.95, 0.1) if len(texts) > 400 else (-1, 2, 2)
    for i in range(len(texts)):
        j = int(near[i].argmax())
        if i not in free or j not in free or not least <= near[i, j] <= most:
            continue
        words = len(texts[j].split())
        far = [k for k in free - {i, j} if abs(len(texts[k].split()) - words) <= 2 and near[i, k] < far_off]
        if far:
            k = random.Random(i).choice(sorted(far))
            free -= {i, j, k}
            yield texts[i], texts[j], texts[k]


def metrics() -> list:
    """Words masked, and words deleted."""
    return [
        kind(way, label=f"{kind.name}_{way}")
        for way in ("mask", "delete")
        for kind in (SimilarityComprehensiveness, SimilaritySufficiency)
    ]


def measure(study: Study, models: Models, source: str, name: str, how, found) -> dict:
    count = found.integrated if how.name == "integrated_jacobians" else found.pairs
    pairs, documents = pairs_of(models, source, count, found.pool)
    model = models.get(name)
    both = [
        evaluate_similarity(model, rows, [how], judges, label=name, progress=False)
        for rows, judges in ((pairs, metrics()), (documents, None))
    ]
    result = EvaluationResult.merge(both)
    return study.keep(source, name, result)


def costs(models: Models, name: str, found) -> dict:
    """Seconds of each method on the same pairs, in turn, and the passes that it counts."""
    pairs, _ = pairs_of(models, found.sources[0], found.timed, found.pool)
    reader, read = WordReader(models.get(name)), CLOCKS[clock(DEVICE)]
    hows = [method(one, name, found.steps) for one in found.methods]
    tables = [method(one, name, found.steps, matrix=True) for one in found.methods if one in TABLES]
    seconds: dict[str, list[float]] = {how.name: [] for how in [*hows, *tables]}
    passes: dict[str, Cost] = {}
    for how in hows:
        how(reader, *pairs[0])  # what is made at the first call has no part in any time
    for i, pair in enumerate(pairs):
        turn = hows + (tables if i < found.tables else tables[:1])
        for how in turn if i % 2 == 0 else turn[::-1]:
            reader.cost = Cost()
            began = read()
            how(reader, *pair)
            seconds[how.name].append(read() - began)
            passes[how.name] = passes.get(how.name, Cost()) + reader.cost
    first = seconds[hows[0].name]
    made = {}
    for how, times in seconds.items():
        cost, count = passes[how], len(times)
        estimated = how.startswith("integrated_jacobians, table") and found.steps > FEW
        more = found.steps / FEW if estimated else 1
        made[how] = {
            "milliseconds": 1e3 * statistics.median(times) * more,
            "ratio": statistics.median(mine / own for mine, own in zip(times, first, strict=False)) * more,
            "forward": cost.forward_rows / count * more,
            "backward": cost.backward_rows / count * more,
            "pairs": count,
            "estimated": estimated,
        }
    return {"costs": made, "clock": clock(DEVICE)}


def main() -> None:
    found = options(__doc__, arguments)
    smaller(found, texts=16, pairs=4, integrated=3, pool=400, steps=4, timed=2, tables=1)
    study = Study("similarity", "Explanations of similarity", found)
    models = Models(found, study.kept)

    def jobs():
        size = {key: vars(found)[key] for key in ("b", "texts", "pool")}
        size["model"] = models.base_name
        for source in found.sources if "scores" in found.part else []:
            for name in found.models:
                for one in found.methods:
                    how = method(one, name, found.steps)
                    many = found.integrated if one == "integrated_jacobians" else found.pairs
                    settings = {**size, "pairs": many, "method": how.settings}
                    yield (
                        source,
                        f"{name}, {how.name}",
                        settings,
                        lambda s=source, n=name, h=how: measure(study, models, s, n, h, found),
                    )
        for name in found.models if "costs" in found.part else []:
            taken = {key: vars(found)[key] for key in ("timed", "tables", "steps", "methods")}
            yield "costs", name, {**size, **taken}, lambda n=name: costs(models, n, found)

    study.run(jobs())
    report(study)


if __name__ == "__main__":
    main()
