"""Tables and plots of the study of similarity."""

from __future__ import annotations

from studies import COLOURS, Study, draw, figure, table, table_of_means


MODELS = ("B-cos", "stock")
TITLES = {"comprehensiveness": "Comprehensiveness", "sufficiency": "Sufficiency"}
# Not masked in both: two texts of mask tokens are close for these alone, whatever was hidden. results.json has it.
VALUES = {
    f"{what}_{way}": f"{title}, {done}"
    for way, done in (("delete", "left out of both"), ("delete_one", "left out of one"), ("mask_one", "masked in one"))
    for what, title in TITLES.items()
}
POINTING = {"pointing": "Pointing game", "pointing_share": "Share of the right half"}


def report(study: Study) -> None:
    parts = []
    for source, cells in study.cells.items():
        if source == "costs":
            continue
        parts.append(f"## {source.capitalize()}")
        parts += [means(cells, values) for values in grouped()]
        parts.append("Means of falls of the cosine over 10 to 50 % of the words; 95 % intervals.")
        parts.append(differences(study, source, cells))
        parts.append(plot(study, source, cells))
    if cells := study.cells.get("costs"):
        parts += ["## What a pair costs", costs(cells)]
    study.write(parts)


def grouped() -> list[dict[str, str]]:
    """Numbers of a table each."""
    return [*({value: name for value, name in VALUES.items() if value.startswith(what)} for what in TITLES), POINTING]


def higher(value: str) -> bool:
    return not value.startswith("sufficiency")


def means(cells: dict, values: dict[str, str]) -> str:
    """A row for each method; the best of each model is bold, since a model's numbers depend on it too."""
    parts = []
    header = [
        "Model",
        "Method",
        "Pairs",
        *(f"{title} {'↑' if higher(value) else '↓'}" for value, title in values.items()),
    ]
    for model in MODELS:
        rows = [
            ([model, method, cell["settings"]["pairs"]], [numbers.get(value) for value in values])
            for name, cell in cells.items()
            if name.startswith(f"{model}, ")
            for method, numbers in cell["rows"].items()
        ]
        if rows:
            alike = len({labels[2] for labels, _ in rows}) == 1  # else means cannot be ranked
            ways = [higher(value) if alike else None for value in values]
            lines = table_of_means(rows, header, ways, left=3).split("\n")
            parts += lines if not parts else lines[2:]
    return "\n".join(parts)


def differences(study: Study, source: str, cells: dict) -> str:
    """Contributions less each other method on the same model, pair by pair."""
    rows = []
    shown = {value: title for value, title in VALUES.items() if value.startswith("comprehensiveness")}
    shown |= {"sufficiency_delete": "Sufficiency, left out of both", "pointing": "Pointing game"}
    for model, own in (("B-cos", "bcos"), ("stock", "detached")):
        for other in (
            method for name, cell in cells.items() if name.startswith(f"{model}, ") for method in cell["rows"]
        ):
            if other == own or f"{model}, {own}" not in cells:
                continue
            line = [f"{model}: {own}", other]
            for value in shown:
                test = study.compare([source], f"{model} + {own}", f"{model} + {other}", value)
                line += ["–", "–"] if test is None else [str(test.difference), f"{test.p_value:.2g}"]
            rows.append(line)
    header = ["Contributions", "less"]
    for title in shown.values():
        header += [title, "p"]
    return table(header, rows) if rows else ""


def costs(cells: dict) -> str:
    rows = []
    for model, cell in cells.items():
        for method, cost in cell["costs"].items():
            sign = "≈ " if cost["estimated"] else ""
            numbers = [f"{sign}{cost[key]:.3g}" for key in ("milliseconds", "ratio", "forward", "backward")]
            rows.append([model, method, *numbers, str(cost["pairs"])])
    header = ["Model", "Method", "Milliseconds", "Times the sums of contributions", "Forwards", "Backwards", "Pairs"]
    return table(header, rows)


def plot(study: Study, source: str, cells: dict) -> str:
    """A line for each method on each model, a panel for each of the main numbers."""
    values = ["comprehensiveness_delete", "comprehensiveness_delete_one", "pointing"]
    titles = [{**VALUES, **POINTING}[value] for value in values]
    drawn, ((*panels,),) = figure(3, height=1 + 0.26 * len(cells))
    for i, (panel, title, value) in enumerate(zip(panels, titles, values, strict=True)):
        for place, (name, cell) in enumerate(cells.items()):
            (numbers,) = cell["rows"].values()
            entry, colour = numbers.get(value), COLOURS[0 if name.startswith("B-cos") else 7]
            panel.plot(entry["mean"], place, "o", color=colour, markersize=4)
            if entry["low"] is not None:
                panel.plot([entry["low"], entry["high"]], [place, place], color=colour, linewidth=1)
        panel.set_yticks(range(len(cells)), cells if i == 0 else [""] * len(cells), fontsize=8)
        panel.set(title=f"{title} {'↑' if higher(value) else '↓'}", ylim=(len(cells) - 0.5, -0.5))
    return draw(drawn, study.folder / f"{source}.svg")
