"""Tasks and recipes of the studies: data, training, conversion, and models that are kept under outputs/."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from filelock import FileLock
from tqdm.auto import tqdm
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

from bcos_peft import BcosConfig, bcos_bce_loss, get_bcos_model, hide_tokens


sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
import bundled
from texts import reviews


logging.disable_progress_bar()  # one bar is enough

KEPT = Path(__file__).parent.parent / "outputs" / "studies"
DEVICE = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
CALIBRATION_TEXTS = 256
HUB = {"ag_news": "fancyzhx/ag_news", "imdb": "stanfordnlp/imdb", "hatexplain": "Hate-speech-CNERG/hatexplain"}
Row = tuple[str, int]


@dataclass
class Task:
    """Texts with classes, and the checkpoint that is trained on them."""

    name: str
    train: list[Row]
    test: list[Row]
    classes: int
    base: str
    tokenizer: object
    rationales: list = field(default_factory=list)

    def stock(self, seed: int):
        torch.manual_seed(seed)
        return AutoModelForSequenceClassification.from_pretrained(self.base, num_labels=self.classes)

    def inputs(self, texts: Sequence[str], hidden: float = 0.0):
        """A batch; with this share of the tokens hidden, in the mean."""
        found = self.tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt").to(DEVICE)
        if hidden:
            found["input_ids"] = hide_tokens(found["input_ids"], self.tokenizer, hidden)
        return found


def load_task(name: str, base: str | None = None, train: int = 7910, test: int = 1000, max_tokens: int = 128) -> Task:
    """`"reviews"` and `"tweets"` need no network; `"ag_news"`, `"imdb"`, `"hatexplain"` and names with a `/` do."""
    base = base or bundled.minilm()
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.model_max_length = min(tokenizer.model_max_length, max_tokens)
    rationales = []
    if name == "reviews":
        rows = [(text, int(rating > 0)) for text, rating in reviews() if abs(rating) >= 0.5]
    elif name == "tweets":
        rows = [(row["text"], row["label"] // 2) for row in bundled.read_tweets() if row["label"] != 1]
    else:
        from bcos_peft.evaluation.data import load_hub_data

        data = load_hub_data(HUB.get(name, name))
        parts = [data["train"], data["test"]]
        if name == "hatexplain":
            from bcos_peft.evaluation import hatexplain_rationales

            rationales = hatexplain_rationales(data["test"])
            parts = [_hatexplain(part) for part in parts]
        else:
            parts = [list(zip(part["text"], part["label"], strict=True)) for part in parts]
        for part in parts:
            random.Random(0).shuffle(part)
        rows = parts[1][:test] + parts[0]
    if name in ("reviews", "tweets"):
        random.Random(0).shuffle(rows)
    classes = len({label for _, label in rows})
    return Task(name, rows[test : test + train], rows[:test], classes, base, tokenizer, rationales)


def _hatexplain(rows) -> list[Row]:
    found = []
    for row in rows:
        labels = row["annotators"]["label"]
        best = max(set(labels), key=labels.count)
        if labels.count(best) > 1:
            found.append((" ".join(row["post_tokens"]), int(best)))
    return found


@dataclass(frozen=True)
class Recipe:
    """How a model comes about. Without `b` it is a conventional one.

    After `1 - after` of the steps as a conventional model it is converted, and trained on; `after=1` converts the
    stock model, `after=0` one that is trained to its end. With `more` there are so many steps more after that. Tokens
    are hidden in the last third of `steps` and in those that are more, a share of `hidden` in the mean. `loss` and
    `hidden` are those of the training after the conversion; `alike` has the conventional model before it trained so.
    `refine` calibrates with variations of the texts and refines blocks, as is the package's default; training follows
    here in any case, and most models of the studies do without.
    """

    b: float | None = None
    steps: int = 300
    batch: int = 16
    after: float = 1.0
    more: int = 0
    alike: bool = False
    rate: float = 1e-4
    loss: str = "ce"
    normalize_weights: bool = False
    calibrate: bool = False
    refine: bool = False
    align: bool = True
    pooler_activation: str = "identity"
    hidden: float = 0.0
    seed: int = 0

    @property
    def before(self) -> int:
        """Steps before the conversion."""
        return 0 if self.b is None else round(self.steps * (1 - self.after))

    def config(self) -> BcosConfig:
        plain = {} if self.refine else {"calibration_replay": 0, "calibration_epochs": 0}
        return BcosConfig(
            b=self.b,
            **plain,
            normalize_weights=self.normalize_weights,
            align=self.align,
            pooler_activation=self.pooler_activation,
        )


def conventional(**changes) -> Recipe:
    return replace(Recipe(), **changes)


def published(b: float, **changes) -> Recipe:
    """The order of the paper: convert, then train."""
    return replace(Recipe(b=b, rate=3e-4, loss="bce", normalize_weights=True), **changes)


def calibrated(b: float, **changes) -> Recipe:
    """Train two thirds, convert with calibration, train the last third."""
    return replace(Recipe(b=b, after=1 / 3, rate=5e-5, calibrate=True), **changes)


def train(
    task: Task,
    model,
    recipe: Recipe,
    steps: range,
    keep: Sequence[int] = (),
    after_step: Callable[[int], bool | None] | None = None,
) -> dict[int, object]:
    """Train for these steps of the recipe's; copies of the model after some steps. `after_step` may say stop."""
    rows = list(task.train)
    random.Random(recipe.seed).shuffle(rows)
    torch.manual_seed(recipe.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.rate, fused=True)  # its step is five times as fast
    warm, last = max(1, len(steps) // 10), len(steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda done: min((done + 1) / warm, (last - done) / max(1, last - warm))
    )
    kept = {}
    for step in tqdm(steps, desc="training", leave=False, disable=None):
        start = step * recipe.batch
        part = [rows[i % len(rows)] for i in range(start, start + recipe.batch)]
        hidden = recipe.hidden if step >= 2 * recipe.steps // 3 else 0.0
        inputs = task.inputs([text for text, _ in part], hidden)
        labels = torch.tensor([label for _, label in part], device=DEVICE)
        logits = model.train()(**inputs).logits
        loss = (
            bcos_bce_loss(logits, labels)
            if recipe.loss == "bce"
            else torch.nn.functional.cross_entropy(logits, labels)
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step(), schedule.step(), optimizer.zero_grad()
        if step + 1 in keep:
            kept[step + 1] = copy.deepcopy(model).eval()
        if after_step is not None and after_step(step + 1):
            break
    model.eval()
    return kept


@torch.no_grad()
def correct(task: Task, model, rows: Sequence[Row] | None = None) -> list[float]:
    """Of each row whether the model is right, 1 or 0."""
    rows = task.test if rows is None else rows
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]))
    found = [0.0] * len(rows)
    for start in range(0, len(rows), 50):
        part = order[start : start + 50]
        best = model.eval()(**task.inputs([rows[i][0] for i in part])).logits.argmax(-1).tolist()
        for i, label in zip(part, best, strict=True):
            found[i] = float(label == rows[i][1])
    return found


def convert(task: Task, model, recipe: Recipe):
    if not recipe.calibrate:
        return get_bcos_model(model, recipe.config())
    texts = [text for text, _ in task.train[:CALIBRATION_TEXTS]]
    return get_bcos_model(model, recipe.config(), calibration_data=texts, tokenizer=task.tokenizer)


def build(task: Task, recipe: Recipe):
    """The model of a recipe and what happened on the way, made once and kept under outputs/studies/models."""
    folder = _folder(task, recipe)
    with alone(folder):
        if not (folder / "facts.json").exists():
            model, facts = _make(task, recipe)
            _keep(folder, model, facts)
    facts = json.loads((folder / "facts.json").read_text())
    return AutoModelForSequenceClassification.from_pretrained(folder).to(DEVICE).eval(), facts


def _make(task: Task, recipe: Recipe):
    began, facts = time.perf_counter(), {}
    if recipe.before:
        model = _half_way(task, recipe)
    else:
        model = task.stock(recipe.seed).to(DEVICE)
    if recipe.b is not None:
        converting = time.perf_counter()
        model = convert(task, model, recipe)
        facts["conversion_seconds"] = time.perf_counter() - converting
        rows = task.test
        facts["accuracy_before_training"] = sum(correct(task, model, rows)) / len(rows)
    third = calibrated(1.0, steps=recipe.steps).before
    keep = [third] if recipe == _usual(recipe) else []  # most converted models begin there
    kept = train(task, model, recipe, range(recipe.before, recipe.steps + recipe.more), keep)
    for step, half in kept.items():
        _keep(_folder(task, recipe) / f"step-{step}", half, {})
    return model, {**facts, "seconds": time.perf_counter() - began}


def _half_way(task: Task, recipe: Recipe):
    """The conventional model as it was when this recipe converts it: a moment of its training in full."""
    whole = _usual(recipe)
    if recipe.before == recipe.steps:
        return build(task, whole)[0]
    folder = _folder(task, whole) / f"step-{recipe.before}"
    with alone(folder.parent):
        _make_half_way(task, recipe, whole, folder)
    return AutoModelForSequenceClassification.from_pretrained(folder).to(DEVICE)


def _make_half_way(task: Task, recipe: Recipe, whole: Recipe, folder: Path) -> None:
    if not (folder / "facts.json").exists():
        model = task.stock(recipe.seed).to(DEVICE)
        known = (folder.parent / "facts.json").exists()
        stop = (lambda step: step == recipe.before) if known else None
        found = train(task, model, whole, range(whole.steps), keep=[recipe.before], after_step=stop)
        _keep(folder, found[recipe.before], {})
        if not known:
            _keep(folder.parent, model, {})


def _usual(recipe: Recipe) -> Recipe:
    """The conventional model of the same steps: one that many recipes share, or one with this recipe's training."""
    more = {"loss": recipe.loss, "hidden": recipe.hidden} if recipe.alike else {}
    return conventional(steps=recipe.steps, batch=recipe.batch, seed=recipe.seed, **more)


def _folder(task: Task, recipe: Recipe) -> Path:
    facts = [
        asdict(recipe),
        task.name,
        Path(task.base).name,
        len(task.train),
        len(task.test),
        task.tokenizer.model_max_length,
    ]
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]
    return KEPT / "models" / f"{task.name.replace('/', '-')}-{digest}"


def alone(folder: Path) -> FileLock:
    """While another process makes the model of this folder, wait for it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(folder.with_suffix(".lock"))


def _keep(folder: Path, model, facts: dict) -> None:
    model.save_pretrained(folder)
    (folder / "facts.json").write_text(json.dumps(facts) + "\n")  # last: with it the folder is whole
