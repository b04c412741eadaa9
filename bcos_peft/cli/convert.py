"""The command `bcos-peft convert`: a B-cos model of a stock one, calibrated or not, into a directory."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from bcos_peft._utils.staging import staged
from bcos_peft.cli.config_options import _with_config
from bcos_peft.cli.errors import _clean_errors
from bcos_peft.cli.inputs import _read_texts
from bcos_peft.cli.loading import _TASKS, _find_tokenizer, _load_stock, _load_tokenizer
from bcos_peft.cli.options import _Revision
from bcos_peft.config import BcosConfig


@_with_config
def _convert(
    model: Annotated[str, typer.Argument(help="A model of the hub, or a directory.")],
    output: Annotated[Path, typer.Argument(help="The directory to save the B-cos model in.")],
    config: BcosConfig,
    calibrate: Annotated[
        str | None,
        typer.Option(
            help="The calibration_data: a file with one text per line, or with columns (.csv, .tsv, .json, .jsonl); "
            "- reads standard input. A few hundred texts without labels are enough to predict nearly as before.",
            metavar="FILE",
            rich_help_panel="Calibration",
        ),
    ] = None,
    text_column: Annotated[
        list[str] | None,
        typer.Option(
            help="The column of that file with the texts; two for pairs. Default: text.", rich_help_panel="Calibration"
        ),
    ] = None,
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
        if text_column and calibrate is None:
            raise ValueError("--text-column is for the file of --calibrate, which is not given.")
        texts = None if calibrate is None else _read_texts(calibrate, text_column)
        from bcos_peft import get_bcos_model
        from bcos_peft.models import GATES, stale_weights

        stock = _load_stock(model, task, num_labels, revision)
        tokenizer = (_find_tokenizer if texts is None else _load_tokenizer)(model, revision)
        converted = get_bcos_model(stock, config, verify=verify, calibration_data=texts, tokenizer=tokenizer)
        with staged(output, GATES, stale_weights) as new:  # the model and its tokenizer, or what was there
            if (card := output / "README.md").exists():
                shutil.copyfile(card, new / "README.md")
            converted.save_pretrained(new, repo_id=output.resolve().name)
            if tokenizer is not None:
                tokenizer.save_pretrained(new)
        if tokenizer is None:
            typer.echo(f"Note: {model} has no tokenizer that loads; save one in {output} beside the model.", err=True)
        if texts is None:
            typer.echo("Note: it predicts something else than before. Fine-tune it, or give --calibrate.", err=True)
    typer.echo(converted.bcos_summary())
    typer.echo(f"Saved in {output}")
