"""The command `bcos-peft explain`: what a B-cos model predicts, token by token."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bcos_peft._utils.files import check_target, write_text
from bcos_peft.cli.errors import _clean_errors
from bcos_peft.cli.inputs import _check_device, _choice, _read_lines
from bcos_peft.cli.loading import _load_bcos, _load_tokenizer
from bcos_peft.cli.options import _BcosName, _Device, _Foil, _Revision, _Truncation
from bcos_peft.cli.outputs import _write_json


def _explain(
    model: _BcosName,
    texts: Annotated[list[str] | None, typer.Argument(help="The texts.")] = None,
    file: Annotated[str | None, typer.Option(help="A file with one text per line; - reads standard input.")] = None,
    pair: Annotated[str | None, typer.Option(help="The second text, for models that read pairs.")] = None,
    target: Annotated[
        str | None,
        typer.Option(help="Label or number, 'all' for every class; language models: what follows, or a token's id."),
    ] = None,
    foil: _Foil = None,
    position: Annotated[int | None, typer.Option(help="The token whose output is explained.")] = None,
    top: Annotated[int, typer.Option(min=0, help="How many contributions the table names.")] = 5,
    generate: Annotated[
        int | None, typer.Option(min=1, help="Language models: generate at most so many tokens, and explain each.")
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Language models: each text is what a user says; use the chat template.")
    ] = False,
    contrast: Annotated[
        bool, typer.Option(help="Language models: explain a token against its runner-up, where no foil is given.")
    ] = True,
    baseline: Annotated[
        str, typer.Option(help="What words are compared with: zero, or average (the vocabulary's mean embedding).")
    ] = "zero",
    tokens: Annotated[bool, typer.Option("--tokens", help="Show tokens instead of words.")] = False,
    html: Annotated[Path | None, typer.Option(help="Also write a self-contained page.")] = None,
    json_file: Annotated[
        str | None, typer.Option("--json", help="Also write a JSON list; - for standard output, and nothing else.")
    ] = None,
    truncation: _Truncation = False,
    batch_size: Annotated[int, typer.Option(min=1)] = 16,
    device: _Device = "cpu",
    revision: _Revision = None,
) -> None:
    """Explain what a B-cos model predicts for texts."""
    with _clean_errors():
        inputs: list = [*(texts or []), *(_read_lines(file) if file else [])]
        if not inputs:
            raise ValueError("There is no text: give one or more, or --file.")
        if html is not None and generate is not None and len(inputs) > 1:
            raise ValueError(f"--html with --generate takes a single text, got {len(inputs)}: a page is one answer's.")
        for path in (html, None if json_file == "-" else json_file):
            if path is not None:
                check_target(path)
        if pair is not None:
            inputs = [(text, pair) for text in inputs]
        from bcos_peft import BcosExplainer
        from bcos_peft.attribution import check_baseline, is_causal_lm
        from bcos_peft.explanation import render_html

        _check_device(device)
        check_baseline(baseline)
        loaded = _load_bcos(model, revision).to(device)
        tokenizer = _load_tokenizer(model, revision)
        explainer = BcosExplainer(loaded, tokenizer, batch_size=batch_size, baseline=baseline)
        prompts = (
            {"messages": [[{"role": "user", "content": text}] for text in inputs]} if chat else {"prompt": inputs}
        )
        if is_causal_lm(loaded):
            _refuse(
                "a causal language model", "reads one prompt, and all of it", pair=pair, truncation=truncation or None
            )
        language = {"contrast": "runner_up" if contrast else None}
        chosen = {"target": _choice(target, explainer.labels), "foil": _choice(foil, explainer.labels)}
        if generate is not None:
            _refuse("--generate", "explains what is generated", target=target, foil=foil, position=position)
            found = explainer.generate(**prompts, **language, max_new_tokens=generate)
        elif chat or (is_causal_lm(loaded) and position is None and target != "all"):
            _refuse("--chat", "explains the next token", position=position)
            found = explainer.explain(**prompts, **language, **chosen)
        else:
            found = explainer(inputs, position=position, truncation=truncation, **chosen)
        explanations = [one for entry in found for one in (entry if isinstance(entry, list) else [entry])]
        if html is not None and generate is not None:
            write_text(html, explanations[0].to_html(title=model, top=top))
        elif html is not None:
            write_text(html, render_html(explanations, title=model, words=not tokens, top=top))
        if json_file is not None:
            _write_json(json_file, [one.to_dict() for one in explanations])
    if json_file == "-":
        return
    for explanation in explanations:
        explanation.show(top=top) if generate is not None else explanation.show(words=not tokens, top=top)


def _refuse(option: str, what: str, **given) -> None:
    """Options that mean nothing beside another."""
    for name, value in given.items():
        if value is not None:
            raise ValueError(f"--{name} cannot go with {option}, which {what}.")
