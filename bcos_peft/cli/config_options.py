"""Options for the fields of `BcosConfig`, as the class has them: names, types, defaults, and help of its docstring."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from dataclasses import Field, fields
from typing import Annotated, Any, get_type_hints

import typer

from bcos_peft.cli.errors import _clean_errors
from bcos_peft.config import BcosConfig


_TYPES = get_type_hints(BcosConfig)
_B_BY_PATTERN = dict[str, float]
_MODULES = list[str] | str | None
_PLACEHOLDERS = {_B_BY_PATTERN: "REGEX=B", _MODULES: "NAME"}  # of options that may be given several times
_NAMES = {"exclude_modules": ("--exclude-modules", "--exclude")}  # of options with more than the field's own
_FILLED_IN = "Filled in by `get_bcos_model`"  # so the docstring says of fields that nobody sets


def _with_config(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command an option for each field of `BcosConfig` in place of its parameter `config`."""
    signature = inspect.signature(command, eval_str=True)
    own = [parameter for name, parameter in signature.parameters.items() if name != "config"]
    options = _options()

    @functools.wraps(command)
    def run(**arguments: Any) -> None:
        with _clean_errors():
            config = BcosConfig(**{name: _value(name, arguments.pop(name)) for name in options})
        command(config=config, **arguments)

    by_name = [parameter.replace(kind=parameter.KEYWORD_ONLY) for parameter in (*own, *options.values())]
    run.__signature__ = signature.replace(parameters=by_name)  # which typer reads
    return run


def _options() -> dict[str, inspect.Parameter]:
    told = _descriptions()
    return {
        field.name: _option(field, _first_sentence(told[field.name]))
        for field in fields(BcosConfig)
        if _FILLED_IN not in told[field.name]
    }


def _option(field: Field, text: str) -> inspect.Parameter:
    kind, default = _TYPES[field.name], field.default
    if kind in _PLACEHOLDERS:
        kind, default, text = list[str] | None, None, f"{text} May be given several times."
    elif kind == str | None and default is not None:
        text = f"{text} Or none."
    option = typer.Option(
        *_NAMES.get(field.name, ()),
        help=text,
        metavar=_PLACEHOLDERS.get(_TYPES[field.name]),
        rich_help_panel="Calibration" if field.name.startswith("calibration") else "Conversion",
    )
    return inspect.Parameter(
        field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option]
    )


def _value(name: str, typed: Any) -> Any:
    """A field's value, of what was typed for it."""
    if _TYPES[name] == _B_BY_PATTERN:
        return dict(map(_b_of_pattern, typed or []))
    if _TYPES[name] == _MODULES:
        # What is no name can only be a regular expression.
        is_regex = typed and len(typed) == 1 and not re.fullmatch(r"[\w.-]+", typed[0])
        return typed[0] if is_regex else typed or None
    return None if typed == "none" else typed


def _b_of_pattern(text: str) -> tuple[str, float]:
    pattern, separator, value = text.rpartition("=")
    try:
        return pattern, float(value if separator and pattern else "nothing")
    except ValueError:
        raise ValueError(f"--b-pattern {text!r} must be REGEX=B, as in 'classifier=1'.") from None


def _descriptions() -> dict[str, str]:
    """What the section `Args:` of the docstring says of each field."""
    section = inspect.getdoc(BcosConfig).partition("Args:\n")[2].partition("\n\n")[0]
    found = re.findall(r"^ {4}(\w+) \(.+?\):(.+?)(?=^ {4}\w|\Z)", section, re.MULTILINE | re.DOTALL)
    return {name: " ".join(text.split()) for name, text in found}


def _first_sentence(text: str) -> str:
    """Without the marks of code.

    Example:
        >>> _first_sentence('One of `a.b`, or `"c"`. The last is the default.')
        'One of a.b, or c.'
    """
    sentence = re.match(r".+?\.(?= [A-Z`]|$)", text)[0]
    return re.sub(r'`"?|"?`', "", sentence)
