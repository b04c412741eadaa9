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

import copy
from collections.abc import Callable

import torch
from measure import CLOCKS, saved_bytes, seconds
from studies import COLOURS, PROCESSES, Study, draw, figure, options, smaller, table
from study_models import DEVICE, Recipe, Task, calibrated, conventional, convert, correct, load_task, published, train
from transformers import LlamaConfig, LlamaForCausalLM

from bcos_peft import BcosConfig, get_bcos_model
from bcos_peft.evaluation import Metered, Question, get_method, logits


SIZES = {  # layers, width, heads, of these for keys and values, width inside
    "tiny": (2, 64, 4, 2, 192),
    "small": (6, 384, 6, 2, 1024),
    "SmolLM2-135M": (30, 576, 9, 3, 1536),
}
LENGTHS = (128, 256, 512, 1024, 2048, 4096)
VOCABULARY = 49_152
MARGINS = (0.01, 0.03)  # how much below the conventional accuracy the marks are
# Forwards and backwards for a text of n tokens, the first of which is special.
METHODS: dict[str, tuple[dict, Callable[[int], tuple[int, int]]]] = {
    "bcos": ({}, lambda n: (1, 1)),
    "input_x_gradient": ({}, lambda n: (1, 1)),
    "integrated_gradients": ({"steps": 50}, lambda n: (50, 50)),
    "occlusion": ({}, lambda n: (n, 0)),
    "kernel_shap": ({"samples": 200}, lambda n: (200, 0)),
    "shapley_sampling": ({"samples": 25}, lambda n: (25 * (n - 1) + 1, 0)),
}


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


def clock() -> str:
    return "cpu" if DEVICE == "cpu" and torch.get_num_threads() == 1 else "wall"


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
    read = CLOCKS[clock()]
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


def llama(size: str):
    layers, width, heads, keys, inside = SIZES[size]
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=keys,
        intermediate_size=inside,
        vocab_size=VOCABULARY,
        max_position_embeddings=LENGTHS[-1],
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).to(DEVICE).eval()


def explain(study: Study, models: dict, size: str, length: int, name: str, b: float, limit: float) -> dict:
    """Seconds and memory of one explanation, measured or estimated; `"forward"` is a pass without any."""
    if models.get("size") != size:
        stock = llama(size)
        models.update(size=size, stock=stock, bcos=get_bcos_model(copy.deepcopy(stock), BcosConfig(b=b)))
    model = models["bcos" if name == "bcos" else "stock"]
    ids = torch.randint(5, VOCABULARY, (length,), generator=torch.Generator().manual_seed(length))
    question = Question(ids, target=7, special=torch.arange(length) == 0)
    if name == "forward":
        return {"seconds_each": fewest(lambda: logits(model, [question]), limit), "passes": [1, 0]}
    given, count = METHODS[name]
    forwards, backwards = passes = count(length)
    before = study.cells["explanations"]
    once = before[f"{size}, {length}, forward"]["seconds_each"]
    if passes != (1, 1):
        both = before[f"{size}, {length}, input_x_gradient"]["seconds_each"]
        guess = backwards * both + (forwards - backwards) * once
        if guess > limit:
            return {"seconds_each": guess, "passes": list(passes), "estimated": True}
    rows = max(1, min(32, 4096 // length))
    extra = {"batch_size": rows} if passes != (1, 1) else {}
    method = Metered(get_method(name, **given, **extra), memory_examples=1 if passes == (1, 1) else 0)
    method(model, question)
    cost = method.cost
    spent = fewest(lambda: method.method(model, question), limit)
    measured = [cost.forward_rows, cost.backward_rows]
    return {"seconds_each": spent, "passes": measured, "peak_memory": cost.peak_memory}


def fewest(run: Callable[[], object], limit: float, rounds: int = 3) -> float:
    """The least time of a few runs: of one only, where that takes long, and of many that take milliseconds."""
    found = [seconds(run, DEVICE, clock())]
    while found[0] < limit / 10 and (len(found) < rounds or (sum(found) < 1 and len(found) < 50)):
        found.append(seconds(run, DEVICE, clock()))
    return min(found)


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


def explanations(study: Study, cells: dict) -> list[str]:
    found = {tuple(name.split(", ")): cell for name, cell in cells.items()}
    sizes = list(dict.fromkeys(size for size, _, _ in found))
    names = list(dict.fromkeys(method for *_, method in found))
    parts, (drawn, ((*panels,),)) = [], figure(len(sizes))
    for size, panel in zip(sizes, panels, strict=True):
        lengths = sorted({int(length) for one, length, _ in found if one == size})
        lines = []
        for length in lengths:
            cell = {name: found.get((size, str(length), name)) for name in names}
            times = [_seconds(cell[name]) for name in names]
            ours, theirs = cell.get("bcos"), cell.get("integrated_gradients")
            ratio = f"{theirs['seconds_each'] / ours['seconds_each']:.1f}" if ours and theirs else "–"
            peaks = [cell.get(name, {}).get("peak_memory") for name in ("bcos", "input_x_gradient")]
            lines.append([str(length), *times, ratio, *("–" if p is None else f"{p / 2**20:.0f}" for p in peaks)])
        header = ["Tokens", *names, "integrated gradients / bcos", "MiB, bcos", "MiB, input_x_gradient"]
        parts += [f"### {size}", table([title.replace("_", " ") for title in header], lines, left=1)]
        for name, colour in zip(names, COLOURS, strict=False):
            points = [(n, found[size, str(n), name]["seconds_each"]) for n in lengths if (size, str(n), name) in found]
            panel.plot(
                *zip(*points, strict=True), marker="o", markersize=3, color=colour, label=name.replace("_", " ")
            )
        panel.set(xscale="log", yscale="log", title=size, xlabel="tokens", ylabel="seconds")
        panel.set_xticks(lengths, [str(length) for length in lengths], fontsize=7)
        panel.minorticks_off()
    size = next(iter(cells.values()))["settings"]
    parts.append(
        f"Seconds for one explanation of the next token ({size['clock']} time, least of three runs and more); ≈ is an "
        "estimate from the measured time of a pass. Integrated gradients with 50 steps, KernelSHAP with 200 samples, "
        "Shapley sampling with 25 permutations. MiB: all tensors alive at a time, beyond the model."
    )
    return [*parts, draw(drawn, study.folder / "explanations.svg", legend=panels[0])]


def _seconds(cell: dict | None) -> str:
    if cell is None:
        return "–"
    return f"{'≈ ' if cell.get('estimated') else ''}{cell['seconds_each']:.3g}"


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
                    settings = {**sizes, "b": recipe.b, "clock": clock()}
                    yield "training", f"{way}, seed {seed}", settings, lambda r=recipe: learn(task, r, found.every)
        if "explanations" in found.part:
            models: dict = {}
            for size in found.sizes:
                for length in (one for one in LENGTHS if one <= found.longest):
                    for name in ("forward", *METHODS):
                        given = (size, length, name, found.b, found.limit)
                        settings = {"b": found.b, "limit": found.limit, "clock": clock()}
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
