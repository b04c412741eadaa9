"""What is saved with faults: each case prepares old files, saves something new over them, and reads what is there.

What it needs is imported on use: in some processes this package, in some torch, is not to be imported.
"""

from functools import cached_property, partial
from pathlib import Path


SMALL = {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}


class Model:
    """A converted model over another; `old` is `bcos`, `shards`, `stock` or `none`."""

    def __init__(self, old: str):
        self.old, self.stock = old, old == "stock"

    @cached_property
    def models(self):
        from bcos_peft import BcosConfig, get_bcos_model
        from helpers import tiny

        old = tiny.model("bert", seed=0, **SMALL)
        if not self.stock:
            old = get_bcos_model(old, BcosConfig(b=1.25), verify=False)
        return old, get_bcos_model(tiny.model("bert", seed=1, **SMALL), BcosConfig(b=2.0), verify=False)

    def prepare(self, folder):
        if self.old != "none":
            self.models[0].save_pretrained(folder, max_shard_size="9KB" if self.old == "shards" else "1GB")

    def save(self, folder):
        self.models[1].save_pretrained(folder, repo_id="model")  # the name of the folder would be in the card

    def read(self, folder):
        import torch
        import transformers

        from helpers import tiny

        model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
        with torch.no_grad():
            return [type(model).__name__, model(**tiny.inputs()).logits.tolist()]


class Adapter:
    """An adapter over another; with something trained beside it, the old one."""

    stock = False

    @cached_property
    def models(self):
        from bcos_peft import BcosConfig, get_bcos_model
        from helpers import tiny
        from helpers.adapters import adapted

        found = []
        for seed, options in enumerate(({"r": 2, "modules_to_save": ["classifier"]}, {"r": 4})):
            base = get_bcos_model(tiny.model("bert", **SMALL), BcosConfig(b=1.5), verify=False)
            found.append(adapted(base, seed, task_type="SEQ_CLS", **options))
        found[0].base_model.model.bert.encoder.layer[0].output.LayerNorm.weight.requires_grad_(True).data.mul_(2)
        return found

    def prepare(self, folder):
        self.models[0].save_pretrained(folder)

    def save(self, folder):
        self.models[1].save_pretrained(folder, repo_id="adapter")

    def read(self, folder):
        import torch

        import bcos_peft
        from helpers import tiny

        model = bcos_peft.load(folder, base=tiny.model("bert", **SMALL), verify=False)
        with torch.no_grad():
            return model(**tiny.inputs()).logits.tolist()


class Explanation:
    stock = False

    def prepare(self, folder, seed=0):
        from helpers.human_kits import explanation

        explanation("A fine film.", seed).save(Path(folder, "explanation.json"))

    def save(self, folder):
        self.prepare(folder, 1)

    def read(self, folder):
        import bcos_peft

        return bcos_peft.Explanation.load(Path(folder, "explanation.json")).to_dict()


class Kit:
    """A kit for readers in a new folder; a page is nothing without its key."""

    stock = False

    def prepare(self, folder):
        pass

    def save(self, folder):
        from helpers.human_kits import kit_of

        kit_of().save(folder)

    def read(self, folder):
        from bcos_peft.evaluation import HumanKit

        return [HumanKit.load(folder).to_dict(), Path(folder, "page.html").read_text()]


class Result:
    """The result of an evaluation."""

    stock = False

    def prepare(self, folder, number=0.25):
        from bcos_peft.evaluation import EvaluationResult, Record, Value

        records = [Record("m", "ig", "seqpg", key, {"seqpg": number}) for key in "xy"]
        EvaluationResult(records, {"seqpg": Value("SeqPG", True)}).save(folder)

    def save(self, folder):
        self.prepare(folder, 0.75)

    def read(self, folder):
        from bcos_peft.evaluation import EvaluationResult

        found = EvaluationResult.load(folder).to_dict()
        return [found, *(Path(folder, name).read_text() for name in ("results.md", "examples.csv"))]


class Checkpoint:
    """That of an evaluation, to which records are added."""

    stock = False
    run = {"weights": "", "model": "m", "method": "ig", "method_settings": {}, "metric": "seqpg"}

    def prepare(self, folder, keys="ab"):
        from bcos_peft.evaluation import Cost, Record
        from bcos_peft.evaluation.results import Checkpoint

        records = {key: Record("m", "ig", "seqpg", key, {"seqpg": 0.5}) for key in keys}
        Checkpoint(Path(folder, "records.jsonl")).add(self.run, records, "ig", Cost())

    def save(self, folder):
        self.prepare(folder, "cd")

    def read(self, folder):
        from bcos_peft.evaluation.results import Checkpoint

        kept = Checkpoint(Path(folder, "records.jsonl"))
        return [key for key in "abcd" if kept.has(self.run, key) and kept.record(self.run, key).values]


class Folder:
    """Files in a folder and in one below, with two gates, of which one goes. Also killed while it is put right."""

    stock = False
    gates = {"first": None, "second": "closed"}

    def prepare(self, folder, text="old", names=("first", "second", "stale", "below/first")):
        from bcos_peft._utils.staging import staged

        def stale(new, present):
            return sorted({"stale"}.intersection(present) - set(new))

        with staged(Path(folder), self.gates, stale) as new:
            for name in names:
                (new / name).parent.mkdir(exist_ok=True)
                (new / name).write_text(f"{text} {name}")

    def save(self, folder):
        self.prepare(folder, "new", ("second", "a", "below/first", "below/b"))

    def read(self, folder):
        from bcos_peft._utils.staging import settle

        settle(folder)
        files = sorted(path for path in Path(folder).rglob("*") if path.is_file() and ".saving-" not in str(path))
        return {str(path.relative_to(folder)): path.read_text() for path in files}


KINDS = {
    "model over shards": partial(Model, "shards"),
    "model over a stock model": partial(Model, "stock"),
    "first model": partial(Model, "none"),
    "adapter": Adapter,
    "explanation": Explanation,
    "kit": Kit,
    "result": Result,
    "checkpoint": Checkpoint,
    "folder": Folder,
}
