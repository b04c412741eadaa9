"""The command `bcos-peft evaluate`."""

from __future__ import annotations

import typer

from bcos_peft.cli.evaluate_run import run
from bcos_peft.cli.human_kit import app as human_app


app = typer.Typer(no_args_is_help=True, help="Measure explanations, and let people judge them.")
app.command()(run)
app.add_typer(human_app, name="human-kit")
