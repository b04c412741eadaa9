"""The command `bcos-peft convert`: a B-cos model of a stock one, into a directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bcos_peft.cli.config_options import _with_config
from bcos_peft.cli.errors import _clean_errors
from bcos_peft.cli.loading import _TASKS, _find_tokenizer, _load_stock
from bcos_peft.cli.options import _Revision
from bcos_peft.config import BcosConfig


@_with_config
def _convert(
    model: Annotated[str, typer.Argument(help="A model of the hub, or a directory.")],
    output: Annotated[Path, typer.Argument(help="The directory to save the B-cos model in.")],
    config: BcosConfig,
    task: Annotated[str | None, typer.Option(help=f"The head: {', '.join(_TASKS)}. Default: the model's.")] = None,
    num_labels: Annotated[int | None, typer.Option(help="The number of classes of a new head.")] = None,
    verify: Annotated[bool, typer.Option(help="Check on a probe that contributions sum to the logits.")] = True,
    revision: _Revision = None,
    force: Annotated[bool, typer.Option(help="Write into a directory that is not empty.")] = False,
) -> None:
    """Convert a model and save it, with its tokenizer."""
    with _clean_errors():
        if output.is_file() or (output.is_dir() and any(output.iterdir()) and not force):
            raise ValueError(f"{str(output)!r} exists and is not an empty directory; --force writes into a directory.")
        from bcos_peft import get_bcos_model

        stock = _load_stock(model, task, num_labels, revision)
        tokenizer = _find_tokenizer(model, revision)
        converted = get_bcos_model(stock, config, verify=verify)
        converted.save_pretrained(output)
        if tokenizer is None:
            typer.echo(f"Note: {model} has no tokenizer that loads; save one in {output} beside the model.", err=True)
        else:
            tokenizer.save_pretrained(output)
    typer.echo(converted.bcos_summary())
    typer.echo(f"Saved in {output}")
