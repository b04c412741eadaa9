"""Tables of plain values: as Markdown, and in the terminal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


_ASCII = str.maketrans("↑↓–", "^v-")


class _Cell(NamedTuple):
    """A number as text, the ends of its interval, and whether it is the best of its column."""

    text: str
    ends: str = ""
    best: bool = False


@dataclass(frozen=True)
class _Table:
    """What a table says.

    Args:
        header (`list[str]`): a heading for each column.
        rows (`list[list[Cell]]`): as many cells in each.
        names (`int`, defaults to 1): how many columns, from the left, are names and not numbers.
    """

    header: list[str]
    rows: list[list[_Cell]]
    names: int = 1


def _markdown_table(table: _Table, intervals: bool = True) -> str:
    """A table in Markdown; the best numbers are bold."""

    def shown(cell: _Cell) -> str:
        text = f"**{cell.text}**" if cell.best else cell.text
        return f"{text} {cell.ends}" if intervals and cell.ends else text

    rule = [*["---"] * table.names, *["---:"] * (len(table.header) - table.names)]
    lines = [table.header, rule, *[list(map(shown, row)) for row in table.rows]]
    return "\n".join(f"| {' | '.join(map(_escape, line))} |" for line in lines) + "\n"


def _print_table(table: _Table) -> None:
    """A table in the terminal."""
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    from bcos_peft.explanation.views import ascii_text, encodable

    console = Console()

    def shown(text: str, ends: str = "", best: bool = False) -> Text:  # no str, in which brackets would be markup
        found = Text.assemble((text, "bold" if best else ""), f" {ends}" if ends else "")
        if encodable(console.encoding, found.plain):
            return found
        return ascii_text(Text.assemble((text.translate(_ASCII), "bold" if best else ""), f" {ends}" if ends else ""))

    drawn = RichTable()
    for i, name in enumerate(table.header):
        drawn.add_column(shown(name), **({"overflow": "fold"} if i < table.names else {"justify": "right"}))
    for row in table.rows:
        drawn.add_row(*[shown(*cell) for cell in row])
    console.print(drawn)


def _escape(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")
