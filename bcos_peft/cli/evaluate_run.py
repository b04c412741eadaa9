"""The command `bcos-peft evaluate run`: methods and metrics on one or more models, into a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from bcos_peft._utils.processes import Processes, launched
from bcos_peft.cli.errors import _clean_errors
from bcos_peft.cli.inputs import _check_device, _choice, _columns
from bcos_peft.cli.loading import _load_any
from bcos_peft.cli.options import _Revision


def _run(
    models: Annotated[
        list[str],
        typer.Argument(help="Models, converted or not: directories or names of the hub, or LABEL=MODEL for tables."),
    ],
    data: Annotated[
        str,
        typer.Option(
            help="A file (.txt, .csv, .tsv, .json, .jsonl), a data set of the hub, or ioi or planted (made)."
        ),
    ],
    output: Annotated[Path, typer.Option(help="The folder for the results; an interrupted run goes on from there.")],
    method: Annotated[
        list[str] | None, typer.Option(help="An attribution method; may be given several times.")
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="A metric; may be given several times. Default: what fits the data.")
    ] = None,
    compare: Annotated[
        list[str] | None, typer.Option(help="'MODEL + METHOD'; given twice, the two are compared by a paired test.")
    ] = None,
    data_config: Annotated[str | None, typer.Option(help="The configuration of a data set of the hub.")] = None,
    split: Annotated[str, typer.Option(help="The split of a data set of the hub.")] = "test",
    text_column: Annotated[list[str] | None, typer.Option(help="The column with the texts; two for pairs.")] = None,
    label_column: Annotated[str | None, typer.Option(help="The column with the right classes.")] = None,
    target: Annotated[str, typer.Option(help="predicted, label (each text's own), or a class.")] = "predicted",
    perturbation: Annotated[
        str | None, typer.Option(help="What becomes of perturbed tokens: mask, pad or delete.")
    ] = None,
    pairs: Annotated[
        Path | None, typer.Option(help="Pairs for the metric seqpg; the file is written if it does not exist.")
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="So many rows of the data, drawn by chance.")] = None,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
    plot: Annotated[bool, typer.Option("--plot", help="Also draw results.png, which needs matplotlib.")] = False,
    device: Annotated[
        str | None, typer.Option(help="Such as cuda. Default: cpu, and under accelerate launch each process's own.")
    ] = None,
    revision: _Revision = None,
) -> None:
    """Measure how good the explanations of one or more models are."""
    with _clean_errors(), Processes(share=launched()) as processes:
        if pairs is not None and metric and "seqpg" not in metric:
            raise ValueError(f"--pairs is for the metric seqpg, and --metric asks for {', '.join(metric)}; add seqpg.")
        if compare and len(compare) != 2:
            raise ValueError(f"--compare is given {len(compare)} times; it takes the two rows to compare.")
        from bcos_peft.evaluation import evaluate
        from bcos_peft.evaluation.data import load_rows
        from bcos_peft.evaluation.results import EvaluationResult, find_row
        from bcos_peft.models import Labels

        first = processes.index == 0
        device = device or _own_device()
        _check_device(device)
        rows, labels = load_rows(data, data_config, split, _columns(text_column), label_column, count, seed)
        loaded = [_load(entry, revision) for entry in models]
        names = [name for name, *_ in loaded]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"Two models are called {twice!r} in tables; give them others: LABEL=MODEL.")
        methods = [_fitting(method, model, [model for _, model, _ in loaded]) for _, model, _ in loaded]
        for row in compare or []:  # a name that is mistyped should not cost a run
            find_row([(name, one) for name, fitting in zip(names, methods, strict=True) for one in fitting], row)
        judges = _metrics(metric, perturbation, pairs, loaded, rows, labels, seed, device, first)
        if labels is not None:
            rows = {"text": rows, "label": labels}
        output.mkdir(parents=True, exist_ok=True)
        results = [
            evaluate(
                model.to(device),
                tokenizer,
                rows,
                fitting,
                judges,
                label=name,
                text_column=None if labels is None else "text",
                label_column=None if labels is None else "label",
                target=_choice(target, Labels(model, tokenizer)),
                seed=seed,
                checkpoint=output / "records.jsonl",
                distributed=processes.count > 1,
            )
            for (name, model, tokenizer), fitting in zip(loaded, methods, strict=True)
        ]
        if not first:  # the first process has the same, and writes it
            return
        result = EvaluationResult.merge(results)
        result.save(output, plot)
        tests = [(value, result.compare(*compare, value)) for value in _shared(result, compare)] if compare else []
    result.show()
    for value, test in tests:
        count = test.difference.count
        typer.echo(f"{compare[0]} less {compare[1]}: {value} {test.difference}, p = {test.p_value:.3g}, n = {count}")
    typer.echo(f"Saved in {output}")


def _own_device() -> str:
    """The device that a launcher has for this process; without one the CPU."""
    if not launched():
        return "cpu"
    from accelerate import PartialState  # it is what launched it, or Processes has asked for it

    return str(PartialState().device)


def _metrics(names, perturbation, pairs, loaded, rows, labels, seed, device, first):
    """Metrics with their options; the pointing game has pairs that all models are sure of, so that they compare."""
    from bcos_peft.evaluation.data import Texts, build_pairs, load_pairs, save_pairs
    from bcos_peft.evaluation.metrics import get_metric

    perturbing = ("comprehensiveness", "sufficiency")
    if not names and perturbation is None and pairs is None:
        return None
    found = []
    for name in names or [*perturbing, *(["seqpg"] if pairs else [])]:
        options = {"perturbation": perturbation} if name in perturbing else {}
        if name == "seqpg" and pairs is not None and pairs.exists():
            options["pairs"] = load_pairs(pairs)
        elif name == "seqpg":
            texts = [Texts(model.to(device), tokenizer, rows, labels) for _, model, tokenizer in loaded]
            options["pairs"] = build_pairs(texts, seed=seed)
            if pairs is not None and first:
                save_pairs(options["pairs"], pairs)
        found.append(get_metric(name, **options))
    return found


def _shared(result, rows: list[str]) -> list[str]:
    """The numbers that two rows have both, and of which one can be better."""
    return [
        name
        for name, value in result.values.items()
        if value.higher_is_better is not None and all(result.examples(name, row) for row in rows)
    ]


def _load(entry: str, revision: str | None) -> tuple:
    """The label of a model in tables, the model, and its tokenizer."""
    from bcos_peft.models import BcosModel

    label, separator, name = ("", "", entry) if Path(entry).is_dir() else entry.partition("=")
    model, tokenizer = _load_any(name if separator else entry, revision)
    return (label if separator else "B-cos" if isinstance(model, BcosModel) else "conventional"), model, tokenizer


def _fitting(methods: list[str] | None, model, models: list) -> Sequence[str]:
    """The methods for one of the models: `bcos` is for converted ones, of which there has to be one."""
    from bcos_peft.evaluation import default_methods
    from bcos_peft.models import BcosModel

    if methods is None:
        return default_methods(model)
    if isinstance(model, BcosModel) or "bcos" not in methods:
        return methods
    if not any(isinstance(other, BcosModel) for other in models):
        raise ValueError("--method bcos needs a converted model: bcos-peft convert makes one.")
    left = [name for name in methods if name != "bcos"]
    if not left:
        raise ValueError("--method bcos alone leaves nothing to do for a model that is not converted; name another.")
    return left
