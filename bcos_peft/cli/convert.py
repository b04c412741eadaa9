"""The command `bcos-peft convert`: a B-cos model of a stock one, into a directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bcos_peft.cli.errors import _clean_errors
from bcos_peft.cli.loading import _TASKS, _find_tokenizer, _load_stock
from bcos_peft.cli.options import _Revision


def _convert(
    model: Annotated[str, typer.Argument(help="A model of the hub, or a directory.")],
    output: Annotated[Path, typer.Argument(help="The directory to save the B-cos model in.")],
    b: Annotated[float, typer.Option(help="The exponent B, at least 1.")] = 1.25,
    task: Annotated[str | None, typer.Option(help=f"The head: {', '.join(_TASKS)}. Default: the model's.")] = None,
    num_labels: Annotated[int | None, typer.Option(help="The number of classes of a new head.")] = None,
    b_pattern: Annotated[
        list[str] | None, typer.Option(help="Another B for some layers, REGEX=B; may be given several times.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="A linear layer that stays plain; may be given several times.")
    ] = None,
    normalize_weights: Annotated[bool, typer.Option(help="Unit-norm weight rows, as in the paper.")] = False,
    pooler_activation: Annotated[str, typer.Option(help="identity or dynamic.")] = "identity",
    gates: Annotated[str, typer.Option(help="How gated MLPs are explained: split or hold.")] = "split",
    verify: Annotated[bool, typer.Option(help="Check on a probe that contributions sum to the logits.")] = True,
    revision: _Revision = None,
    force: Annotated[bool, typer.Option(help="Write into a directory that is not empty.")] = False,
) -> None:
    """Convert a model and save it, with its tokenizer."""
    with _clean_errors():
        if output.is_file() or (output.is_dir() and any(output.iterdir()) and not force):
            raise ValueError(f"{str(output)!r} exists and is not an empty directory; --force writes into a directory.")
        from bcos_peft import BcosConfig, get_bcos_model

        config = BcosConfig(
            b=b,
            b_pattern=dict(map(_b_of_pattern, b_pattern or [])),
            exclude_modules=exclude or None,
            normalize_weights=normalize_weights,
            pooler_activation=pooler_activation,
            gates=gates,
        )
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


def _b_of_pattern(text: str) -> tuple[str, float]:
    pattern, separator, value = text.rpartition("=")
    try:
        return pattern, float(value if separator and pattern else "nothing")
    except ValueError:
        raise ValueError(f"--b-pattern {text!r} must be REGEX=B, as in 'classifier=1'.") from None
