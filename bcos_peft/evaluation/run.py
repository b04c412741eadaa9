"""`evaluate`: methods and metrics on a model and a dataset, in one call."""

from __future__ import annotations

import json
import math
import os
import platform
import sys
import warnings
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor, nn

from bcos_peft._utils.arguments import checked_arguments
from bcos_peft._utils.imports import import_extra
from bcos_peft._utils.processes import Processes
from bcos_peft.evaluation.arguments import _refuse_twice, _several
from bcos_peft.evaluation.data import Example, MinimalPair, PlantedAnswer, Rationale, Texts, read_dataset
from bcos_peft.evaluation.methods import Cost, Metered, get_method
from bcos_peft.evaluation.metrics import Metric, get_metric
from bcos_peft.evaluation.questions import Question, as_scores, check_scores
from bcos_peft.evaluation.results import Checkpoint, EvaluationResult, Record, asked, fingerprint
from bcos_peft.models import BcosModel


_CHUNK = 16  # examples that are measured, and written to a checkpoint, at a time
_DEFAULTS = {
    MinimalPair: ("contrastive_evidence",),
    PlantedAnswer: ("passage_attribution",),
    Rationale: ("plausibility",),
}


@checked_arguments
def evaluate(
    model: nn.Module,
    tokenizer,
    dataset: Iterable,
    methods: Sequence | None = None,
    metrics: Sequence[str | Metric] | None = None,
    *,
    label: str | None = None,
    text_column: str | tuple[str, str] | None = None,
    label_column: str | None = None,
    target: int | str = "predicted",
    count: int | None = None,
    seed: int = 0,
    truncation: bool = True,
    checkpoint: str | os.PathLike | None = None,
    confidence: float = 0.95,
    progress: bool | None = None,
    distributed: bool = False,
) -> EvaluationResult:
    """How good are the explanations that methods give of a model, by some metrics, on a dataset?

    Args:
        model (`torch.nn.Module`): a sequence classifier or a causal language model, converted or not, on any device.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): its tokenizer.
        dataset (`Iterable`): texts or pairs of texts; rows, a `datasets.Dataset` or a pandas DataFrame with
            `text_column`; or a list of [`MinimalPair`], [`PlantedAnswer`] or [`Rationale`], for the metrics that need
            these.
        methods (`Sequence`, *optional*): names as of [`get_method`], or callables `(model, question) -> (length,)`
            scores (a tensor, array or list), with a `name`. Default: the exact contributions of a converted model,
            input × gradient of others, and random scores.
        metrics (`Sequence[str | Metric]`, *optional*): names as of [`get_metric`], or metrics. Default: what fits the
            dataset; for texts comprehensiveness and sufficiency.
        label (`str`, *optional*): what tables call the model. Default: "B-cos" or "conventional".
        text_column (`str` or a pair, *optional*): the column with the texts, or the two with the texts of pairs.
        label_column (`str`, *optional*): the column with the right classes.
        target (`int` or `str`, defaults to `"predicted"`): the explained class; `"label"`: each text's own.
        count (`int`, *optional*): so many rows of the dataset, drawn by chance. Default: all.
        seed (`int`, defaults to 0): of the draw.
        truncation (`bool`, defaults to `True`): cut texts that are too long for the model.
        checkpoint (`str` or `os.PathLike`, *optional*): a file to which results are added as they come. A call with
            the same file, after an interruption, goes on from there. What was made with other weights, options,
            tokens, targets or scores is left aside; methods of your own are known by their name and `settings`.
        confidence (`float`, defaults to 0.95): of the intervals.
        progress (`bool`, *optional*): show a progress bar. Default: in a terminal.
        distributed (`bool`, defaults to `False`): share the examples with the other processes of `accelerate launch`
            or `torchrun`. Each of them has to make the same call, with a model of its own, and gets the whole result.

    Returns:
        [`EvaluationResult`]

    Raises:
        ValueError: there is no such method, metric or column, the dataset, `methods` or `metrics` is empty, or two
            methods or metrics have the same name.
        TypeError: a row is not of the kind that a metric needs, or `methods` or `metrics` is no list.
        ImportError: scipy is not installed, or what a method needs.

    Example:
        >>> from transformers import AutoModelForSequenceClassification, AutoTokenizer
        >>> from bcos_peft.evaluation import evaluate
        >>> name = "distilbert/distilbert-base-uncased-finetuned-sst-2-english"
        >>> model = AutoModelForSequenceClassification.from_pretrained(name)
        >>> texts = ["A gripping film.", "Two hours that I shall not get back."]
        >>> result = evaluate(model, AutoTokenizer.from_pretrained(name), texts, ["saliency", "random"])
        >>> result.rows
        [('conventional', 'saliency'), ('conventional', 'random')]
    """
    methods, metrics = _several(methods, "methods"), _several(metrics, "metrics")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}; 95 % is 0.95.")
    import_extra("scipy.stats", "Intervals need")  # said before hours of measuring, not after
    items, labels = read_dataset(dataset, text_column, label_column, count, seed)
    converted = any(isinstance(module, BcosModel) for module in model.modules())
    label = label or ("B-cos" if converted else "conventional")
    if methods is None:
        methods = default_methods(model)
    if metrics is None:
        metrics = _DEFAULTS.get(type(items[0]), ("comprehensiveness", "sufficiency"))
    runners = [_metered(get_method(one, tokenizer) if isinstance(one, str) else one) for one in methods]
    judges = [get_metric(one) if isinstance(one, str) else one for one in metrics]
    _refuse_twice([method.name for method in runners], "methods", "get_method(..., label=...)")
    _refuse_twice([metric.name for metric in judges], "metrics", "label=... where the metric has it")
    _refuse_twice([name for metric in judges for name in metric.values], "the metrics' numbers", "another label=...")
    texts = Texts(model, tokenizer, items, labels, target, truncation)
    tasks = [(metric, metric.examples(texts)) for metric in judges]
    settings = _settings(model, label, runners, judges, tasks, target, seed, converted)
    processes = Processes(distributed)
    saved = Checkpoint(checkpoint, processes.index)
    processes.gather(None)  # all have read what earlier runs left before one of them adds to it
    result = EvaluationResult(
        records=[],
        values={name: value for metric in judges for name, value in metric.values.items()},
        texts={example.key: example.text for _, examples in tasks for example in examples},
        settings=[settings],
        confidence=confidence,
    )
    identity = fingerprint(model)
    shares = [(metric, processes.mine(examples)) for metric, examples in tasks]
    total = len(runners) * sum(len(examples) for _, examples in shares)
    with _bar(total, progress if processes.index == 0 else False, label) as bar:
        for method in runners:
            scores: dict[int, Tensor] = {}  # of questions that several metrics share
            again = 0
            # All metrics before the next examples: scores are not in the file, and few are lost by an interruption.
            for start in range(0, max(len(examples) for _, examples in shares), _CHUNK):
                for metric, examples in shares:
                    run = _run(identity, label, method, metric, tokenizer)
                    part = examples[start : start + _CHUNK]
                    again += _measure(model, method, metric, part, label, run, scores, saved, result.records)
                    bar.update(len(part))
            if again and not _knows_its_settings(method):
                warnings.warn(
                    f"{again} records of {method.name!r} are those that {os.fspath(checkpoint)!r} had. The method has "
                    "no dict of settings, so nothing tells whether it has changed since: give it one, or a new file.",
                    stacklevel=2,
                )
    spent = processes.gather([method.cost for method in runners])
    for i, method in enumerate(runners):
        run = _run(identity, label, method, judges[0], tokenizer)
        cost = saved.cost(sum((costs[i] for costs in spent), Cost()), run)
        result.costs[f"{label} + {method.name}"] = cost.to_dict()
    records = [record for part in processes.gather(result.records) for record in part]
    result.records = _in_order(records, runners, tasks)
    return result


def default_methods(model: nn.Module) -> tuple[str, ...]:
    """What a model is explained with where nobody says otherwise."""
    converted = any(isinstance(module, BcosModel) for module in model.modules())
    return "bcos" if converted else "input_x_gradient", "random"


def _measure(model, method, metric, part: list[Example], label, run, scores, saved: Checkpoint, records: list) -> int:
    """Adds the records of some examples, from the checkpoint or new; says how many the checkpoint had."""
    keys = {example.key: asked(example) for example in part}
    new = [example for example in part if not saved.has(run, keys[example.key])]
    records += [saved.record(run, key) for key in keys.values() if saved.has(run, key)]
    if not new:
        return len(part)
    given = [[_scores(model, method, question, scores) for question in example.questions] for example in new]
    # What a metric asks of the method besides is no cost of an explanation.
    rows = metric.measure(model, new, given, method.method)
    found = []
    for example, row in zip(new, rows, strict=True):
        values = {name: float(row[name]) for name in metric.values if name in row}
        for name, value in values.items():
            if not math.isfinite(value):
                raise ValueError(
                    f"The metric {metric.name!r} gave {name}={value} for {method.name!r} on the example "
                    f"{example.key!r}: no mean has such a number. Leave out what an example does not have."
                )
        details = {name: value for name, value in row.items() if name not in metric.values}
        chance = {name: value for name, value in example.chance.items() if name in values}
        found.append(Record(label, method.name, metric.name, example.key, values, chance, details))
    saved.add(run, {keys[record.example]: record for record in found}, method.name, method.cost)
    records += found
    return len(part) - len(new)


def _scores(model: nn.Module, method: Metered, question: Question, known: dict[int, Tensor]) -> Tensor:
    if id(question) not in known:
        source = f"The scores of {method.name!r}"
        values = as_scores(method(model, question), source)
        check_scores(question, values, source)
        known[id(question)] = values
    return known[id(question)]


def _metered(method) -> Metered:
    if not callable(method) or not isinstance(getattr(method, "name", None), str):
        raise TypeError(
            f"A method must be a name or a callable (model, question) with a name, got {type(method).__name__}."
        )
    return method if isinstance(method, Metered) else Metered(method)


def _run(identity: str, label: str, method: Metered, metric: Metric, tokenizer) -> dict[str, Any]:
    """What a record of a checkpoint must have been made with, besides what was asked, to be used again."""
    return {
        "weights": identity,
        "model": label,
        "method": method.name,
        "method_settings": _plain_settings(method),
        "metric": metric.name,
        "metric_settings": metric.settings(),
        "fill": [tokenizer.mask_token_id, tokenizer.pad_token_id],  # what metrics put where a word was
    }


def _knows_its_settings(method: Metered) -> bool:
    return isinstance(getattr(method, "settings", None), dict)


def _plain_settings(method: Metered) -> dict[str, Any]:
    return method.settings if _knows_its_settings(method) else {}


def _settings(model, label, methods, metrics, tasks, target, seed, converted) -> dict[str, Any]:
    config = getattr(model, "config", None)
    device = next(model.parameters()).device
    found = {
        "model": label,
        "class": type(model).__name__,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "bcos": getattr(config, "bcos", None) if converted else None,
        "methods": {method.name: _plain_settings(method) for method in methods},
        "metrics": {metric.name: metric.settings() for metric in metrics},
        "examples": {metric.name: len(examples) for metric, examples in tasks},
        "target": target,
        "seed": seed,
        "versions": {name: _version(name) for name in ("bcos-peft", "torch", "transformers", "captum")}
        | {"python": platform.python_version()},
        "machine": {
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
            "threads": torch.get_num_threads(),
            "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        },
    }
    return json.loads(json.dumps(found, default=str))  # as it will be read back


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _in_order(records: list[Record], methods: list, tasks: list[tuple[Metric, list[Example]]]) -> list[Record]:
    """By method, metric and example, in the order asked for, whoever made them and whatever a checkpoint had."""
    first = {method.name: i for i, method in enumerate(methods)}
    second = {metric.name: i for i, (metric, _) in enumerate(tasks)}
    third = {(metric.name, example.key): i for metric, examples in tasks for i, example in enumerate(examples)}

    def place(record: Record) -> tuple[int, int, int]:
        return first[record.method], second[record.metric], third[record.metric, record.example]

    return sorted(records, key=place)


def _bar(total: int, progress: bool | None, label: str):
    from tqdm.auto import tqdm

    hidden = not sys.stderr.isatty() if progress is None else not progress
    return tqdm(total=total, desc=f"Evaluating {label}", unit="example", disable=hidden)
