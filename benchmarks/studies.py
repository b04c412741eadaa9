"""What the studies share: options, cells that are kept as they come, Markdown and plots.

A study is a table of cells, by group (a task) and name (a model). A cell is written to `results.json` of the study's
folder as soon as it is there, with the settings it was made with; a cell of other settings is made again. Under
`accelerate launch` each process makes its share of the models, on a GPU of its own; the last to end writes the report.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import study_models
from filelock import FileLock
from measure import machine
from tqdm.auto import tqdm

from bcos_peft import __version__
from bcos_peft.evaluation import EvaluationResult, Interval, bootstrap_interval, paired_test
from bcos_peft.evaluation.results import format_number


ROOT = Path(__file__).parent.parent
PROCESS, PROCESSES = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999", "#555555"]


def options(description: str, add: Callable[[argparse.ArgumentParser], None]) -> argparse.Namespace:
    """The command line of a study: its own options, and those of all."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add(parser)
    parser.add_argument("--quick", action="store_true", help="small sizes, a few minutes; writes to outputs/")
    parser.add_argument("--output", type=Path, help="folder of the results")
    parser.add_argument("--kept", type=Path, default=study_models.KEPT, help="folder of models and unfinished cells")
    parser.add_argument("--fresh", action="store_true", help="forget the results of earlier runs")
    parser.add_argument("--report", action="store_true", help="run nothing: tables and plots of what there is")
    return parser.parse_args()


def smaller(found: argparse.Namespace, **sizes) -> None:
    """With --quick: these sizes, in place of the options' values."""
    if found.quick:
        vars(found).update(sizes)
        study_models.CALIBRATION_TEXTS = 16


class Study:
    """The cells of a study, on disk after each."""

    def __init__(self, name: str, title: str, found: argparse.Namespace):
        self.name, self.title = name, title
        usual = ROOT / "outputs" / "studies" / "quick" / name if found.quick else ROOT / "results" / name
        self.folder: Path = found.output or usual
        self.kept: Path = found.kept / name
        study_models.KEPT = found.kept
        self.only_report = found.report
        self.path = self.folder / "results.json"
        if found.fresh:
            self.path.unlink(missing_ok=True)
            (self.folder / "examples.csv").unlink(missing_ok=True)
        self.cells: dict[str, dict[str, dict]] = {}
        self.examples: dict[tuple[str, str, str], dict[str, float]] = {}
        self.machine = machine("cpu")  # of the last cell
        self._mine: set[tuple[str, str]] = set()  # groups and columns of examples that this run has made
        self._read()

    def _read(self) -> None:
        """Adds what is on disk: another run of the study, of other tasks, may have written to it meanwhile."""
        if not self.path.exists():
            return
        found = json.loads(self.path.read_text())
        self.machine = found["machine"]
        for group, cells in found["cells"].items():
            self.cells.setdefault(group, {}).update(cells)
        table = self.folder / "examples.csv"
        if table.exists():
            with open(table, encoding="utf-8", newline="") as file:
                for row in csv.DictReader(file):
                    key = row.pop("group"), row.pop("value"), row.pop("example")
                    old = {
                        name: float(cell) for name, cell in row.items() if cell and (key[0], name) not in self._mine
                    }
                    self.examples[key] = {**old, **self.examples.get(key, {})}

    def run(self, jobs: Iterable[tuple[str, str, dict, Callable[[], dict]]]) -> None:
        """Makes the cells that are not there: `(group, name, settings, make)` each."""
        jobs = [] if self.only_report else list(jobs)
        order = {job[:2]: i for i, job in enumerate(jobs)}
        models = list(dict.fromkeys(name for _, name, *_ in jobs))
        mine = [job for job in jobs if models.index(job[1]) % PROCESSES == PROCESS]
        with tqdm(mine, desc=self.name, unit="cell", position=PROCESS) as bar:
            for group, name, settings, make in bar:
                bar.set_postfix_str(f"{group}: {name}")
                settings = json.loads(json.dumps(settings))
                if self.cells.get(group, {}).get(name, {}).get("settings") == settings:
                    continue
                began = time.perf_counter()
                cell = make()
                made = {"settings": settings, **cell, "seconds": round(time.perf_counter() - began, 1)}
                with self._lock():
                    self._read()
                    self.machine = machine("cpu")
                    made["cpu"] = self.machine["cpu"]
                    self.cells.setdefault(group, {})[name] = made
                    self.save()
        with self._lock():
            self._read()
        for group, cells in self.cells.items():
            if all((group, name) in order for name in cells):  # whoever made them
                self.cells[group] = dict(sorted(cells.items(), key=lambda cell: order[group, cell[0]]))

    def _lock(self) -> FileLock:
        self.kept.mkdir(parents=True, exist_ok=True)
        return FileLock(self.kept / "study.lock")

    def save(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        found = {"study": self.name, "cells": self.cells, "version": __version__, "machine": self.machine}
        _write(self.path, json.dumps(found, indent=1) + "\n")
        if self.examples:
            columns = list(dict.fromkeys(name for row in self.examples.values() for name in row))
            with open(self.folder / "examples.csv", "w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(["group", "value", "example", *columns])
                for key, row in ((key, row) for key, row in self.examples.items() if row):
                    writer.writerow([*key, *(f"{row[name]:.4g}" if name in row else "" for name in columns)])

    def keep(self, group: str, name: str, result: EvaluationResult) -> dict:
        """Means with intervals and costs of a result, for a cell; its examples go to the examples' table."""
        mine = {(group, f"{name} + {method}") for _, method in result.rows}
        self._mine |= mine
        for key, row in self.examples.items():
            for one, column in mine:
                if one == key[0]:
                    row.pop(column, None)  # of other settings
        for record in result.records:
            for value, number in record.values.items():
                row = self.examples.setdefault((group, value, record.example[:10]), {})
                row[f"{name} + {record.method}"] = number
        rows = {
            method: {value: rounded(asdict(interval)) for value, interval in numbers.items()}
            for (_, method), numbers in result.summary().items()
        }
        wanted = ("seconds_per_example", "forward_rows_per_example", "backward_rows_per_example", "peak_memory")
        costs = {
            row.partition(" + ")[2]: rounded({key: cost.get(key) for key in wanted})
            for row, cost in result.costs.items()
        }
        return {"rows": rows, "costs": costs, "chance": rounded(result.chance())}

    def compare(self, groups: Sequence[str], first: str, second: str, value: str):
        """The paired test of two columns of the examples' table; None where they have no example in common."""
        found = [row for key, row in self.examples.items() if key[0] in groups and key[1] == value]
        found = [row for row in found if first in row and second in row]
        return paired_test([row[first] for row in found], [row[second] for row in found]) if len(found) > 1 else None

    def write(self, parts: Sequence[str]) -> None:
        """`results.md`: the parts under the title, then what it was made with."""
        facts = ", ".join(f"{key} {value}" for key, value in self.machine.items())
        made = [cell for cells in self.cells.values() for cell in cells.values()]
        others = {cell["cpu"] for cell in made if "cpu" in cell} - {self.machine["cpu"]}
        facts += f" (results.json says which cells are from: {', '.join(sorted(others))})" if others else ""
        seconds = sum(cell.get("seconds", 0) for cell in made)
        page = [f"# {self.title}", *parts, f"Made with bcos_peft {__version__}; {facts}. {seconds / 60:.0f} minutes."]
        self.folder.mkdir(parents=True, exist_ok=True)
        _write(self.folder / "results.md", "\n\n".join(page) + "\n")
        print("\n\n".join(page))
        print(f"\nWritten to {self.folder}")


def labels(methods: Sequence) -> list[str]:
    """What tables call these methods: a cell's settings say which it has."""
    return [method if isinstance(method, str) else method.name for method in methods]


def mean(values: Sequence[float]) -> dict:
    """Mean and interval of numbers, as a cell has them."""
    return rounded(asdict(bootstrap_interval(values)))


def rounded(values: dict) -> dict:
    return {
        key: None
        if number is None or number != number
        else float(f"{number:.4g}")
        if isinstance(number, float)
        else number
        for key, number in values.items()
    }


def shown(entry: dict | None, interval: bool = True) -> str:
    """A mean with its interval, as in a table."""
    if entry is None:
        return "–"
    if not interval or entry.get("low") is None:
        return format_number(entry["mean"])
    return str(Interval(**entry))


def table(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 2) -> str:
    lines = [header, ["---"] * left + ["---:"] * (len(header) - left), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def best(values: Sequence[float | None], higher: bool) -> int | None:
    """Place of the best number."""
    known = [i for i, value in enumerate(values) if value is not None]
    return (max if higher else min)(known, key=values.__getitem__) if len(known) > 1 else None


def table_of_means(rows: Sequence[tuple[Sequence[str], Sequence[dict | None]]], header, higher, left: int = 2) -> str:
    """Labels and entries of each row; the best mean of a column, up or down as `higher` says, is bold."""
    columns = list(zip(*(entries for _, entries in rows), strict=True))
    bold = [
        None if way is None else best([None if entry is None else entry["mean"] for entry in column], way)
        for way, column in zip(higher, columns, strict=True)
    ]
    lines = []
    for i, (labels, entries) in enumerate(rows):
        cells = [f"**{shown(entry)}**" if bold[j] == i else shown(entry) for j, entry in enumerate(entries)]
        lines.append([*labels, *cells])
    return table(header, lines, left)


def figure(columns: int, rows: int = 1, height: float = 3.4):
    """An empty figure with panels, to be drawn on with matplotlib."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "studies", "font.size": 9})
    import matplotlib.pyplot as plt

    drawn, panels = plt.subplots(rows, columns, figsize=(3.6 * columns, height * rows), squeeze=False)
    for panel in panels.flatten():
        panel.spines[["top", "right"]].set_visible(False)
    return drawn, panels


def draw(drawn, path: Path, legend=None) -> str:
    """Writes the figure; the line of Markdown that shows it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    room = 0.0
    if legend is not None:
        handles, labels = legend.get_legend_handles_labels()
        drawn.legend(handles, labels, loc="lower center", ncols=min(4, len(labels)), frameon=False, fontsize=8)
        room = 0.2 * (1 + math.ceil(len(labels) / 4)) / drawn.get_figheight()
    drawn.tight_layout(rect=(0, room, 1, 1))
    drawn.savefig(path, metadata={"Date": None})
    return f"![{path.stem.replace('_', ' ')}]({path.name})"


def _write(path: Path, text: str) -> None:
    beside = path.with_suffix(path.suffix + ".new")  # a run that is killed while it writes leaves the old file whole
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)
