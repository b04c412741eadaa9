"""The command `bcos-peft info`: what was converted."""

from __future__ import annotations

from typing import Annotated

import typer

from bcos_peft.cli.errors import _clean_errors
from bcos_peft.cli.loading import _load_bcos


def _info(
    model: Annotated[str, typer.Argument(help="A B-cos model: a directory, or a model of the hub.")],
    revision: Annotated[str | None, typer.Option(help="A branch, tag or commit of the hub.")] = None,
) -> None:
    """Say what was converted: layers by B, what stays plain, parameters, the residual on a probe."""
    with _clean_errors():
        loaded = _load_bcos(model, revision)
    typer.echo(loaded.bcos_summary())
