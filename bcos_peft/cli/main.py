"""The command `bcos-peft`, put together from one file per command."""

from __future__ import annotations

from typing import Annotated

import typer

from bcos_peft.cli.convert import _convert
from bcos_peft.cli.evaluate_run import _run
from bcos_peft.cli.explain import _explain
from bcos_peft.cli.human_kit import _human_kit
from bcos_peft.cli.info import _info
from bcos_peft.version import __version__


app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Convert pre-trained models into B-cos models, and explain their predictions exactly.",
)
_evaluate = typer.Typer(no_args_is_help=True, help="Measure explanations, and let people judge them.")

app.command("convert")(_convert)
app.command("explain")(_explain)
app.command("info")(_info)
app.add_typer(_evaluate, name="evaluate")
_evaluate.command("run")(_run)
_evaluate.add_typer(_human_kit, name="human-kit")


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"bcos-peft {__version__}")
        raise typer.Exit()


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Convert pre-trained models into B-cos models, and explain their predictions exactly."""
