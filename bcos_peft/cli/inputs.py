"""What the commands are given: texts, columns, a device, a target."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from bcos_peft.models import Labels


_TABLES = (".csv", ".tsv", ".json", ".jsonl")


def _read_lines(file: str) -> list[str]:
    """The texts of a file, one on each line that is not blank; `-` is standard input, read in the same way.

    Raises:
        ValueError: it is not UTF-8.
    """
    data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    try:
        # Windows puts a mark in front, and ends lines otherwise.
        text = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig").read()
    except UnicodeDecodeError:
        raise ValueError(f"{file!r} is not UTF-8 text.") from None
    # Not splitlines(), which cuts within texts too.
    return [line for line in text.split("\n") if line.strip()]


def _read_texts(file: str, text_column: list[str] | None) -> list:
    """The texts in a column of a table, or in two, as pairs; or those of any other file, as `_read_lines`.

    Raises:
        ValueError: it cannot be read, or has no such column.
    """
    if Path(file).suffix.lower() in _TABLES:
        from bcos_peft.evaluation.data import load_rows

        return load_rows(file, text_column=_columns(text_column))[0]
    if text_column:
        raise ValueError(f"--text-column is for tables ({', '.join(_TABLES)}), and {file!r} is none.")
    return _read_lines(file)


def _columns(text_column: list[str] | None) -> str | tuple[str, ...] | None:
    """What `--text-column` was given: nothing, a column, or those of pairs."""
    return None if not text_column else text_column[0] if len(text_column) == 1 else tuple(text_column)


def _check_device(device: str) -> None:
    """Refuses a device that is not there, before a model is loaded for it.

    Raises:
        ValueError: torch cannot use it.
    """
    import torch

    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:
        raise ValueError(f"--device {device} cannot be used here: {str(error).splitlines()[0]}") from None


def _choice(value: str | None, labels: Labels) -> str | int | None:
    """A target or foil as it was typed: a number, unless the model has a label of that name. Of a language model
    numbers are token ids; in quotes (`'"44"'`) a number is the text that follows."""
    if value is not None and labels.of_tokens and value[:1] == value[-1:] == '"' and value[1:-1].isdecimal():
        return value[1:-1]
    return value if value is None or not value.isdecimal() or value in labels else int(value)
