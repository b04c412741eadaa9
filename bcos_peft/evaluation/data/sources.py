"""Datasets by name, for the command line: files, data sets of the hub, and made ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bcos_peft.evaluation.data.dataset import read_dataset
from bcos_peft.evaluation.data.minimal_pairs import blimp_pairs, ioi_pairs, load_minimal_pairs
from bcos_peft.evaluation.data.planted import planted_answers
from bcos_peft.evaluation.data.rationales import hatexplain_rationales
from bcos_peft.evaluation.data.tables import _read_table


_ENDINGS = (".txt", ".csv", ".tsv", ".json", ".jsonl")


def load_rows(
    name: str,
    config: str | None = None,
    split: str = "test",
    text_column: str | tuple[str, str] | None = None,
    label_column: str | None = None,
    count: int | None = None,
    seed: int = 0,
) -> tuple[list, list | None]:
    """Texts or other rows, and their labels, from a name.

    Args:
        name (`str`): a file (`.txt` with a text on each line; `.csv`, `.tsv`, `.json` or `.jsonl` with columns;
            minimal pairs as `.csv` with prefix, good, bad and evidence), `"ioi"` or `"planted"` for made sentences, or
            a data set of the hub. BLiMP (`nyu-mll/blimp`) gives minimal pairs, HateXplain rationales.
        config (`str`, *optional*): of a data set of the hub, such as BLiMP's phenomenon.
        split (`str`, defaults to `"test"`): of a data set of the hub.
        text_column (`str` or a pair, *optional*): the column with the texts. Default: "text".
        label_column (`str`, *optional*): the column with the labels.
        count (`int`, *optional*): how many, drawn by chance (made ones: how many are made, 100 by default).
        seed (`int`, defaults to 0): of the draw.

    Raises:
        ValueError: there is no such file or column, nothing in it, or it cannot be read; or columns are named of data
            that have none.

    Example:
        >>> from bcos_peft.evaluation.data import load_rows
        >>> rows, labels = load_rows("planted", count=2)
        >>> len(rows), labels
        (2, None)
    """
    if text_column is not None and not isinstance(text_column, str) and len(text_column) != 2:
        raise ValueError(
            f"--text-column is given {len(text_column)} times, {', '.join(text_column)}; it takes the column with the "
            "texts, or the two with the texts of pairs."
        )
    if name in ("ioi", "planted"):
        _refuse_columns(name, text_column, label_column)
    if name == "ioi":
        return ioi_pairs(count or 100, seed), None
    if name == "planted":
        return planted_answers(count or 100, seed=seed), None
    rows: Any
    if Path(name).suffix.lower() in _ENDINGS:
        rows = _file(Path(name))
    else:
        rows = load_hub_data(name, config, split=split)
        if name.rpartition("/")[2].lower() == "blimp":
            rows = blimp_pairs(rows)
        elif name.rpartition("/")[2].lower() == "hatexplain":
            rows = hatexplain_rationales(rows)
    columns = getattr(rows, "column_names", None)
    if isinstance(rows, list) and all(isinstance(row, dict) for row in rows):
        columns = list(dict.fromkeys(name for row in rows for name in row))
    if columns is None:
        _refuse_columns(name, text_column, label_column)
        return read_dataset(rows, count=count, seed=seed)
    text_column = text_column or "text"
    missing = [one for one in ([text_column] if isinstance(text_column, str) else text_column) if one not in columns]
    if missing:
        raise ValueError(f"{name!r} has no column {missing[0]!r}; say with --text-column which of {columns} it is.")
    return read_dataset(rows, text_column, label_column, count, seed)


def load_hub_data(name: str, *arguments, **options):
    """`datasets.load_dataset`, also for old data sets that are a script, such as HateXplain.

    Since release 4, `datasets` runs no scripts. The hub keeps a copy in Parquet of most of them, in the branch
    `refs/convert/parquet`, and that is read instead.

    Args:
        name (`str`): of the data set.
        *arguments (`Any`): as for `load_dataset`.
        **options (`Any`): as for `load_dataset`.

    Raises:
        ValueError: it is a script, and there is no such copy.

    Example:
        >>> from bcos_peft.evaluation.data import load_hub_data
        >>> load_hub_data("stanfordnlp/imdb", split="test").column_names
        ['text', 'label']
    """
    from datasets import load_dataset

    try:
        return load_dataset(name, *arguments, **options)
    except RuntimeError as error:
        if "scripts are no longer supported" not in str(error):
            raise
    try:
        return load_dataset(name, *arguments, **{**options, "revision": "refs/convert/parquet"})
    except (OSError, ValueError) as error:  # no such branch or configuration, or no network
        raise ValueError(
            f"{name!r} is a data set with a script, which datasets runs no longer, and its copy in Parquet (revision "
            f"refs/convert/parquet) cannot be read: {error}. Download it, and give a .csv or .jsonl file."
        ) from error


def _refuse_columns(name: str, text_column: str | tuple[str, str] | None, label_column: str | None) -> None:
    for option, value in (("--text-column", text_column), ("--label-column", label_column)):
        if value is not None:
            raise ValueError(
                f"{option} is {value!r}, but {name!r} has no columns; leave it away, or give a file that has them "
                "(.csv, .tsv, .json or .jsonl)."
            )


def _file(path: Path) -> list:
    if not path.exists():
        raise ValueError(f"There is no file {str(path)!r}.")
    ending = path.suffix.lower()
    try:
        # Spreadsheets write a mark (BOM) in front, which is no part of the first column's name.
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{str(path)!r} is no UTF-8 text: {error}. Save it as UTF-8 (in a spreadsheet: 'CSV UTF-8')."
        ) from error
    if ending == ".txt":
        # Not splitlines, here and below: it also cuts at separators inside a text.
        rows: list = [line for line in text.split("\n") if line.strip()]
    elif ending == ".json":
        rows = _json(text, repr(str(path)))
    elif ending == ".jsonl":
        lines = enumerate(text.split("\n"), start=1)
        rows = [_json(line, f"{str(path)!r}, line {i}") for i, line in lines if line.strip()]
    else:
        _, rows = _read_table(path, "\t" if ending == ".tsv" else ",")
        if ending == ".csv" and rows and {"prefix", "good", "bad", "evidence"} <= rows[0].keys():
            return load_minimal_pairs(path)
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"{str(path)!r} has no rows.")
    return rows


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{where} is no valid JSON: {error}.") from error
