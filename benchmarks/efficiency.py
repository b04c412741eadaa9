"""What B-cos models cost: training until they are as good as the conventional model, and an explanation.

    python benchmarks/efficiency.py                     # about an hour on a core
    python benchmarks/efficiency.py --part explanations --longest 1024
    python benchmarks/efficiency.py --quick             # a few minutes, small sizes; the figures mean nothing

Training: MiniLM on movie reviews. The mark is the conventional model's accuracy at the end, less one or three points;
steps, time and memory until a model is there are given as ratios to the conventional model's in the same run. The
calibrated model pays for the conventional steps before it and for its calibration. Time is the processor's where one
thread runs (OMP_NUM_THREADS=1), since other work on the machine disturbs that less.

Explanations: Llama models of three sizes with random weights, which cost what trained ones do. A time with a ≈ was not
measured: it is the method's number of passes times the measured time of a pass, for what would take over `--limit`
seconds.
"""

from __future__ import annotations

import os


os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from explanation_costs import LENGTHS, METHODS, SIZES, explain, explanations
from measure import CLOCKS, clock, saved_bytes
from studies import COLOURS, PROCESSES, Study, draw, figure, options, smaller, table
from study_models import DEVICE, Recipe, Task, calibrated, conventional, convert, correct, load_task, published, train


MARGINS = (0.01, 0.03)  # how much below the conventional accuracy the marks are


def arguments(parser) -> None:
    parser.add_argument(
        "--part", nargs="+", choices=["training", "explanations"], default=["training", "explanations"]
    )
    parser.add_argument("--b", type=float, default=1.25)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--model", help="folder or hub name of the classifier's checkpoint; default: MiniLM")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--every", type=int, default=20, help="steps between two looks at the accuracy")
    parser.add_argument("--validation", type=int, default=500, help="texts for it")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--longest", type=int, default=LENGTHS[-1])
    parser.add_argument("--limit", type=float, default=20, help="seconds; what would take longer is estimated")


def ways(b: float, steps: int, seed: int) -> dict[str, Recipe]:
    common = {"steps": steps, "seed": seed}
    return {
        "conventional": conventional(**common),
        "published": published(b, **common),
        "published, twice the steps": published(b, **{**common, "steps": 2 * steps}),
        "calibrated": calibrated(b, **common),
    }


def learn(task: Task, recipe: Recipe, every: int) -> dict:
    """The accuracy after so many steps and seconds; seconds of measuring it are not counted."""
    read = CLOCKS[clock(DEVICE)]
    spent, curve = 0.0, []
    model, began = task.stock(recipe.seed).to(DEVICE), read()

    def look(step: int) -> None:
        nonlocal spent, began
        if step % every == 0 or step in (recipe.before, recipe.steps):
            spent += read() - began
            found = correct(task, model)
            curve.append([step, round(spent, 2), sum(found) / len(found)])
            model.train()
            began = read()

    if recipe.before:
        whole = conventional(steps=recipe.steps, seed=recipe.seed)

        def stop(step: int) -> bool:
            look(step)
            return step == recipe.before

        train(task, model, whole, range(recipe.steps), after_step=stop)
    before, curve = curve, []
    converting = read()
    if recipe.b is not None:
        model = convert(task, model, recipe)
    converting = read() - converting
    found = correct(task, model)
    curve = [[recipe.before, round(spent + converting, 2), sum(found) / len(found)]]
    began = read() - converting  # the next look counts it
    train(task, model, recipe, range(recipe.before, recipe.steps), after_step=look)
    return {
        "before": before,
        "curve": curve,
        "conversion_seconds": round(converting, 2),
        "memory": memory(task, model, recipe),
    }


def memory(task: Task, model, recipe: Recipe) -> int:
    """Bytes of a training step: weights, their gradients, Adam's two moments, and what is saved for the backward."""
    inputs = task.inputs([text for text, _ in task.train[: recipe.batch]])
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    return 4 * weights + saved_bytes(model, lambda: model.train()(**inputs).logits.sum())


def report(study: Study) -> None:
    parts = []
    if cells := study.cells.get("training"):
        parts += ["## Training", *training(study, cells)]
    if cells := study.cells.get("explanations"):
        parts += ["## Explanations", *explanations(study, cells)]
    study.write(parts)


def reached(curve: list, mark: float) -> list | None:
    """The steps and the seconds until the accuracy is at the mark."""
    return next(([step, spent] for step, spent, accuracy in curve if accuracy >= mark), None)


def until(cell: dict, stock: dict, margin: float) -> list[str]:
    """Steps to a mark, and steps and time as ratios to those of the conventional model."""
    mark = stock["curve"][-1][2] - margin
    ours, theirs = reached(cell["curve"], mark), reached(stock["curve"], mark)
    if ours is None:
        return [f"not in {cell['curve'][-1][0]}", "–", "–"]
    return [str(ours[0]), *(f"{mine / other:.2f}" if other else "–" for mine, other in zip(ours, theirs, strict=True))]


def training(study: Study, cells: dict) -> list[str]:
    rows, seeds = [], list(dict.fromkeys(name.rpartition(", seed ")[2] for name in cells))
    drawn, ((panel,),) = figure(1, height=3.8)
    for seed in seeds:
        stock = cells[f"conventional, seed {seed}"]
        mine = [name for name in cells if name.endswith(f", seed {seed}")]
        for name in mine:
            cell = cells[name]
            best, end = max(accuracy for *_, accuracy in cell["curve"]), cell["curve"][-1][2]
            line = [name, f"{end:.3f}", f"{best:.3f}"]
            line += [part for margin in MARGINS for part in until(cell, stock, margin)]
            rows.append([*line, f"{cell['conversion_seconds']:.1f}", f"{cell['memory'] / stock['memory']:.3f}"])
            if seed == seeds[0]:
                points = [[t, a] for _, t, a in cell["before"] + cell["curve"]]
                colour = COLOURS[mine.index(name)]
                panel.plot(*zip(*points, strict=True), color=colour, label=name.partition(", seed")[0])
    for margin in MARGINS:
        mark = cells[f"conventional, seed {seeds[0]}"]["curve"][-1][2] - margin
        panel.axhline(mark, color="#333333", linewidth=1, linestyle=":")
        panel.text(0, mark, f"{100 * margin:g} below", fontsize=7, va="bottom")
    panel.set(xlabel="seconds of training and calibration", title="Accuracy")
    panel.legend(frameon=False, fontsize=8)
    header = ["Model", "At the end", "Best"]
    for margin in MARGINS:
        header += [f"Steps to {100 * margin:g} below", "Steps, ratio", "Time, ratio"]
    header += ["Seconds of conversion", "Memory of a step, ratio"]
    size = next(iter(cells.values()))["settings"]
    note = (
        f"Accuracy on {size['validation']} texts, looked at every {size['every']} steps; how soon it is one or three "
        "points below what the conventional model of the same seed ends with, and ratios to that model. Memory: "
        "weights, gradients, Adam's moments and what is saved for the backward pass."
    )
    return [table(header, rows, left=1), note, draw(drawn, study.folder / "training.svg")]


def main() -> None:
    found = options(__doc__, arguments)
    smaller(found, seeds=[0], steps=6, every=3, validation=40, sizes=["tiny"], longest=256, limit=2)
    if PROCESSES > 1:
        raise SystemExit("Times are taken one after the other: run efficiency.py without accelerate launch.")
    study = Study("efficiency", "Efficiency of training and of explanations", found)

    def jobs():
        if "training" in found.part:
            task = load_task("reviews", found.model, test=found.validation)
            sizes = {key: vars(found)[key] for key in ("model", "steps", "every", "validation")}
            for seed in found.seeds:
                for way, recipe in ways(found.b, found.steps, seed).items():
                    settings = {**sizes, "b": recipe.b, "clock": clock(DEVICE)}
                    yield "training", f"{way}, seed {seed}", settings, lambda r=recipe: learn(task, r, found.every)
        if "explanations" in found.part:
            models: dict = {}
            for size in found.sizes:
                for length in (one for one in LENGTHS if one <= found.longest):
                    for name in ("forward", *METHODS):
                        given = (size, length, name, found.b, found.limit)
                        settings = {"b": found.b, "limit": found.limit, "clock": clock(DEVICE)}
                        yield (
                            "explanations",
                            f"{size}, {length}, {name}",
                            settings,
                            lambda g=given: explain(study, models, *g),
                        )

    study.run(jobs())
    report(study)


if __name__ == "__main__":
    main()
