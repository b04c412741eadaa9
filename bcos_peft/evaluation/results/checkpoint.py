"""A file of records that grows as an evaluation goes on, so that it can be interrupted."""

from __future__ import annotations

import glob
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from bcos_peft._utils.digest import digest
from bcos_peft.evaluation.data import Example
from bcos_peft.evaluation.methods import Cost
from bcos_peft.evaluation.results.record import Record


_START = '{"run": "'  # how each line begins


def fingerprint(model: nn.Module) -> str:
    """A short text that changes with the weights of a model, and with its config.

    Args:
        model (`torch.nn.Module`): any.

    Example:
        >>> from torch import nn
        >>> from bcos_peft.evaluation.results import fingerprint
        >>> fingerprint(nn.Linear(2, 2)) == fingerprint(nn.Linear(2, 2))
        False
    """
    config = getattr(model, "config", None)
    known = config.to_dict() if hasattr(config, "to_dict") else {}
    for name in ("_name_or_path", "transformers_version"):  # where it is kept, and who wrote it
        known.pop(name, None)
    parts: list[Any] = [type(model).__name__, known]
    # Six digits: other machines may add in another order.
    for name, parameter in model.named_parameters():
        wide = parameter.detach().double()
        parts.append(f"{name} {tuple(wide.shape)} {wide.abs().sum():.6g} {wide.sum():.6g}")
    return digest(parts)


def asked(example: Example) -> str:
    """The key of an example, and what changes with all that is asked about it.

    The key alone is of the text. Another tokenizer, another cut or other labels make other questions of it.

    Args:
        example ([`Example`]): of a metric.

    Example:
        >>> import torch
        >>> from bcos_peft.evaluation import Question
        >>> from bcos_peft.evaluation.results import asked
        >>> from bcos_peft.evaluation.data import Example
        >>> one, other = (Example("3f", "A film.", (Question(torch.tensor([1, 2]), target),)) for target in (0, 1))
        >>> asked(one) == asked(other)
        False
    """
    questions = [[one.input_ids, one.target, one.foil, one.special, one.extra] for one in example.questions]
    return f"{example.key} {digest([questions, example.data])}"


class Checkpoint:
    """Records of earlier runs, by what they were made with; new ones are added to the file.

    Args:
        path (`str` or `os.PathLike`, *optional*): a file of JSON lines. `None`: nothing is kept.
        process (`int`, defaults to 0): of several that share an evaluation. Each reads what all have written, and
            those after the first write to a file of their own beside it, `name.process-1.jsonl`.

    Raises:
        ValueError: the file is something else; nothing is added to it.

    Example:
        >>> from bcos_peft.evaluation import Cost, Record
        >>> from bcos_peft.evaluation.results import Checkpoint
        >>> run = {"weights": "", "model": "m", "method": "ig", "method_settings": {}, "metric": "seqpg"}
        >>> record = Record("m", "ig", "seqpg", "3f", {"seqpg": 0.5})
        >>> Checkpoint("run.jsonl").add(run, {"3f": record}, "ig", Cost())
        >>> Checkpoint("run.jsonl").record(run, "3f") == record
        True
    """

    def __init__(self, path: str | os.PathLike | None, process: int = 0):
        self._path = None if path is None else Path(path)
        self._records: dict[tuple[str, str], Record] = {}
        self._costs: dict[str, Cost] = {}
        self._seen: dict[str, Cost] = {}
        if self._path is None:
            return
        others = self._path.parent.glob(f"{glob.escape(self._path.stem)}.process-*{glob.escape(self._path.suffix)}")
        for file in [self._path, *sorted(others)]:
            # A run that was killed while it wrote may leave half a line, and half a letter.
            text = file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
            for number, line in enumerate(text.split("\n"), start=1):  # splitlines() would cut at more than that
                if not line.startswith(_START) and not _START.startswith(line):
                    raise ValueError(
                        f"line {number} of checkpoint={os.fspath(file)!r} is none that evaluate wrote: {line!r:.60}; "
                        "choose another file, one that is new."
                    )
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue
                self._read(entry)
        if process:
            self._path = self._path.with_name(f"{self._path.stem}.process-{process}{self._path.suffix}")

    def has(self, run: dict[str, Any], key: str) -> bool:
        """Whether there is a record of an example, as [`asked`] calls it."""
        return (digest(run), key) in self._records

    def record(self, run: dict[str, Any], key: str) -> Record:
        """The record of an example."""
        return self._records[digest(run), key]

    def add(self, run: dict[str, Any], records: dict[str, Record], method: str, cost: Cost) -> None:
        """Keeps records by their keys, and what the method has cost since the last time."""
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        before = self._seen.get(method, Cost())
        new = {
            name: value if name == "peak_memory" else value - getattr(before, name)
            for name, value in asdict(cost).items()
        }
        self._seen[method] = Cost(**asdict(cost))
        kept = {key: asdict(record) for key, record in records.items()}
        entry = {"run": digest(run), "records": kept, "row": _row(run), "cost": new}
        text = json.dumps(entry, ensure_ascii=False) + "\n"
        with open(self._path, "a+b") as file:
            if file.tell() and not _ends_with_newline(file):
                text = "\n" + text
            file.write(text.encode("utf-8"))
        self._keep(json.loads(text))

    def cost(self, cost: Cost, run: dict[str, Any]) -> Cost:
        """What a method has cost in this run, and in the runs that were in the file when it began."""
        return self._costs.get(digest(_row(run)), Cost()) + cost

    def _keep(self, entry: dict[str, Any]) -> None:
        for key, record in entry["records"].items():
            self._records[entry["run"], key] = Record(**record)

    def _read(self, entry: dict[str, Any]) -> None:
        if not isinstance(entry.get("records"), dict):
            return  # of an older version, which did not say what was asked
        self._keep(entry)
        row = digest(entry["row"])
        self._costs[row] = self._costs.get(row, Cost()) + Cost(**entry["cost"])


def _row(run: dict[str, Any]) -> list:
    """What a method's costs are counted for, whatever the metric: the same method with other options costs other."""
    return [run[name] for name in ("weights", "model", "method", "method_settings")]


def _ends_with_newline(file) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"
