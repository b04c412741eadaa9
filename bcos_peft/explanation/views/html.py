"""Explanations as static HTML."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from bcos_peft.explanation.views.direction import _runs, _tooltip
from bcos_peft.explanation.views.text import format_residual
from bcos_peft.explanation.views.view import View


if TYPE_CHECKING:
    from jinja2 import Template


_HERE = "bcos_peft.explanation.views"


def draw_page(
    views: Sequence[View], title: str | None, notes: Sequence[str], headings: Sequence[str] | None = None
) -> str:
    """Views on one page of their own, one below the other."""
    template = load_template("explanation.html.j2")
    return template.render(page=True, views=views, title=title, notes=notes, headings=headings)


def draw_fragment(view: View) -> str:
    """A view as a `style` and a `section` element, which touch nothing else on a page."""
    return load_template("explanation.html.j2").render(page=False, views=[view], headings=None)


@cache
def load_template(name: str, package: str = _HERE) -> Template:
    """A template of a folder, with filters for numbers; everything that it is given is escaped.

    Args:
        name (`str`): File in the folder's `templates`. It may include those of the views.
        package (`str`): The folder.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader(_HERE)]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["exact_number"] = lambda value: f"{value:+.6g}".replace("-", "−")
    environment.filters["minus"] = lambda text: text.replace("-", "−")
    environment.filters["residual"] = lambda value: format_residual(value).replace("-", "−")
    environment.filters["share"] = lambda strength: f"{abs(strength):.3f}"
    environment.filters["side"] = _side
    environment.filters["runs"] = _runs
    environment.filters["tooltip"] = _tooltip
    return environment.get_template(name)


def _side(strength: float) -> str:
    return "for" if strength > 0 else "against" if strength < 0 else "none"
