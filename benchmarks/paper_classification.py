"""Classifiers: conventional, B-cos as published, B-cos calibrated. Accuracy and how faithful explanations are.

    python benchmarks/paper_classification.py                 # movie reviews, offline
    accelerate launch --cpu --num_processes 2 benchmarks/paper_classification.py       # on two cores: within an hour
    python benchmarks/paper_classification.py --tasks tweets  # offline too, and as long
    python benchmarks/paper_classification.py --quick         # a few minutes, small sizes; the figures mean nothing
    python benchmarks/paper_classification.py --tasks ag_news imdb hatexplain          # from the hub
    python benchmarks/paper_classification.py --b 1.25 --hide 0 0.1 0.25 --after 0.33 0.5 --loss ce bce
    make study-full       # trained to the end, the strong methods alone: four hours on a core; results/full_training

*Published* converts the stock model (unit rows) and trains it with binary cross entropy. *Calibrated* trains the
stock model for two thirds of the steps, converts it with calibration on 256 of the training texts, and trains on. All
see the same texts in the same number of steps. *Recommended* (docs/guides/recipes.md) trains a conventional model with
binary cross entropy, in the last third with a tenth of the tokens hidden, and converts it at the end; *control* is
that conventional model. Only if `--ways` names them: *early* converts after a third of the steps and trains on with
this loss and hidden tokens; *further* converts the usual conventional model at the end and trains it so for a fifth of
the steps more, as one does with a model that is fine-tuned already; *as_it_is* does not train it at all. With `--hide`
that share of the tokens is hidden in the last third of training, so that texts with tokens missing are nothing new to
the model. The fifth line searches for a better recipe: `--after` is the share of the steps that follow the conversion.

Methods: the exact contributions of B-cos models; input x gradient, integrated gradients, attention rollout (also in
the order of published code) and occlusion of the conventional model, of one that learns with hidden tokens integrated
gradients alone; random scores of each. `--methods` names others, such as contributions relative to an average word.
Pairs of the pointing game are made for each model of texts that it is sure of. Every model is a cell of results.json.
"""

from __future__ import annotations

import os


os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import warnings
from dataclasses import asdict
from itertools import product

from classification_report import STRONG, report
from studies import Study, labels, mean, options, smaller
from study_models import Recipe, Task, build, calibrated, conventional, correct, load_task, published

from bcos_peft.evaluation import (
    Comprehensiveness,
    Plausibility,
    SequencePointingGame,
    Sufficiency,
    Texts,
    build_pairs,
    evaluate,
    get_method,
)


WAYS = ["conventional", "published", "calibrated", "recommended", "control"]
MORE_WAYS = ["early", "further", "as_it_is"]
AVERAGE = "bcos, average word"  # nearly the same as bcos for classifiers, so only where --methods names it
METHODS = [
    "bcos", AVERAGE, "input_x_gradient", STRONG, "attention_rollout", "attention_rollout, reversed", "occlusion",
    "random",
]  # fmt: skip
USUAL = [name for name in METHODS if name != AVERAGE]
OF_CONTROLS = [STRONG, "random"]


def arguments(parser) -> None:
    parser.add_argument("--tasks", nargs="+", default=["reviews"])
    parser.add_argument("--model", help="folder or hub name of the checkpoint; default: MiniLM")
    parser.add_argument("--b", type=float, nargs="+", default=[1.0, 1.25, 1.5, 2.0])
    parser.add_argument("--ways", nargs="+", choices=WAYS + MORE_WAYS, default=WAYS, help="which models")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=300, help="training steps of every model, 16 texts each")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--train", type=int, default=7910, help="training texts at most")
    parser.add_argument("--test", type=int, help="texts for the accuracy (default: 1000, of tweets 500)")
    parser.add_argument("--rows", type=int, default=100, help="of them for comprehensiveness and sufficiency")
    parser.add_argument("--pairs", type=int, default=60, help="of the pointing game")
    parser.add_argument("--confidence", type=float, default=0.9, help="of the texts in these pairs")
    parser.add_argument("--methods", nargs="+", choices=METHODS, help="which of these")
    parser.add_argument("--ig-steps", type=int, default=20)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--hide", type=float, nargs="+", default=[0.0], metavar="SHARE")
    parser.add_argument("--after", type=float, nargs="+", default=[1 / 3], metavar="SHARE", help="calibrated only")
    parser.add_argument("--rate", type=float, nargs="+", default=[5e-5], help="after the conversion; calibrated only")
    parser.add_argument("--loss", nargs="+", choices=["ce", "bce"], default=["ce"], help="published: always bce")


def recipes(found) -> dict[str, Recipe]:
    """The models to be made, by the names that tables give them; a name says what is not as usual."""
    sizes = {"steps": found.steps, "batch": found.batch}
    made: dict[str, Recipe] = {}
    for seed, hidden in product(found.seeds, found.hide):
        common = {**sizes, "seed": seed, "hidden": hidden}
        end = (f", hidden {hidden:g}" if hidden else "") + (f", seed {seed}" if seed else "")
        if "conventional" in found.ways:
            for loss in found.loss:
                made["conventional" + (", BCE" if loss == "bce" else "") + end] = conventional(loss=loss, **common)
        for b in found.b:
            if "published" in found.ways and not hidden:
                made[f"B={b:g} published{end}"] = published(b, **common)
            if "calibrated" in found.ways:
                for after, rate, loss in product(found.after, found.rate, found.loss):
                    name = f"B={b:g} calibrated"
                    name += f", after {after:.2g}" if abs(after - 1 / 3) > 0.01 else ""
                    name += f", rate {rate:g}" if rate != 5e-5 else ""
                    name += ", BCE" if loss == "bce" else ""
                    made[name + end] = calibrated(b, after=after, rate=rate, loss=loss, **common)
    for seed in found.seeds:
        sharp = {**sizes, "loss": "bce", "hidden": 0.1, "seed": seed}
        end = "BCE, hidden 0.1" + (f", seed {seed}" if seed else "")
        at_the_end = {**sharp, "after": 0.0, "refine": True}
        if "early" in found.ways:
            name = f"B=1.25 calibrated, after 0.67, rate 0.0002, {end}"
            made[name] = calibrated(1.25, after=0.667, rate=2e-4, **sharp)
        if "further" in found.ways:
            name = f"B=1.25 calibrated at the end, a fifth more, {end}"
            made[name] = calibrated(1.25, more=found.steps // 5, **at_the_end)
        if "as_it_is" in found.ways:
            name = "B=1.25 calibrated at the end" + (f", seed {seed}" if seed else "")
            made[name] = calibrated(1.25, **sizes, seed=seed, after=0.0, refine=True)
        if "recommended" in found.ways:
            made[f"B=1.25 calibrated at the end, {end}"] = calibrated(1.25, alike=True, **at_the_end)
        if "control" in found.ways:
            made[f"conventional, {end}"] = conventional(**sharp)
    return made


def methods_of(recipe: Recipe, task: Task, found) -> list:
    if recipe.b is not None:
        methods = ["bcos", get_method("bcos", baseline="average", label=AVERAGE), "random"]
    else:
        methods = [
            "input_x_gradient",
            get_method("integrated_gradients", task.tokenizer, steps=found.ig_steps),
            "attention_rollout",
            get_method("attention_rollout", order="reversed", label="attention_rollout, reversed"),
            "occlusion",
            "random",
        ]
    usual = OF_CONTROLS if recipe.b is None and recipe.hidden else USUAL
    names = found.methods or usual
    wanted = [method for method, name in zip(methods, labels(methods), strict=True) if name in names]
    if not wanted:
        raise SystemExit(f"--methods names none of {', '.join(labels(methods))}: add one of them.")
    return wanted


def measure(study: Study, task: Task, name: str, recipe: Recipe, found) -> dict:
    """The cell of one model."""
    model, facts = build(task, recipe)
    texts, labels = [text for text, _ in task.test], [label for _, label in task.test]
    methods = methods_of(recipe, task, found)
    metrics = [Comprehensiveness(), Sufficiency(), Sufficiency(perturb_special=True, label="sufficiency_reference")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer pairs than asked for: the cell says how many
        try:
            pairs = build_pairs(Texts(model, task.tokenizer, texts, labels), found.pairs, found.confidence)
        except ValueError:  # it is sure of too few texts
            pairs = []
    if pairs:
        metrics.append(SequencePointingGame(pairs))
    settings = {"label": name, "checkpoint": study.kept / f"{task.name.replace('/', '-')}.jsonl"}
    result = evaluate(model, task.tokenizer, texts[: found.rows], methods, metrics, **settings)
    if task.rationales:
        settings["checkpoint"] = settings["checkpoint"].with_suffix(".rationales.jsonl")
        some = task.rationales[: found.rows]
        result += evaluate(model, task.tokenizer, some, methods, [Plausibility()], **settings)
    right = correct(task, model)
    return {
        "accuracy": mean(right),
        "right": "".join(str(int(each)) for each in right),
        "made": facts,
        "pairs": len(pairs),
        **study.keep(task.name, name, result),
    }


def main() -> None:
    found = options(__doc__, arguments)
    smaller(found, tasks=found.tasks[:1], b=[1.25], hide=[0.1], steps=9, train=160, test=40, rows=4, pairs=2,
            confidence=0.5, ig_steps=3, ways=found.ways[:-2] if found.ways == WAYS else found.ways)  # fmt: skip
    study = Study("paper_classification", "Classifiers: conventional, as published, calibrated", found)

    def jobs():
        for name in found.tasks:
            test = found.test or (500 if name == "tweets" else 1000)
            task = load_task(name, found.model, found.train, test, found.max_tokens)
            sizes = {key: vars(found)[key] for key in ("rows", "pairs", "confidence", "ig_steps", "max_tokens")}
            sizes["test"] = test
            for title, recipe in recipes(found).items():
                methods = labels(methods_of(recipe, task, found))
                settings = {"recipe": asdict(recipe), "model": found.model, "train": len(task.train), **sizes}
                settings["methods"] = methods
                yield task.name, title, settings, lambda t=task, n=title, r=recipe: measure(study, t, n, r, found)

    study.run(jobs())
    report(study)


if __name__ == "__main__":
    main()
