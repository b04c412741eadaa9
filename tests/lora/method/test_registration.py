"""The method is there whenever peft is, whichever package comes first; the hub gets its adapters with a card."""

import json

import pytest
from helpers.fake_hub import FakeHub
from helpers.hub_process import run
from helpers.launching import start
from helpers.paths import TESTS

from bcos_peft.lora.method import register_method


MAKE = """
from helpers import tiny
import copy, pickle
made_before = {before}
import {imports}
import peft
from bcos_peft import BcosConfig
config = made_before or BcosConfig(b=1.5)
model = peft.get_peft_model(tiny.model("bert"), config)
print(type(model.base_model).__name__, pickle.loads(pickle.dumps(config)) == config == copy.deepcopy(config))
"""


@pytest.mark.parametrize(
    ("imports", "before"),
    [
        ("peft, bcos_peft", "None"),
        ("bcos_peft, peft", "None"),
        ("peft", "__import__('bcos_peft').BcosConfig(b=1.5)"),
        pytest.param("bcos_peft.lora.method.config", "None", marks=pytest.mark.slow),
        pytest.param("bcos_peft.lora.method.tuner", "None", marks=pytest.mark.slow),
        pytest.param("bcos_peft.lora.config", "None", marks=pytest.mark.slow),
    ],
)
def test_the_order_of_imports_makes_no_difference(imports, before):
    done = start(["-c", MAKE.format(imports=imports, before=before)], cwd=TESTS)
    assert done.stdout.split()[-2:] == ["BcosTuner", "True"], done.stderr


def test_configs_made_before_and_after_are_alike(tmp_path):
    code = """
import copy, dataclasses, pickle, sys
from bcos_peft import BcosConfig
before = BcosConfig(b=1.5, b_pattern={"x": 1}, task_type="SEQ_CLS")
assert "peft" not in sys.modules
stored = pickle.dumps(before)
import peft
after = BcosConfig(b=1.5, b_pattern={"x": 1}, task_type="SEQ_CLS")
assert isinstance(after, peft.PeftConfig) and not isinstance(before, peft.PeftConfig)
assert before == after == pickle.loads(stored) and before != BcosConfig(b=2) and after != 1
assert repr(before) == repr(after) and type(after).__name__ == "BcosConfig"
for made in (copy.copy(after), copy.deepcopy(after), dataclasses.replace(after), pickle.loads(pickle.dumps(after, 2))):
    assert made == after and made.task_type == "SEQ_CLS" and type(made) is type(after)
@dataclasses.dataclass
class Larger(BcosConfig):
    warmth: int = 3
assert [field.name for field in dataclasses.fields(Larger)][0] == "b" and Larger(2).b == 2
assert issubclass(Larger, BcosConfig) and type(Larger()) is Larger
import pathlib; pathlib.Path("after").write_bytes(pickle.dumps(after))
print("alike")
"""
    done = start(["-c", code], cwd=tmp_path)
    assert done.stdout.split()[-1:] == ["alike"], done.stderr
    code = """
import pickle, sys
sys.modules["peft"] = None
print(pickle.load(open("after", "rb")).task_type)
"""
    done = start(["-c", code], cwd=tmp_path)
    assert done.stdout.split()[-1:] == ["SEQ_CLS"], done.stderr


def test_a_second_registration_does_nothing():
    from peft import PeftType
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    before = list(PeftType), dict(PEFT_TYPE_TO_CONFIG_MAPPING)
    register_method()
    assert (list(PeftType), dict(PEFT_TYPE_TO_CONFIG_MAPPING)) == before


def test_without_peft_a_config_is_only_a_config():
    code = """
import sys
sys.modules["peft"] = None
from bcos_peft import BcosConfig, get_bcos_model
from helpers import tiny
config = BcosConfig(b=1.5, task_type="SEQ_CLS")
print(type(get_bcos_model(tiny.model("bert"), config)).__name__, config.task_type)
"""
    done = start(["-c", code], cwd=TESTS)
    assert done.stdout.split()[-2:] == ["BcosBertForSequenceClassification", "SEQ_CLS"], done.stderr


@pytest.mark.slow
def test_pushed_to_the_hub(tmp_path):
    code = """
import peft, torch
from helpers import tiny
from helpers.peft_method import learnt
import bcos_peft
from transformers import AutoModelForCausalLM

def logits(model):
    with torch.no_grad():
        return model.eval()(**tiny.inputs(family="llama")).logits

tiny.model("llama", "CausalLM").push_to_hub("me/base")
config = bcos_peft.BcosConfig(b=1.5, task_type="CAUSAL_LM")
model = learnt(peft.get_peft_model(AutoModelForCausalLM.from_pretrained("me/base"), config))
model.push_to_hub("me/adapter")
for loaded in (
    bcos_peft.load("me/adapter"),
    peft.AutoPeftModelForCausalLM.from_pretrained("me/adapter"),
    peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("me/base"), "me/adapter"),
):
    assert torch.equal(logits(loaded), logits(model))
"""
    with FakeHub() as hub:
        run(code, tmp_path, hub.environment(tmp_path / "home"))
        files = hub.repos["me/adapter"]["main"]
    assert {"adapter_config.json", "adapter_model.safetensors", "README.md"} <= set(files)
    assert "bcos_weights.safetensors" not in files
    assert json.loads(files["adapter_config.json"])["peft_type"] == "BCOS"
    card = files["README.md"].decode()
    assert "# B-cos adapter" in card
    assert 'bcos_peft.load("me/adapter")' in card
    assert "base_model: me/base" in card
    assert "/tmp" not in card
