"""How the commands fail: with a line on stderr."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer


@contextmanager
def _clean_errors() -> Iterator[None]:
    """What the library refuses becomes a line on stderr and exit code 2."""
    try:
        yield
    except (ValueError, TypeError, OSError, KeyError, RuntimeError, ImportError) as error:
        typer.echo(f"Error: {error.args[0] if isinstance(error, KeyError) else error}", err=True)
        raise typer.Exit(2) from None
