"""A process without the package, in front of a stand-in of the hub."""

import os
import textwrap

import yaml

from bcos_peft import BcosConfig, get_bcos_model
from helpers import tiny
from helpers.launching import start
from helpers.paths import ROOT


BY_HAND = "---\nlicense: mit\ntags:\n- mine\n---\n\n# Written by hand\n"


def converted(task="SequenceClassification", config=None, base=None, verify=False):
    stock = tiny.model("bert", task)
    if base is not None:
        stock.config._name_or_path = str(base)
    return get_bcos_model(stock, config or BcosConfig(b=1.5), verify=verify)


def card_of(directory):
    text = (directory / "README.md").read_text(encoding="utf-8")
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


def run(code, cwd, env=None, ok=True):
    """Run code in a new process, which knows the tests' helpers."""
    env = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        **(env or {}),
    }
    done = start(["-c", textwrap.dedent(code)], env, cwd)
    assert (done.returncode == 0) == ok, done.stdout[-2000:] + done.stderr[-6000:]
    return done.stdout if ok else done.stderr


PREPARE = """
    import json, sys, torch
    from helpers import tiny
    from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments
    from bcos_peft import BcosConfig, get_bcos_model
    stock = tiny.model("bert")
    stock.config._name_or_path = "someone/base"
    model = get_bcos_model(stock, BcosConfig(b=1.5))
    def check(name, **options):
        back, info = AutoModelForSequenceClassification.from_pretrained(name, output_loading_info=True, **options)
        assert not any(info.values()), info
        assert torch.equal(back.eval()(**tiny.inputs()).logits, model.eval()(**tiny.inputs()).logits)
        return back
"""


def front(content):
    return yaml.safe_load(content.decode().split("---\n")[1])
