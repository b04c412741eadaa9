"""The command `bcos-peft`: convert a model, explain texts, say what was converted."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from bcos_peft._utils.files import check_target, write_text
from bcos_peft.cli.errors import clean_errors
from bcos_peft.cli.evaluate import app as evaluate_app
from bcos_peft.cli.inputs import check_device, choice, read_lines
from bcos_peft.cli.loading import load_tokenizer
from bcos_peft.version import __version__


app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Convert pre-trained models into B-cos models, and explain their predictions exactly.",
)

app.add_typer(evaluate_app, name="evaluate")

# Tasks of the hub, and the end of the names of the classes that have their heads.
_TASKS = {
    "text-classification": "SequenceClassification",
    "token-classification": "TokenClassification",
    "question-answering": "QuestionAnswering",
    "fill-mask": "MaskedLM",
    "text-generation": "CausalLM",
}


def _show_version(asked: bool) -> None:
    if asked:
        print(f"bcos-peft {__version__}")
        raise typer.Exit()


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Convert pre-trained models into B-cos models, and explain their predictions exactly."""


@app.command()
def convert(
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
    revision: Annotated[str | None, typer.Option(help="A branch, tag or commit of the hub.")] = None,
    force: Annotated[bool, typer.Option(help="Write into a directory that is not empty.")] = False,
) -> None:
    """Convert a model and save it, with its tokenizer."""
    with clean_errors():
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
        tokenizer = load_tokenizer(model, revision)
        converted = get_bcos_model(stock, config, verify=verify)
        converted.save_pretrained(output)
        if tokenizer is None:
            print(
                f"Note: {model} has no tokenizer that loads; save one in {output} beside the model.", file=sys.stderr
            )
        else:
            tokenizer.save_pretrained(output)
    converted.print_bcos_summary()
    print(f"Saved in {output}")


@app.command()
def explain(
    model: Annotated[str, typer.Argument(help="A B-cos model: a directory, or a model of the hub.")],
    texts: Annotated[list[str] | None, typer.Argument(help="The texts.")] = None,
    file: Annotated[str | None, typer.Option(help="A file with one text per line; - reads standard input.")] = None,
    pair: Annotated[str | None, typer.Option(help="The second text, for models that read pairs.")] = None,
    target: Annotated[str | None, typer.Option(help="Label or number; 'all' for every class.")] = None,
    foil: Annotated[str | None, typer.Option(help="Explain the target against this label or number.")] = None,
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
    truncation: Annotated[bool, typer.Option("--truncation", help="Cut texts that are too long.")] = False,
    batch_size: Annotated[int, typer.Option(min=1)] = 16,
    device: Annotated[str, typer.Option(help="Such as cuda.")] = "cpu",
    revision: Annotated[str | None, typer.Option(help="A branch, tag or commit of the hub.")] = None,
) -> None:
    """Explain what a B-cos model predicts for texts."""
    with clean_errors():
        inputs: list = [*(texts or []), *(read_lines(file) if file else [])]
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
        from bcos_peft.explanation.views import encodable

        check_device(device)
        check_baseline(baseline)
        loaded = _load_bcos(model, revision).to(device)
        tokenizer = load_tokenizer(model, revision)
        if tokenizer is None:
            raise ValueError(
                f"{model!r} has no tokenizer; save the base model's beside it (tokenizer.save_pretrained)."
            )
        explainer = BcosExplainer(loaded, tokenizer, batch_size=batch_size, baseline=baseline)
        prompts = (
            {"messages": [[{"role": "user", "content": text}] for text in inputs]} if chat else {"prompt": inputs}
        )
        if is_causal_lm(loaded):
            _refuse(
                "a causal language model", "reads one prompt, and all of it", pair=pair, truncation=truncation or None
            )
        language = {"contrast": "runner_up" if contrast else None}
        chosen = {"target": choice(target, explainer.labels), "foil": choice(foil, explainer.labels)}
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
            content = [one.to_dict() for one in explanations]
            text = json.dumps(content, ensure_ascii=False, indent=1)
            if json_file == "-":  # JSON can do without the characters that a console does not have
                known = encodable(sys.stdout.encoding or "utf-8", text)
                print(text if known else json.dumps(content, indent=1))
                return
            write_text(json_file, text + "\n")
    for explanation in explanations:
        explanation.show(top=top) if generate is not None else explanation.show(words=not tokens, top=top)


@app.command()
def info(
    model: Annotated[str, typer.Argument(help="A B-cos model: a directory, or a model of the hub.")],
    revision: Annotated[str | None, typer.Option(help="A branch, tag or commit of the hub.")] = None,
) -> None:
    """Say what was converted: layers by B, what stays plain, parameters, the residual on a probe."""
    with clean_errors():
        loaded = _load_bcos(model, revision)
    loaded.print_bcos_summary()


def _refuse(option: str, what: str, **given) -> None:
    """Options that mean nothing beside another."""
    for name, value in given.items():
        if value is not None:
            raise ValueError(f"--{name} cannot go with {option}, which {what}.")


def _load_stock(name: str, task: str | None, num_labels: int | None, revision: str | None):
    import transformers

    if task is not None and task not in _TASKS:
        raise ValueError(f"--task {task!r} is unknown; there are: {', '.join(_TASKS)}.")
    config = transformers.AutoConfig.from_pretrained(name, revision=revision)
    if task is None:
        head = (config.architectures or ["none"])[0].rpartition("For")[2]
        if head not in _TASKS.values():
            raise ValueError(f"{name!r} has no head of its own ({head}); choose one: --task {' | '.join(_TASKS)}.")
    else:
        head = _TASKS[task]
    auto = getattr(transformers, f"AutoModelFor{head}")
    labels = {} if num_labels is None else {"num_labels": num_labels, "ignore_mismatched_sizes": True}
    return auto.from_pretrained(name, revision=revision, **labels)


def _load_bcos(name: str, revision: str | None):
    import transformers

    from bcos_peft import BcosConfig, models

    BcosConfig.from_pretrained(name, revision=revision)  # says what is wrong with anything else
    architecture = (transformers.AutoConfig.from_pretrained(name, revision=revision).architectures or [""])[0]
    cls = getattr(models, architecture, None)
    if cls is None:
        raise ValueError(
            f"{name!r} is a {architecture or 'model of no architecture'}, of no family that this package has. "
            "A family of your own is known in Python only, after register_family."
        )
    return cls.from_pretrained(name, revision=revision).eval()


def _b_of_pattern(text: str) -> tuple[str, float]:
    pattern, separator, value = text.rpartition("=")
    try:
        return pattern, float(value if separator and pattern else "nothing")
    except ValueError:
        raise ValueError(f"--b-pattern {text!r} must be REGEX=B, as in 'classifier=1'.") from None
