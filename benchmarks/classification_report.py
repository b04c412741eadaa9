"""What the study of classifiers says about its cells: tables, paired tests and a plot; see paper_classification.py."""

from __future__ import annotations

import re
from itertools import chain

from studies import COLOURS, Study, draw, figure, table, table_of_means

from bcos_peft.evaluation import paired_test


VALUES = {"comprehensiveness": True, "sufficiency": False, "sufficiency_reference": False, "seqpg": True}
HEADER = ["Comprehensiveness ↑", "Sufficiency ↓", "Sufficiency, as published ↓", "SeqPG ↑"]
STRONG = "integrated_gradients"  # of a conventional model: what there is to beat


def report(study: Study) -> None:
    parts = []
    for group, cells in study.cells.items():
        cells = dict(sorted(cells.items(), key=lambda cell: b_of(cell[0])))
        parts.append(f"## {group}")
        rows = [([name], [cell["accuracy"]]) for name, cell in cells.items()]
        parts.append(table_of_means(rows, ["Model", "Accuracy ↑"], [True], left=1))
        rows = [
            ([name, method], [values.get(value) for value in VALUES])
            for name, cell in cells.items()
            for method, values in cell["rows"].items()
        ]
        parts.append(table_of_means(rows, ["Model", "Method", *HEADER], list(VALUES.values())))
        parts.append(differences(study, group, cells))
        parts.append(how_much(cells))
        parts.append(plot(study, group, cells))
        parts.append(costs(cells))
    study.write([part for part in parts if part])


def how_much(cells: dict) -> str:
    """How much was measured, as the first of the cells has it."""
    size = next(iter(cells.values()))["settings"]
    return (
        f"{size['test']} texts for the accuracy, {size['rows']} for comprehensiveness and sufficiency (areas over "
        f"10–90 %, at most 0.8), at most {size['pairs']} pairs; {size['recipe']['steps']} steps of "
        f"{size['recipe']['batch']} texts. 95 % bootstrap intervals over the examples; one training each."
    )


def b_of(name: str) -> float:
    """The B in a model's name; 0 in a conventional one's."""
    return float(name[2:].split()[0]) if name.startswith("B=") else 0.0


def differences(study: Study, group: str, cells: dict) -> str:
    """B-cos models against the strong baseline, text by text: of the usual conventional model, and of one alike."""
    rows = []
    for name in (name for name, cell in cells.items() if "bcos" in cell["rows"]):
        for stock in dict.fromkeys(["conventional" + seed_of(name), alike(name, cells)]):
            if stock not in cells:
                continue
            tests = [more_accurate(cells[name], cells[stock])]
            for value in ("comprehensiveness", "sufficiency"):
                tests.append(study.compare([group], f"{name} + bcos", f"{stock} + {STRONG}", value))
            if tests[1] is not None:
                shown = [("–", "–") if test is None else (test.difference, f"{test.p_value:.2g}") for test in tests]
                rows.append([name, stock, *chain.from_iterable(shown)])
    header = ["B-cos", "less IG of", "Accuracy", "p", "Comprehensiveness", "p", "Sufficiency", "p"]
    return table(header, rows, left=2) if rows else ""


def more_accurate(cell: dict, other: dict):
    """The paired test of two models' accuracies on the same texts; None where a cell is from before it kept them."""
    if "right" not in cell or "right" not in other:
        return None
    return paired_test([int(each) for each in cell["right"]], [int(each) for each in other["right"]])


def alike(name: str, cells: dict) -> str:
    """The conventional model of those there are whose loss and hidden tokens are most like a B-cos model's."""
    loss = ", BCE" if "BCE" in name or "published" in name else ""
    hidden, seed = "".join(re.findall(r", hidden [\d.]+", name)), seed_of(name)
    wanted = [f"conventional{more}{seed}" for more in (loss + hidden, loss, hidden)]
    return next((stock for stock in wanted if stock in cells), "conventional" + seed)


def seed_of(name: str) -> str:
    """The end of a model's name that says the seed, nothing for 0."""
    return "".join(re.findall(r", seed \d+", name))


def costs(cells: dict) -> str:
    """What an explanation costs by each method, on the first model that has it."""
    seen: dict[str, list[str]] = {}
    for name, cell in cells.items():
        for method, cost in cell["costs"].items():
            numbers = [
                cost["seconds_per_example"],
                cost["forward_rows_per_example"],
                cost["backward_rows_per_example"],
            ]
            seen.setdefault(method, [name, method, *(f"{number:.3g}" for number in numbers)])
    return table(["Model", "Method", "Seconds", "Forwards", "Backwards"], seen.values())


def plot(study: Study, group: str, cells: dict) -> str:
    """Each number by B: a line for each way to a B-cos model, levels for the conventional one's methods."""
    drawn, ((*panels,),) = figure(4)
    ways = list(dict.fromkeys(name.partition(" ")[2] for name in cells if name.startswith("B=")))
    titles = ["Accuracy ↑", HEADER[0], HEADER[1], HEADER[3]]
    values = [None, "comprehensiveness", "sufficiency", "seqpg"]
    for panel, title, value in zip(panels, titles, values, strict=True):
        for place, (colour, way) in enumerate(zip(COLOURS * 3, ways, strict=False)):
            points = [
                (
                    b_of(name),
                    cell["accuracy"] if value is None else cell["rows"]["bcos"].get(value),
                )
                for name, cell in cells.items()
                if name.startswith("B=") and name.partition(" ")[2] == way
            ]
            points = sorted((b, entry["mean"], entry["low"], entry["high"]) for b, entry in points if entry)
            if len(points) == 1:  # no line: beside those of the other ways, with its interval
                ((b, middle, low, high),) = points
                at, interval = b + 0.02 * (place - (len(ways) - 1) / 2), [[middle - low], [high - middle]]
                panel.errorbar(at, middle, interval, marker="o", markersize=3, color=colour, label=f"B-cos {way}")
            elif points:
                bs, means, lows, highs = zip(*points, strict=True)
                panel.plot(bs, means, marker="o", markersize=3, color=colour, label=f"B-cos {way}")
                panel.fill_between(bs, lows, highs, alpha=0.12, color=colour, linewidth=0)
        stock = cells.get("conventional")
        levels = {} if stock is None else {method: row.get(value) for method, row in stock["rows"].items()}
        levels = {"accuracy": stock["accuracy"]} if stock is not None and value is None else levels
        for i, (method, entry) in enumerate(levels.items()):
            if entry:
                style = {
                    "color": "#333333",
                    "linewidth": 1,
                    "linestyle": ["-", "--", "-.", ":", (0, (1, 3)), (0, (5, 5))][i],
                }
                panel.axhline(entry["mean"], label=f"conventional, {method}".replace("_", " "), **style)
        panel.set(title=title, xlabel="B", xticks=sorted({b_of(name) for name in cells} - {0.0}))
    return draw(drawn, study.folder / f"{group.replace('/', '-')}.svg", legend=panels[1])
