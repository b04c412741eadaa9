"""The command `bcos-peft evaluate human-kit`: explain with a method, export a kit, analyse what readers returned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from bcos_peft._utils.files import check_target
from bcos_peft.cli.errors import _clean_errors
from bcos_peft.cli.inputs import _check_device, _choice, _read_lines
from bcos_peft.cli.loading import _load_any
from bcos_peft.cli.options import _Device, _Foil, _Revision, _Truncation
from bcos_peft.cli.outputs import _write_json


_human_kit = typer.Typer(
    no_args_is_help=True,
    help="Let people judge which of two explanations is better: explain, export a page, analyse the answers.",
)


@_human_kit.command("explain")
def _explain(
    model: Annotated[str, typer.Argument(help="A model, converted or not: a directory, or a model of the hub.")],
    output: Annotated[Path, typer.Argument(help="The JSON file to write.")],
    method: Annotated[str, typer.Option(help="The attribution method, such as bcos or integrated_gradients.")],
    file: Annotated[str, typer.Option(help="A file with one text per line; - reads standard input.")],
    target: Annotated[str | None, typer.Option(help="Label or number. Default: what the model predicts.")] = None,
    foil: _Foil = None,
    baseline: Annotated[str | None, typer.Option(help="For methods that have one: mask, pad or zero.")] = None,
    truncation: _Truncation = False,
    device: _Device = "cpu",
    revision: _Revision = None,
) -> None:
    """Explain texts with any attribution method, and write the explanations."""
    with _clean_errors():
        from bcos_peft.evaluation.human import explain_with
        from bcos_peft.evaluation.methods import get_method
        from bcos_peft.models import Labels

        check_target(output)
        texts = _read_lines(file)
        if not texts:
            raise ValueError(f"--file {file!r} has no text.")
        _check_device(device)
        loaded, tokenizer = _load_any(model, revision)
        labels, options = Labels(loaded, tokenizer), {} if baseline is None else {"baseline": baseline}
        found = explain_with(
            loaded.to(device),
            tokenizer,
            texts,
            get_method(method, tokenizer, **options),
            _choice(target, labels),
            _choice(foil, labels),
            truncation,
        )
        _write_json(output, [one.to_dict() for one in found])
    typer.echo(f"{len(found)} explanations by {method} in {output}")


@_human_kit.command("export")
def _export(
    output: Annotated[Path, typer.Argument(help="The folder for page.html and key.json.")],
    explanations: Annotated[
        list[str],
        typer.Option(help="METHOD=FILE, a list of explanations as `explain --json` writes it; two or more."),
    ],
    reference: Annotated[str | None, typer.Option(help="Compare only with this method.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many pairs, drawn at random.")] = None,
    seed: Annotated[int, typer.Option(help="Of the order and the sides.")] = 0,
    signed: Annotated[bool, typer.Option(help="Show what speaks against the prediction too.")] = True,
    title: Annotated[str, typer.Option(help="Heading of the page.")] = "Which marking explains better?",
    instructions: Annotated[Path | None, typer.Option(help="A text file with what readers are told.")] = None,
) -> None:
    """Write a page with blinded, shuffled pairs for readers, and the key that tells the methods."""
    with _clean_errors():
        from bcos_peft.evaluation.human import HumanKit

        found = dict(map(_named_file, explanations))
        if len(found) < len(explanations):
            raise ValueError("--explanations names a method twice.")
        told = None if instructions is None else instructions.read_text(encoding="utf-8-sig")
        kit = HumanKit.build(found, reference, limit, seed, signed, title, told)
        page, key = kit.save(output)
    for line in kit.left_out:
        typer.echo(f"Left out: {line}")
    typer.echo(f"{len(kit.pairs)} pairs. For readers: {page}. Keep from them: {key}")


@_human_kit.command("analyse")
def _analyse(
    key: Annotated[Path, typer.Argument(help="The kit's key.json, or the folder it is in.")],
    files: Annotated[list[Path], typer.Argument(help="The files that readers downloaded.")],
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the result as JSON.")] = None,
    simulated: Annotated[bool, typer.Option("--simulated", help="The files are simulated, and marked so.")] = False,
) -> None:
    """Say how often readers preferred which method, and whether they agree."""
    with _clean_errors():
        from bcos_peft.evaluation.human import HumanKit, analyse_answers

        result = analyse_answers(HumanKit.load(key), files, simulated)
        if json_file is not None:
            _write_json(json_file, result.to_dict())
    typer.echo(result.table())


def _named_file(entry: str) -> tuple[str, list]:
    from bcos_peft.explanation import Explanation

    name, separator, file = entry.partition("=")
    if not (name and separator and file):
        raise ValueError(f"--explanations {entry!r} must be METHOD=FILE, as in 'bcos=bcos.json'.")
    try:
        values = json.loads(Path(file).read_text(encoding="utf-8-sig"))
    except (UnicodeDecodeError, json.JSONDecodeError):
        raise ValueError(f"{file!r} is no JSON file.") from None
    if not isinstance(values, list):
        raise ValueError(f"{file!r} is no list of explanations, as `bcos-peft explain --json` writes it.")
    return name, [Explanation.from_dict(one) for one in values]
