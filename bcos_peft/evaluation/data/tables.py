"""Reading tables, such as spreadsheets write them."""

from __future__ import annotations

import csv
import os


def _read_table(path: str | os.PathLike, delimiter: str = ",") -> tuple[list[str], list[dict[str, str | None]]]:
    """The columns of a file in UTF-8 whose first line names them, and its rows. Nothing of a line is left out.

    Args:
        path (`str` or `os.PathLike`): the file.
        delimiter (`str`, defaults to `","`): what is between two cells.

    Returns:
        `tuple[list[str], list[dict[str, str | None]]]`: a cell that a line does not have is `None`.

    Raises:
        ValueError: a line has more cells than there are columns, a quote has no end, or a cell is too long.

    Example:
        >>> from pathlib import Path
        >>> written = Path("reviews.csv").write_text('text,label\\n"Long, but good.",1\\n')
        >>> _read_table("reviews.csv")
        (['text', 'label'], [{'text': 'Long, but good.', 'label': '1'}])
    """
    with open(path, encoding="utf-8-sig", newline="") as file:  # spreadsheets put a mark before the text
        reader = csv.DictReader(file, delimiter=delimiter, strict=True)
        rows = []
        try:
            columns = list(reader.fieldnames or [])
            for row in reader:
                if None in row:
                    cells = len(columns) + len(row[None])
                    raise ValueError(
                        f"{os.fspath(path)!r}, line {reader.line_num}: there are {cells} cells for {len(columns)} "
                        f"columns. Put a text that has a {delimiter!r} in it in quotes."
                    )
                rows.append(row)
        except csv.Error as error:
            line = reader.reader.line_num  # that of DictReader is the last row's
            raise ValueError(
                f"{os.fspath(path)!r}, line {line}, is no line of a table: {error}. Look for a quote that "
                "has no end; a quote in a quoted text is written twice. (Long texts can be read of .jsonl files.)"
            ) from error
    return columns, rows
