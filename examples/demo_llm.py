"""`make demo-llm`: turn a chat model into a B-cos model without any labels, and explain exactly what it writes.

SmolLM2-135M is converted twice: as published, and with calibration on some unlabelled texts. A table says how
much each of them still predicts as the original does, on texts that the calibration has not seen. Then the calibrated
one answers questions, and every token of an answer is the sum of what the tokens before it contributed, each relative
to an average word, and of what average words would contribute. Everything comes from PyPI; nothing is downloaded while
it runs. `--quick` calibrates on too few texts to be worth reading.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import os
import threading
import time
from pathlib import Path

import torch
import transformers
from bundled import smollm2, tweet_instructions
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import AutoModelForCausalLM

from bcos_peft import BcosConfig, BcosExplainer, get_bcos_model


QUESTIONS = [
    "How many days are in a week?",
    "My flight was late again, and nobody at the airport could say why. Is this a complaint or praise?",
    "Write one sentence about the sea.",
]

console = Console(highlight=False)


def main() -> None:
    began = time.perf_counter()
    options = arguments()
    limit_time(options.minutes)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()

    console.rule("[bold]bcos_peft[/]: a chat model whose every word is explained exactly", style="dim")
    with contextlib.redirect_stderr(io.StringIO()):  # a progress bar that nothing else switches off
        stock, tokenizer = smollm2()
    data = tweet_instructions(train=options.texts, test=options.test)
    seen, unseen = (chats(data[part], tokenizer) for part in ("train", "test"))
    console.print(f"\n[bold]Model[/]  SmolLM2-135M-Instruct, {stock.num_parameters() / 1e6:.0f} million weights")
    console.print(f"[bold]Texts[/]  {len(seen)} short chats to calibrate on, {len(unseen)} others to measure with\n")

    original = predictions(stock, tokenizer, unseen)
    rows = [("original", loss(original), 1.0)]
    published = get_bcos_model(copy.deepcopy(stock), BcosConfig(b=options.b))
    rows.append(("B-cos, as published, before training", *compare(published, tokenizer, unseen, original)))
    del published
    start = time.perf_counter()
    console.print("Calibrating, layer by layer ...\n")
    # Besides the texts, the model is calibrated on some that it writes itself, which are about anything it knows.
    config = BcosConfig(b=options.b, calibration_replay=options.replay)
    model = get_bcos_model(stock, config, calibration_data=seen, tokenizer=tokenizer, progress=False)
    seconds = time.perf_counter() - start
    rows.append(("B-cos, calibrated, without labels", *compare(model, tokenizer, unseen, original)))
    show_table(rows, options.b)
    console.print(f"Calibration took {seconds:.0f} s.\n")

    directory = Path(options.output)
    save_and_reload(model, tokenizer, directory / "model")
    explainer = BcosExplainer(model, tokenizer, baseline="average")  # what each word adds to an average one
    answers = []
    for number, question in enumerate(QUESTIONS):
        messages = [{"role": "user", "content": question}]
        answer = explainer.generate(messages=messages, max_new_tokens=options.tokens, do_sample=False)
        page = directory / f"answer-{number + 1}.html"
        answer.to_html(page)
        console.rule(f"[bold]{question}[/]", align="left", style="dim")
        answer.show(console=console)
        console.print(f"[bold]Page[/]  {page.resolve().as_uri()}\n", soft_wrap=True)
        answers.append(answer)
    check_sums(answers)
    console.print(f"[bold]Model[/]  {directory / 'model'}")
    console.print(f"[bold]Time[/]   {time.perf_counter() - began:.0f} s, {torch.get_num_threads()} threads")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few texts only: to see that it runs")
    parser.add_argument("--b", type=float, default=1.1, help="the exponent B (default: %(default)s)")
    parser.add_argument("--texts", type=int, help="chats to calibrate on (default: 80; quick: 16)")
    parser.add_argument("--replay", type=int, help="tokens of its own to calibrate on (default: 2048; quick: 64)")
    parser.add_argument("--test", type=int, help="chats to measure with (default: 60; quick: 8)")
    parser.add_argument("--tokens", type=int, help="of an answer, at most (default: 24; quick: 6)")
    parser.add_argument("--minutes", type=float, default=10, help="stop after (default: %(default)s)")
    parser.add_argument("--output", default="outputs/demo-llm", help="folder for what it makes (default: %(default)s)")
    options = parser.parse_args()
    options.texts = options.texts or (16 if options.quick else 80)
    options.replay = options.replay or (64 if options.quick else 2048)
    options.test = options.test or (8 if options.quick else 60)
    options.tokens = options.tokens or (6 if options.quick else 24)
    return options


def limit_time(minutes: float) -> None:
    def stop():
        console.print(f"\nStopped: not ready after {minutes:g} minutes. --quick takes less, --minutes allows more.")
        os._exit(1)  # from this thread nothing else ends the process

    timer = threading.Timer(60 * minutes, stop)
    timer.daemon = True
    timer.start()


def chats(rows, tokenizer) -> list[str]:
    """The questions with their answers, as the chat template writes them."""
    return [tokenizer.apply_chat_template(row["prompt"] + row["completion"], tokenize=False) for row in rows]


@torch.no_grad()
def predictions(model, tokenizer, texts: list[str]) -> list[tuple[Tensor, Tensor]]:
    """For each text the token that is likeliest at each place, and the loss of the one that is there."""
    found = []
    for text in texts:
        ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
        logits = model(ids).logits[0, :-1]
        found.append((logits.argmax(-1), torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")))
    return found


def loss(found: list[tuple[Tensor, Tensor]]) -> float:
    return torch.cat([losses for _, losses in found]).mean().item()


def compare(model, tokenizer, texts: list[str], original) -> tuple[float, float]:
    """The loss, and the share of places where the likeliest token is that of the original."""
    found = predictions(model, tokenizer, texts)
    same = [mine == its for (mine, _), (its, _) in zip(found, original, strict=True)]
    return loss(found), torch.cat(same).float().mean().item()


def show_table(rows: list[tuple[str, float, float]], b: float) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    table.add_column(f"B = {b:g}, chats that calibration has not seen")
    table.add_column("loss (nats)", justify="right")
    table.add_column("same prediction", justify="right")
    for name, nats, same in rows:
        table.add_row(name, f"{nats:.2f}", f"{same:.1%}")
    console.print(table)


def save_and_reload(model, tokenizer, directory: Path) -> None:
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    again = AutoModelForCausalLM.from_pretrained(directory)
    ids = tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert torch.equal(again(ids).logits, model(ids).logits), "the reloaded model gives other outputs"
    console.print(f"[bold]Saved[/]  and loaded again as {type(again).__name__}: identical outputs\n")


def check_sums(answers) -> None:
    largest = max(abs(answer.residuals).max() for answer in answers)
    share = max((abs(answer.residuals) / abs(answer.scores).sum(1)).max() for answer in answers)
    console.print(
        f"[bold]Exact[/]  Over all {sum(map(len, answers))} tokens written, logit and summed contributions differ by "
        f"at most {largest:.1e}: float32 rounding, {share:.1e} of the contributions' sizes.\n"
    )
    assert share < 1e-4, "the contributions do not sum to the logit"


if __name__ == "__main__":
    main()
