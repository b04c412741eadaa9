"""Explained similarities for the eye: in the terminal, as a page, as a picture, as a table."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bcos_peft._utils.arguments import checked_arguments
from bcos_peft._utils.files import check_target, write_text
from bcos_peft.similarity.layout import _layout_difference, _layout_pair, _layout_ranking
from bcos_peft.similarity.views import SimilarityView, draw_heat_maps, draw_similarity_frame, draw_similarity_page


if TYPE_CHECKING:
    import pandas
    from rich.console import Console

    from bcos_peft.similarity.explanation import SimilarityDifference, SimilarityExplanation

_LONGEST_HEADING = 90


class _Shown(ABC):
    """How an explained similarity, or a difference of two, is shown."""

    @abstractmethod
    def _view(self, by: str, hide_special: bool, top: int) -> SimilarityView:
        """Strings and numbers."""

    @abstractmethod
    def _records(self, by: str) -> list[dict[str, Any]]:
        """The rows of a table."""

    @checked_arguments
    def show(
        self,
        width: int | None = None,
        by: str = "word",
        console: Console | None = None,
        hide_special: bool = False,
        top: int = 10,
    ) -> None:
        """Prints the texts, coloured by what their words add, the largest contributions, and the sum.

        Blue adds and orange takes away, or speaks for the second document. Where there is no colour (`NO_COLOR`, a
        pipe, a file) the largest contributions stand in the texts as numbers.

        Args:
            width (`int`, *optional*): Columns to use; the console's by default.
            by (`"token"`, `"word"` or `"sentence"`, defaults to `"word"`): what is coloured.
            console (`rich.console.Console`, *optional*): Where to print; standard output by default.
            hide_special (`bool`, defaults to `False`): Leave special tokens out of the texts; the table has their sum.
            top (`int`, defaults to 10): How many contributions the table names.

        Raises:
            ValueError: `by` is none of these, or `top` is negative.
        """
        from rich.console import Console

        from bcos_peft.similarity.views import render_similarity

        console = Console() if console is None else console
        view = self._view(by, hide_special, top)
        console.print(render_similarity(view, console, width), width=width, highlight=False)

    @checked_arguments
    def to_html(
        self,
        path: str | os.PathLike | None = None,
        title: str | None = None,
        notes: str | None = None,
        by: str = "word",
        hide_special: bool = False,
        top: int = 10,
    ) -> str:
        """A page on which pointing at a word lights up what it matches; also by touch and by keys.

        It loads nothing from elsewhere, and forbids itself to. A click or Enter holds a word, Escape lets it go. A
        table and a heat map have the same for those who do not point.

        Args:
            path (`str` or `os.PathLike`, *optional*): File to write.
            title (`str`, *optional*): Heading of the page.
            notes (`str`, *optional*): A paragraph below the heading; empty lines separate paragraphs.
            by (`"token"`, `"word"` or `"sentence"`, defaults to `"word"`): what can be pointed at.
            hide_special (`bool`, defaults to `False`): Leave special tokens out of the texts; the table has their sum.
            top (`int`, defaults to 10): How many contributions the table names.

        Returns:
            `str`: The page; everything taken from the texts is escaped.

        Raises:
            ValueError: `by` is none of these, or `top` is negative.
        """
        page = draw_similarity_page([self._view(by, hide_special, top)], title, _paragraphs(notes))
        if path is not None:
            write_text(path, page)
        return page

    def _repr_html_(self) -> str:
        return draw_similarity_frame(self._view("word", False, 5))

    @checked_arguments
    def to_image(
        self,
        path: str | os.PathLike,
        title: str | None = None,
        by: str = "word",
        hide_special: bool = False,
        resolution: int = 200,
    ) -> None:
        """Writes a heat map of all pairs as a picture, the longer text running down. Needs matplotlib.

        Args:
            path (`str` or `os.PathLike`): File to write; it ends in .png, .svg or .pdf.
            title (`str`, *optional*): By default the sum.
            by (`"token"`, `"word"` or `"sentence"`, defaults to `"word"`): what rows and columns are.
            hide_special (`bool`, defaults to `False`): Leave out special tokens.
            resolution (`int`, defaults to 200): of a PNG, in dots per inch.

        Raises:
            ImportError: matplotlib is not installed.
            ValueError: the file has another ending, or `by` is none of these.
        """
        draw_heat_maps(self._view(by, hide_special, 0), path, title, resolution)

    @checked_arguments
    def to_pandas(self, by: str = "word") -> pandas.DataFrame:
        """The numbers as a table: a row for each pair, or, of a difference, for each word of the query.

        Args:
            by (`"token"`, `"word"` or `"sentence"`, defaults to `"word"`): rows of what.

        Returns:
            `pandas.DataFrame`: the texts of the units, their numbers in order (`_index`), whether they are special
            tokens, and the scores.

        Raises:
            ImportError: pandas is not installed.
            ValueError: `by` is none of these.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError("to_pandas needs pandas: pip install pandas") from error
        return pandas.DataFrame(self._records(by))


class _ShownPair(_Shown):
    """How a `SimilarityExplanation` is shown."""

    def _view(self: SimilarityExplanation, by: str, hide_special: bool, top: int) -> SimilarityView:
        return _layout_pair(self, by, hide_special, top)

    def _records(self: SimilarityExplanation, by: str) -> list[dict[str, Any]]:
        table = self.table(by)
        return [
            {
                "a": a.text,
                "b": b.text,
                "score": float(table.matrix[i, j]),
                "a_index": i,
                "b_index": j,
                "special": a.special or b.special,
            }
            for i, a in enumerate(table.a)
            for j, b in enumerate(table.b)
        ]


class _ShownDifference(_Shown):
    """How a `SimilarityDifference` is shown."""

    def _view(self: SimilarityDifference, by: str, hide_special: bool, top: int) -> SimilarityView:
        return _layout_difference(self, by, hide_special, top)

    def _records(self: SimilarityDifference, by: str) -> list[dict[str, Any]]:
        query = self.first.a
        sides = [query.units(by, one.a_scores) for one in (self.first, self.second)]
        return [
            {
                f"{by}": unit.text,
                "first": one.score,
                "second": two.score,
                "difference": unit.score,
                "index": i,
                "special": unit.special,
            }
            for i, (unit, one, two) in enumerate(zip(query.units(by, self.query_scores), *sides, strict=True))
        ]


@checked_arguments
def render_ranking(
    explanations: Sequence[SimilarityExplanation],
    path: str | os.PathLike | None = None,
    title: str | None = None,
    notes: str | None = None,
    headings: Sequence[str] | None = None,
    by: str = "word",
    hide_special: bool = False,
    top: int = 5,
) -> str:
    """A page of one query and its documents, the closest first, on which pointing at a word lights up what it matches.

    Colours mean the same on the whole page: the strongest pair of all documents has the full colour.

    Args:
        explanations (`Sequence[SimilarityExplanation]`): of the query, as `a`, with each document.
        path (`str` or `os.PathLike`, *optional*): File to write.
        title (`str`, *optional*): Heading of the page.
        notes (`str`, *optional*): A paragraph below the heading; empty lines separate paragraphs.
        headings (`Sequence[str]`, *optional*): Names of the documents, in the order of `explanations`; by default how
            they begin.
        by (`"token"`, `"word"` or `"sentence"`, defaults to `"word"`): what can be pointed at.
        hide_special (`bool`, defaults to `False`): Leave special tokens out of the texts; the tables have their sums.
        top (`int`, defaults to 5): How many pairs each table names.

    Returns:
        `str`: The page, which loads nothing from elsewhere; everything taken from the texts is escaped.

    Raises:
        ValueError: there are no explanations, their queries or similarity functions differ, there is not one heading
            for each, `by` is none of these, or `top` is negative.

    Example:
        >>> from bcos_peft.similarity import SimilarityExplanation, TextTokens, render_ranking
        >>> words = "film", "movie", "soup"
        >>> query, near, far = (TextTokens(word, [word], [1], [(0, len(word))], [False]) for word in words)
        >>> documents = (far, 0.1), (near, 0.6)
        >>> found = [SimilarityExplanation(a=query, b=b, matrix=[[x]], similarity=x) for b, x in documents]
        >>> page = render_ranking(found)
        >>> page.index("movie") < page.index("soup")
        True
    """
    explanations = list(explanations)
    _check_ranking(explanations, headings)
    if path is not None:
        check_target(path)
    headings = [_heading(one.b.text) for one in explanations] if headings is None else list(headings)
    order = sorted(range(len(explanations)), key=lambda i: -explanations[i].similarity)
    views = _layout_ranking([explanations[i] for i in order], by, hide_special, top)
    page = draw_similarity_page(views, title, _paragraphs(notes), [headings[i] for i in order], overview=True)
    if path is not None:
        write_text(path, page)
    return page


def _check_ranking(explanations: list[SimilarityExplanation], headings: Sequence[str] | None) -> None:
    if not explanations:
        raise ValueError("explanations is empty: there is nothing to rank.")
    first = explanations[0]
    for i, one in enumerate(explanations):
        if one.a.token_ids != first.a.token_ids:
            raise ValueError(
                f"explanations[{i}] is of the query {one.a.text!r}, the first of {first.a.text!r}: only documents for "
                "one query can be ranked."
            )
        if one.function != first.function:
            raise ValueError(f"explanations[{i}] is a {one.function}, the first a {first.function}.")
    if headings is not None and len(headings) != len(explanations):
        raise ValueError(f"headings has {len(headings)} entries for {len(explanations)} explanations; give one each.")


def _heading(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_HEADING else line[: _LONGEST_HEADING - 1].rsplit(" ", 1)[0] + " …"


def _paragraphs(notes: str | None) -> list[str]:
    return [part for part in re.split(r"\n\s*\n", notes or "") if part.strip()]
