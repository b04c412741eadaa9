"""The command `bcos-peft info`: what was converted."""

from __future__ import annotations

import typer

from bcos_peft.cli.errors import _clean_errors
from bcos_peft.cli.loading import _load_bcos
from bcos_peft.cli.options import _BcosName, _Revision


def _info(
    model: _BcosName,
    revision: _Revision = None,
) -> None:
    """Say what was converted: layers by B, what stays plain, parameters, the residual on a probe."""
    with _clean_errors():
        loaded = _load_bcos(model, revision)
    typer.echo(loaded.bcos_summary())
