"""SmolLM2 before conversion, converted as published, calibrated, and after a short fine-tuning.

    python benchmarks/paper_generation.py                     # made sentences and passages: about an hour on a core
    python benchmarks/paper_generation.py --minimal-pairs FOLDER      # and CSV files: prefix, good, bad, evidence
    python benchmarks/paper_generation.py --blimp anaphor_gender_agreement npi_present_1      # and BLiMP, from the hub
    python benchmarks/paper_generation.py --quick             # a few minutes, small sizes; the figures mean nothing

For every model: the negative log-likelihood of newspaper articles and of chats (nats per token), evidence MRR and
probability gap on minimal pairs, and how often the passage with the answer has the largest contribution. *Published*
converts and changes nothing else; *calibrated* fits the layers on at most 4,096 tokens of movie reviews and 2,048 of
the model's own. *SFT* is a short training on chats about the sentiment of tweets. Models are kept in outputs/studies,
and every figure is written to results/paper_generation/results.json as soon as it is there.
"""

from __future__ import annotations

import os


os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import random
import warnings
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import torch
from studies import COLOURS, Study, draw, figure, labels, mean, options, shown, smaller, table, table_of_means
from study_llms import Models
from study_models import DEVICE
from texts import editorials

from bcos_peft.evaluation import blimp_pairs, evaluate, get_method, ioi_pairs, load_minimal_pairs, planted_answers
from bcos_peft.evaluation.methods import Bcos


LANGUAGE = ("articles", "chats")
AVERAGE = "bcos, average word"  # contributions relative to it
OCCLUSION = "occlusion, average word"  # which stands in the place of a word that is hidden
AFTER = " after "  # in the name of a kind of pairs with a token before each


def arguments(parser) -> None:
    parser.add_argument(
        "--model", help="folder or hub name of a causal language model; default: SmolLM2-135M-Instruct"
    )
    parser.add_argument("--b", type=float, nargs="+", default=[1.1, 1.25, 1.5])
    parser.add_argument("--sft-b", type=float, nargs="*", default=[1.25], help="which of them are fine-tuned")
    parser.add_argument("--only", nargs="+", metavar="MODEL", help="of all these, by their names in tables")
    parser.add_argument("--minimal-pairs", type=Path, help="a folder of CSV files")
    parser.add_argument("--blimp", nargs="*", default=[], help="phenomena of BLiMP, from the hub")
    parser.add_argument(
        "--bos", action="store_true", help="also ask them with the tokenizer's first token before each"
    )
    parser.add_argument("--pairs", type=int, default=60, help="minimal pairs of each kind")
    parser.add_argument("--prompts", type=int, default=40, help="prompts of four passages")
    parser.add_argument("--articles", type=int, default=15, help="articles of 256 tokens")
    parser.add_argument("--chats", type=int, default=30, help="chats to test on")
    parser.add_argument("--sft-steps", type=int, default=30, help="of 8 chats")
    parser.add_argument("--calibration-tokens", type=int, default=4096)
    parser.add_argument("--replay", type=int, default=2048, help="tokens that the model writes for its calibration")
    parser.add_argument("--seed", type=int, default=0)


def language(models: Models, name: str, test: str) -> dict:
    """Nats per token, text by text; of chats also how many answers are right."""
    model, found = models.get(name), {}
    if test == "articles":
        cut = {"truncation": True, "max_length": 256}
        rows = [(models.tokenizer(text, **cut)["input_ids"], 0) for text in editorials()[::3]][: models.found.articles]
    else:
        rows = models.chats["test"]
    answers = sorted({ids[asked] for ids, asked in rows})
    losses, right = [], []
    for ids, asked in rows:
        batch = torch.tensor([ids], device=DEVICE)
        with torch.no_grad():
            output = model(input_ids=batch, labels=batch)
        losses.append(float(output.loss))
        right.append(float(answers[int(output.logits[0, asked - 1, answers].argmax())] == ids[asked]))
    found["nll"] = mean(losses)
    if test == "chats":
        found["answers"] = mean(right)
    return found


@dataclass(frozen=True, kw_only=True)
class GatesHeld(Bcos):
    """Contributions as `BcosConfig(gates="hold")` gives them."""

    name: str = "bcos, gates held"

    def _scores(self, probe):
        config = probe.model.config
        before, config.bcos = config.bcos, config.bcos | {"gates": "hold"}
        try:
            return super()._scores(probe)
        finally:
            config.bcos = before


def methods_of(name: str) -> list:
    if "B=" in name:
        methods = ["bcos", GatesHeld(), get_method("bcos", baseline="average", label=AVERAGE)]
    else:
        methods = ["input_x_gradient", "occlusion", get_method("occlusion", baseline="average", label=OCCLUSION)]
    return [*methods, "random"]


def attribution(study: Study, models: Models, name: str, group: str, rows: list) -> dict:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pairs that this tokenizer cannot ask: the count is in the table
        result = evaluate(
            models.get(name), models.tokenizer, rows, methods_of(name), label=name,
            checkpoint=study.kept / f"{group}.jsonl",
        )  # fmt: skip
    return study.keep(group, name, result)


def evidence(found, bos: str | None) -> dict[str, list]:
    """The minimal pairs by kind. A control: with the tokenizer's first token before each, where it sets none itself.

    Without it the first word of a text is where idle attention rests, and takes a large share of every explanation.
    """
    kinds = {"ioi": ioi_pairs(found.pairs, found.seed)}
    for path in sorted(found.minimal_pairs.glob("*.csv")) if found.minimal_pairs else []:
        pairs = load_minimal_pairs(path)
        kinds[path.stem] = random.Random(found.seed).sample(pairs, min(found.pairs, len(pairs)))
    for phenomenon in found.blimp:
        from datasets import load_dataset

        kinds[phenomenon] = blimp_pairs(load_dataset("nyu-mll/blimp", phenomenon, split="train"), found.pairs)
    if found.bos and bos:
        for kind, pairs in list(kinds.items()):
            kinds[f"{kind}{AFTER}{bos}"] = [replace(pair, prefix=bos + pair.prefix) for pair in pairs]
    return kinds


def report(study: Study) -> None:
    cells = study.cells
    asked = [group for group in cells if group not in (*LANGUAGE, "passages")]
    kinds = [group for group in asked if AFTER not in group]
    names = list(dict.fromkeys(name for group in cells.values() for name in group))
    columns = [("articles", "nll", False), ("chats", "nll", False), ("chats", "answers", True)]
    rows = [([name], [cells.get(g, {}).get(name, {}).get(value) for g, value, _ in columns]) for name in names]
    header = ["Model", "Articles, nats per token ↓", "Chats, nats per token ↓", "Answers right ↑"]
    parts = ["## Language", table_of_means(rows, header, [way for _, _, way in columns], left=1)]
    parts += ["## Evidence", *_evidence(cells, kinds, names), _differences(study, kinds, names)]
    control = [group for group in asked if AFTER in group]
    parts += [*_control(cells, control, names), _differences(study, control, names)]
    parts.append(
        "Evidence MRR: mean reciprocal rank of the word that decides. Probability gap: of the right word over the "
        "wrong one. Passages: how often the one of four that has the answer has the largest contribution. Intervals "
        "are 95 % bootstrap intervals over the examples; one run of each model."
    )
    study.write([*[part for part in parts if part], _plot(study, kinds, names)])


def _evidence(cells: dict, kinds: list[str], names: list[str]) -> list[str]:
    """One table of methods, one of what the models themselves prefer."""
    wanted = [(kind, "evidence_mrr") for kind in kinds] + [("passages", "passage_hit")]
    rows, chance = [], []
    for name in names:
        known = {group: cells.get(group, {}).get(name, {}).get("rows", {}) for group, _ in wanted}
        for method in dict.fromkeys(method for found in known.values() for method in found):
            rows.append(([name, method], [known[group].get(method, {}).get(value) for group, value in wanted]))
    for group, value in wanted:
        found = [cell["chance"].get(value) for cell in cells.get(group, {}).values()]
        chance.append(f"{found[0]:.3f}" if found and found[0] is not None else "–")
    header = ["Model", "Method", *(f"MRR, {kind} ↑".replace("_", " ") for kind in kinds), "Passages, hit@1 ↑"]
    first = table_of_means(rows, header, [True] * len(wanted)) if rows else ""
    first += "\n| | random order, expected | " + " | ".join(chance) + " |" if rows else ""
    lines = []
    for name in names:
        line = [name]
        for group, value in [(kind, "probability_gap") for kind in kinds] + [("passages", "answer_given")]:
            found = next(iter(cells.get(group, {}).get(name, {}).get("rows", {}).values()), {})
            line.append(shown(found.get(value)))
        lines.append(line)
    second = table(["Model", *(f"Gap, {kind}".replace("_", " ") for kind in kinds), "Answer given"], lines, left=1)
    return [first, second]


def _control(cells: dict, kinds: list[str], names: list[str]) -> list[str]:
    """The same pairs where the first word of a text is not the first token."""
    rows = []
    for name in names:
        known = {kind: cells[kind].get(name, {}).get("rows", {}) for kind in kinds}
        for method in dict.fromkeys(method for found in known.values() for method in found):
            rows.append(([name, method], [known[kind].get(method, {}).get("evidence_mrr") for kind in kinds]))
    titles = [kind.partition(AFTER)[0].replace("_", " ") for kind in kinds]
    header = ["Model", "Method", *(f"MRR, {title} ↑" for title in titles)]
    return ["### After the first token", table_of_means(rows, header, [True] * len(kinds))] if rows else []


def _differences(study: Study, kinds: list[str], names: list[str]) -> str:
    rows = []
    for name, mine in product(names, ("bcos", AVERAGE)):
        line = [name, mine]
        for other in ("input_x_gradient", "occlusion", OCCLUSION):
            test = study.compare(kinds, f"{name} + {mine}", f"original + {other}", "evidence_mrr")
            line += ["–", "–"] if test is None else [str(test.difference), f"{test.p_value:.2g}"]
        if line[2] != "–":
            rows.append(line)
    header = ["Evidence MRR of all pairs", "Method"]
    for other in ("input × gradient", "occlusion", OCCLUSION):
        header += [f"less the original's {other}", "p"]
    return table(header, rows) if rows else ""


def _plot(study: Study, kinds: list[str], names: list[str]) -> str:
    drawn, ((*panels,),) = figure(3)
    cells = study.cells

    def level(name: str, group: str, value: str, method: str | None) -> float | None:
        cell = cells.get(group, {}).get(name, {})
        found = cell.get(value) if method is None else cell.get("rows", {}).get(method, {}).get(value)
        return found["mean"] if found else None

    def over_kinds(name: str, method: str) -> float | None:
        found = [level(name, kind, "evidence_mrr", method) for kind in kinds]
        return sum(found) / len(found) if found and None not in found else None

    panels_of = [
        ("Articles, nats per token ↓", lambda name, method: level(name, "articles", "nll", None)),
        ("Evidence MRR, mean of kinds ↑", over_kinds),
        ("Passages, hit@1 ↑", lambda name, method: level(name, "passages", "passage_hit", method)),
    ]
    for panel, (title, read) in zip(panels, panels_of, strict=True):
        drawn_ways = [("published", "bcos")]
        drawn_ways += [("calibrated", method) for method in ("bcos", GatesHeld.name, AVERAGE)]
        for colour, (way, method) in zip(COLOURS, drawn_ways, strict=False):
            mine = [name for name in names if name.endswith(f" {way}") and read(name, method)]
            points = sorted((float(name.split()[0][2:]), read(name, method)) for name in mine)
            label = f"B-cos {way}" + method.removeprefix("bcos")
            if points and not (method != "bcos" and "nats" in title):
                panel.plot(*zip(*points, strict=True), marker="o", markersize=3, color=colour, label=label)
        styles = {"input_x_gradient": "--", "occlusion": "-.", OCCLUSION: (0, (5, 1, 1, 1, 1, 1)), "random": ":"}
        for method, style in styles.items():
            if (value := read("original", method)) is not None:
                panel.axhline(
                    value, color="#333333", linewidth=1, linestyle=style, label=f"original, {method}".replace("_", " ")
                )
        panel.set(
            title=title, xlabel="B", xticks=sorted({float(n.split()[0][2:]) for n in names if n.startswith("B=")})
        )
    return draw(drawn, study.folder / "by_b.svg", legend=panels[1])


def main() -> None:
    found = options(__doc__, arguments)
    smaller(found, b=[1.25], pairs=2, prompts=1, articles=1, chats=2, sft_steps=1, calibration_tokens=256, replay=0)
    study = Study("paper_generation", "A language model: original, as published, calibrated, fine-tuned", found)

    def jobs():
        models = Models(found)
        kinds = evidence(found, models.tokenizer.bos_token)
        passages = planted_answers(found.prompts, passages=4, filler=0, seed=found.seed)
        for name in found.only or models.names():
            made = models.settings(name)
            for test in LANGUAGE:
                yield test, name, {**made, test: vars(found)[test]}, lambda n=name, t=test: language(models, n, t)
            for group, rows in {**kinds, "passages": passages}.items():
                settings = {**made, "examples": len(rows), "seed": found.seed, "methods": labels(methods_of(name))}
                yield group, name, settings, lambda n=name, g=group, r=rows: attribution(study, models, n, g, r)

    study.run(jobs())
    report(study)


if __name__ == "__main__":
    main()
