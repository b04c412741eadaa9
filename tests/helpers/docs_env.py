"""Runs the Python blocks of a documentation page, or the examples of the docstrings, without a network.

A page is run in a process of its own whose hub cache holds, under the names that the documentation uses, tiny random
models with tokenizers trained on the documentation's own words. `from_pretrained("google-bert/bert-base-uncased")`
then takes its ordinary path through transformers and huggingface_hub, which find the files in the cache. Data sets of
the hub are stood in for by a few rows. To use another name in the documentation, add a line to MODELS or DATASETS.

    python tests/helpers/docs_env.py README.md      # one page by hand, from the root of the repository
"""

from __future__ import annotations

import doctest
import functools
import importlib
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path


ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

# Hub name: (model_type, Auto class of the checkpoint's head, labels of a fine-tuned classifier).
MODELS = {
    "google-bert/bert-base-uncased": ("bert", "AutoModelForMaskedLM", None),
    "sentence-transformers/all-MiniLM-L6-v2": ("bert", "AutoModel", None),
    "cross-encoder/ms-marco-MiniLM-L6-v2": ("bert", "AutoModelForSequenceClassification", ["LABEL_0"]),
    "FacebookAI/roberta-base": ("roberta", "AutoModelForMaskedLM", None),
    "FacebookAI/xlm-roberta-base": ("xlm-roberta", "AutoModelForMaskedLM", None),
    "distilbert/distilbert-base-uncased": ("distilbert", "AutoModelForMaskedLM", None),
    "distilbert/distilbert-base-uncased-finetuned-sst-2-english": (
        "distilbert",
        "AutoModelForSequenceClassification",
        ["NEGATIVE", "POSITIVE"],
    ),
    "google/electra-small-discriminator": ("electra", "AutoModelForMaskedLM", None),
    "answerdotai/ModernBERT-base": ("modernbert", "AutoModelForMaskedLM", None),
    "microsoft/deberta-v3-base": ("deberta-v2", "AutoModelForMaskedLM", None),
    "HuggingFaceTB/SmolLM2-135M-Instruct": ("llama", "AutoModelForCausalLM", None),
    "meta-llama/Llama-3.2-1B": ("llama", "AutoModelForCausalLM", None),
}
# Which kind of tokenizer a model type has; WordPiece where nothing is said.
TOKENIZERS = {"roberta": "bpe", "modernbert": "bpe", "xlm-roberta": "unigram", "deberta-v2": "unigram", "llama": "bpe"}
# A chat template for models whose name says that they follow instructions.
CHAT = (
    "{% for message in messages %}[CLS]{{ message['role'] }}: {{ message['content'] }}[SEP]{% endfor %}"
    "{% if add_generation_prompt %}[CLS]assistant: {% endif %}"
)

# Hub name: the columns of each of its splits.
DATASETS = {
    "stanfordnlp/imdb": {
        "text": ["A gripping, beautifully shot film.", "Two hours that I shall not get back."] * 8,
        "label": [1, 0] * 8,
    },
    "trl-lib/Capybara": {
        "messages": [
            [{"role": "user", "content": "What is a film?"}, {"role": "assistant", "content": "Pictures that move."}],
            [{"role": "user", "content": "Name a colour."}, {"role": "assistant", "content": "Red."}],
        ]
        * 8,
    },
    "trl-lib/ultrafeedback_binarized": {
        "chosen": [[{"role": "user", "content": "Name a colour."}, {"role": "assistant", "content": "Red."}]] * 16,
        "rejected": [[{"role": "user", "content": "Name a colour."}, {"role": "assistant", "content": "No."}]] * 16,
    },
    "tatsu-lab/alpaca": {
        "output": ["Red.", "Pictures that move."] * 8,
        "text": [
            "### Instruction:\nName a colour.\n\n### Response:\nRed.",
            "### Instruction:\nWhat is a film?\n\n### Response:\nPictures that move.",
        ]
        * 8,
    },
    "nyu-mll/blimp": {
        "sentence_good": ["Katherine can't help herself.", "Karla could listen to herself."] * 8,
        "sentence_bad": ["Katherine can't help himself.", "Karla could listen to himself."] * 8,
        "UID": ["anaphor_gender_agreement"] * 16,
    },
    "Hate-speech-CNERG/hatexplain": {
        "post_tokens": [["you", "are", "all", "fools"], ["a", "fine", "day"]] * 8,
        "annotators": [{"label": [2, 2, 1]}, {"label": [1, 1, 1]}] * 8,
        "rationales": [[[0, 0, 0, 1], [0, 0, 1, 1]], []] * 8,
    },
}
SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


@dataclass(frozen=True)
class Block:
    """A fenced Python block: its page, the line of its first statement, its code, and whether it is to be run."""

    page: Path
    line: int
    code: str
    run: bool

    @property
    def key(self) -> tuple[str, str]:
        """The page and the block's first line of code: names it in tests, wherever the page moves it."""
        first = next((line for line in self.code.splitlines() if line.strip()), "")
        return self.page.relative_to(ROOT).as_posix(), first.strip()


def blocks(page: Path) -> list[Block]:
    """The Python blocks of a page, in order. A fence that looks like Python but is not marked `python` is an error."""
    found, fence, info, start = [], None, "", 0
    lines = page.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        opening = re.match(r"\s*(`{3,}|~{3,})(.*)$", line)
        if fence is None and opening:
            fence, info, start = opening[1], opening[2].strip(), number
        elif fence is not None and line.strip() == fence:
            if info in ("python", "python no-run"):
                indent = len(lines[start - 1]) - len(lines[start - 1].lstrip())
                code = "\n".join(text[indent:] for text in lines[start : number - 1])
                found.append(Block(page, start + 1, code, info == "python"))
            elif info.lower().startswith(("py", "{.py")):
                raise ValueError(f"{page}:{start}: fence ```{info}: write ```python, or ```python no-run")
            fence = None
    if fence is not None:
        raise ValueError(f"{page}:{start}: the fence is not closed")
    return found


def environment(hub: Path) -> dict[str, str]:
    """The environment variables for a process that runs a page against the stand-ins in `hub`."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "SYSTEMROOT", "TMPDIR") if name in os.environ}
    # OPENBLAS_* may be set on machines whose processor older OpenBLAS builds misjudge.
    kept.update({name: value for name, value in os.environ.items() if name.startswith("OPENBLAS_")})
    return {
        **kept,
        "HF_HOME": str(hub),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), "."]),
    }


def run_page(page: Path, folder: Path, timeout: float = 240) -> subprocess.CompletedProcess:
    """Run a page's blocks, in order and in one namespace, in a new process that starts in `folder/work`."""
    return run_inside(["page", str(page.resolve())], folder, timeout)


def run_docstrings(folder: Path, package: str = "bcos_peft", timeout: float = 280) -> subprocess.CompletedProcess:
    """Run the examples in the docstrings of a package, each in a namespace of its own, in one new process."""
    return run_inside(["docstrings", package], folder, timeout)


def run_inside(arguments: list[str], folder: Path, timeout: float) -> subprocess.CompletedProcess:
    (work := folder / "work").mkdir(parents=True, exist_ok=True)
    command = [Path(__file__).resolve(), "--inside", *arguments]
    home = Path(_hub().name)
    for left in (home / name for name in ("datasets", "modules")):  # code and tables of an earlier page
        shutil.rmtree(left, ignore_errors=True)
    variables = environment(home)
    from helpers.launching import HUGGING_FACE, start  # not where the page itself runs

    return start(command, variables, cwd=work, seconds=timeout, imported=HUGGING_FACE, imported_in=variables)


@functools.cache
def _hub() -> tempfile.TemporaryDirectory:
    """One home for all pages: huggingface_hub reads where it is when it is imported, which is once for all of them."""
    return tempfile.TemporaryDirectory()


# What follows runs inside that process.


def build_tokenizer(kind: str, text: list[str], causal: bool = False):
    """A fast tokenizer of the given kind, trained on `text`. A language model's puts a token before a text only."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = list(SPECIAL.values())
    if kind == "bpe":
        core = Tokenizer(models.BPE())
        core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=800, special_tokens=special, initial_alphabet=alphabet)
    elif kind == "unigram":
        core = Tokenizer(models.Unigram())
        core.pre_tokenizer, core.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=800, special_tokens=special, unk_token="[UNK]")
    else:
        core = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        core.normalizer = normalizers.BertNormalizer(lowercase=True)
        core.pre_tokenizer, core.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(vocab_size=800, special_tokens=special)
    core.train_from_iterator(text, trainer)
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A" if causal else "[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, core.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    ends = {"bos_token": "[CLS]", "eos_token": "[SEP]"} if causal else {}
    return PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=320 if causal else 128, **SPECIAL, **ends)


def build_model(name: str, text: list[str], cache: Path) -> None:
    """Write the stand-in for a hub name into a hub cache, laid out as huggingface_hub does."""
    import torch
    import transformers

    repository = cache / f"models--{name.replace('/', '--')}"
    if repository.exists():  # by an earlier page
        return
    model_type, auto, labels = MODELS[name]
    tokenizer = build_tokenizer(TOKENIZERS.get(model_type, "wordpiece"), text, causal="CausalLM" in auto)
    if "Instruct" in name:
        tokenizer.chat_template = CHAT
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    if model_type == "distilbert":
        size = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}
    elif model_type == "electra":
        size["embedding_size"] = 32
    ids = {f"{part}_token_id": getattr(tokenizer, f"{part}_token_id") for part in ("pad", "cls", "sep")}
    config = transformers.AutoConfig.for_model(
        model_type,
        vocab_size=len(tokenizer),
        max_position_embeddings=320,
        bos_token_id=ids["cls_token_id"],
        eos_token_id=ids["sep_token_id"],
        **size,
        **ids,
    )
    if labels:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: index for index, label in enumerate(labels)}
    torch.manual_seed(0)
    snapshot = repository / "snapshots" / ("0" * 40)
    getattr(transformers, auto).from_config(config).save_pretrained(snapshot)
    tokenizer.save_pretrained(snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)


def stand_in_datasets() -> None:
    """Let `datasets.load_dataset` answer for the names of DATASETS, and pass every other call on."""
    import datasets

    load = datasets.load_dataset

    def load_dataset(path, *args, split=None, **kwargs):
        if path not in DATASETS:
            return load(path, *args, split=split, **kwargs)
        names = ["neg", "pos"]  # as the real one has them
        rows = datasets.Dataset.from_dict(DATASETS[path])
        if "label" in rows.column_names:
            rows = rows.cast_column("label", datasets.ClassLabel(names=names))
        if split is None:
            return datasets.DatasetDict(train=rows, test=rows)
        part = re.search(r"\[:(\d+)%?\]", split)
        return rows.select(range(min(len(rows), int(part[1])))) if part else rows

    datasets.load_dataset = load_dataset


def stand_in(code: str) -> None:
    """Build what `code` names: models in the hub cache, data sets in place of the real ones."""
    from huggingface_hub.constants import HF_HUB_CACHE

    text = [line for page in PAGES for line in page.read_text(encoding="utf-8").splitlines()]
    for name in MODELS:
        if re.search(rf"[\"']{re.escape(name)}[\"']", code):
            build_model(name, text, Path(HF_HUB_CACHE))
    if any(name in code for name in DATASETS):
        stand_in_datasets()


def calibrate_on_less() -> None:
    """Of the text that a calibration makes itself, a sixteenth will do for models as small as the stand-ins."""
    from bcos_peft.calibration import calibrate

    gather = calibrate._gather
    calibrate._gather = lambda model, rows, more: gather(model, rows, more // 16)


def seed() -> None:
    """The random models of an example are the same in every run: one that passes here passes everywhere."""
    import torch

    torch.manual_seed(0)


def page_inside(page: Path) -> None:
    """Run the blocks of a page."""
    to_run = [block for block in blocks(page) if block.run]
    stand_in("\n".join(block.code for block in to_run))
    calibrate_on_less()
    seed()
    namespace = {"__name__": "__main__"}
    for block in to_run:
        # The empty lines before it make a traceback point into the page.
        exec(compile("\n" * (block.line - 1) + block.code, str(page), "exec"), namespace)
    print(f"ran {len(to_run)} blocks")


def docstrings_inside(package: str) -> None:
    """Run the examples in the docstrings of a package and its modules; exit with 1 if one prints something else."""
    root = importlib.import_module(package)
    names = [info.name for info in pkgutil.walk_packages(getattr(root, "__path__", ()), f"{package}.")]
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [test for name in [package, *sorted(names)] for test in finder.find(importlib.import_module(name))]
    tests = [test for test in found if test.examples]
    stand_in("\n".join(example.source for test in tests for example in test.examples))
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for test in tests:
        print(test.name)
        seed()
        runner.run(test)
    print(f"ran {runner.tries} examples, {runner.failures} failed")
    sys.exit(runner.failures > 0)


if __name__ == "__main__":
    if sys.argv[1] == "--inside":
        for category in (DeprecationWarning, FutureWarning):
            warnings.filterwarnings("error", category=category, module="__main__")
        kind, argument = sys.argv[2:]
        page_inside(Path(argument)) if kind == "page" else docstrings_inside(argument)
    else:
        sys.path.insert(0, str(ROOT / "tests"))
        with tempfile.TemporaryDirectory() as folder:
            run = run_page(Path(sys.argv[1]), Path(folder))
        print(run.stdout, run.stderr, sep="\n")
        sys.exit(run.returncode)
