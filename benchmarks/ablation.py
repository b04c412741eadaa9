"""Which ingredient of a B-cos classifier does what: one thing changed at a time.

    python benchmarks/ablation.py                # movie reviews, offline: about fifty minutes on a core
    python benchmarks/ablation.py --task tweets --b 1.5
    python benchmarks/ablation.py --quick        # a few minutes, small sizes; the figures mean nothing

Two starting points, the calibrated recipe and the published one of benchmarks/paper_classification.py, and from each:
B = 1 and `align=False` (the biases are removed and nothing is aligned), calibration or not, unit weight rows or not,
the pooler's tanh dropped or kept (explained as x · tanh(x)/x), cross entropy or binary cross entropy. Alignment alone,
with the biases kept, is exact only where no bias can reach a logit. BERT has such biases, and `get_bcos_model`
refuses; the study says so in its table. Llama has none: there, alignment alone is what paper_generation.py measures.
"""

from __future__ import annotations

import os


os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from dataclasses import asdict, replace

from classification_report import HEADER, VALUES, how_much
from paper_classification import METHODS, measure, methods_of
from studies import COLOURS, Study, draw, figure, labels, options, shown, smaller, table, table_of_means
from study_models import Recipe, Task, calibrated, conventional, load_task, published

from bcos_peft import BcosConfig, get_bcos_model


ALONE = "alignment alone"


def arguments(parser) -> None:
    parser.add_argument("--task", default="reviews", help="as the tasks of paper_classification.py")
    parser.add_argument("--model", help="folder or hub name of the checkpoint; default: MiniLM")
    parser.add_argument("--b", type=float, default=1.25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=150, help="training steps of every model, 16 texts each")
    parser.add_argument("--train", type=int, default=7910, help="training texts at most")
    parser.add_argument("--test", type=int, default=1000, help="texts for the accuracy")
    parser.add_argument("--rows", type=int, default=60, help="of them for comprehensiveness and sufficiency")
    parser.add_argument("--pairs", type=int, default=30, help="of the pointing game")
    parser.add_argument("--confidence", type=float, default=0.9, help="of the texts in these pairs")
    parser.add_argument("--methods", nargs="+", choices=METHODS, help="which of these")
    parser.add_argument("--ig-steps", type=int, default=20)
    parser.add_argument("--max-tokens", type=int, default=128)


def variants(b: float, **common) -> dict[str, Recipe]:
    """Every model, by what is different in it."""
    ours, theirs = calibrated(b, **common), published(b, **common)
    return {
        "conventional": conventional(**common),
        "calibrated recipe": ours,
        "calibrated: bias removal alone": replace(ours, b=1.0, align=False),
        "calibrated: bias removal alone, BCE": replace(ours, b=1.0, align=False, loss="bce"),
        "calibrated: BCE": replace(ours, loss="bce"),
        "calibrated: with variations and refined blocks": replace(ours, refine=True),
        "calibrated: no calibration": replace(ours, calibrate=False),
        "calibrated: unit rows, no calibration": replace(ours, calibrate=False, normalize_weights=True),
        "calibrated: tanh kept in the pooler": replace(ours, pooler_activation="dynamic"),
        "published recipe": theirs,
        "published: bias removal alone": replace(theirs, b=1.0, align=False, normalize_weights=False),
        "published: B = 1, unit rows": replace(theirs, b=1.0),
        "published: CE": replace(theirs, loss="ce"),
        "published: pre-trained rows": replace(theirs, normalize_weights=False),
        "published: pre-trained rows, calibrated": replace(theirs, normalize_weights=False, calibrate=True),
        "published: tanh kept in the pooler": replace(theirs, pooler_activation="dynamic"),
    }


def refusal(task: Task, b: float) -> dict:
    """What the package says to alignment without bias removal."""
    try:
        get_bcos_model(task.stock(0), BcosConfig(b=b, remove_bias=False))
    except ValueError as error:
        return {"refused": str(error)}
    raise SystemExit(f"{task.base} can be aligned with its biases: add it to the variants.")


def report(study: Study) -> None:
    parts = []
    for group, cells in study.cells.items():
        made = {name: cell for name, cell in cells.items() if "rows" in cell}
        parts.append(f"## {group}")
        rows = []
        for name, cell in made.items():
            method = "bcos" if "bcos" in cell["rows"] else "integrated_gradients"
            found = cell["rows"][method]
            rows.append(([name, method], [cell["accuracy"], *(found.get(value) for value in VALUES)]))
        header = ["Model", "Method", "Accuracy ↑", *HEADER]
        parts.append(table_of_means(rows, header, [True, *VALUES.values()]))
        rows = []
        for name, cell in made.items():
            before = cell["made"].get("accuracy_before_training")
            chance = cell["rows"]["random"]
            values = [shown(chance.get(value), interval=False) for value in VALUES]
            rows.append([name, "–" if before is None else f"{before:.3f}", *values])
        header = ["Model", "Accuracy right after the conversion", *(f"random: {title}" for title in HEADER)]
        parts.append(table(header, rows, left=1))
        if "refused" in cells.get(ALONE, {}):
            parts.append(f"*{ALONE.capitalize()}*, with the biases kept, is refused: “{cells[ALONE]['refused']}”")
        parts.append(how_much(made))
        parts.append(plot(study, group, made))
    study.write(parts)


def plot(study: Study, group: str, cells: dict) -> str:
    """A line for each model, a panel for each number."""
    titles = ["Accuracy ↑", *(title for title in HEADER if "published" not in title)]
    values = [None, *(value for value in VALUES if value != "sufficiency_reference")]
    drawn, ((*panels,),) = figure(4, height=1 + 0.26 * len(cells))
    for i, (panel, title, value) in enumerate(zip(panels, titles, values, strict=True)):
        for place, (name, cell) in enumerate(cells.items()):
            rows = cell["rows"]
            entry = (
                cell["accuracy"] if value is None else rows.get("bcos", rows.get("integrated_gradients")).get(value)
            )
            colour = COLOURS[0 if name.startswith("calibrated") else 1 if name.startswith("published") else 7]
            if entry:
                panel.plot(entry["mean"], place, "o", color=colour, markersize=4)
                if entry["low"] is not None:
                    panel.plot([entry["low"], entry["high"]], [place, place], color=colour, linewidth=1)
        panel.set_yticks(range(len(cells)), cells if i == 0 else [""] * len(cells), fontsize=8)
        panel.set(title=title, ylim=(len(cells) - 0.5, -0.5))
    return draw(drawn, study.folder / f"{group.replace('/', '-')}.svg")


def main() -> None:
    found = options(__doc__, arguments)
    smaller(found, steps=6, train=96, test=40, rows=2, pairs=2, confidence=0.5, ig_steps=3)
    study = Study("ablation", "One ingredient at a time", found)

    def jobs():
        task = load_task(found.task, found.model, found.train, found.test, found.max_tokens)
        sizes = {key: vars(found)[key] for key in ("test", "rows", "pairs", "confidence", "ig_steps", "max_tokens")}
        sizes |= {"model": found.model, "train": len(task.train)}
        for title, recipe in variants(found.b, steps=found.steps, seed=found.seed).items():
            settings = {"recipe": asdict(recipe), **sizes, "methods": labels(methods_of(recipe, task, found))}
            yield task.name, title, settings, lambda n=title, r=recipe: measure(study, task, n, r, found)
        yield task.name, ALONE, {"b": found.b, "model": found.model}, lambda: refusal(task, found.b)

    study.run(jobs())
    report(study)


if __name__ == "__main__":
    main()
