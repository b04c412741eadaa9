"""LoRA in B-cos layers, whenever peft is imported, and without it."""

import peft
import pytest
from helpers import tiny
from helpers.adapters import layer_types
from helpers.launching import start
from helpers.paths import TESTS
from peft import LoraConfig, get_peft_model


@pytest.mark.parametrize(
    "imports",
    [
        "peft, bcos_peft",
        "bcos_peft, peft",
        pytest.param("bcos_peft.lora.layer", marks=pytest.mark.slow),
        pytest.param("bcos_peft.lora.config", marks=pytest.mark.slow),
    ],
)
def test_the_order_of_imports_makes_no_difference(imports):
    code = f"""
import {imports}
import peft
from helpers import tiny
from bcos_peft import BcosConfig, get_bcos_model
model = get_bcos_model(tiny.model("llama", "CausalLM"), BcosConfig())
model = peft.get_peft_model(model, peft.LoraConfig(target_modules=["up_proj"]))
print(type(model.base_model.model.model.layers[0].mlp.up_proj).__name__)
"""
    run = start(["-c", code], cwd=TESTS)
    assert run.stdout.split()[-1:] == ["BcosLora"], run.stderr


def test_an_import_of_peft_that_fails_can_be_repeated(tmp_path):
    (tmp_path / "peft.py").write_text("raise ImportError('not today')")
    code = f"""
import sys
import bcos_peft
sys.path.insert(0, {str(tmp_path)!r})
try:
    import peft
except ImportError as error:
    print(error)
sys.path.pop(0)
import importlib; importlib.invalidate_caches()
import peft
from peft.tuners.tuners_utils import BaseTuner
left = sum("bcos_peft" in type(finder).__module__ and finder.name == "peft" for finder in sys.meta_path)
print(hasattr(BaseTuner.inject_adapter, "_bcos_peft"), left)
"""
    run = start(["-c", code])
    assert run.stdout.splitlines()[0] == "not today", run.stderr
    assert run.stdout.splitlines()[-1] == "True 0", run.stderr


def test_the_package_works_without_peft():
    code = """
import sys
sys.modules["peft"] = None
from helpers import tiny
from bcos_peft import BcosConfig, BcosScheduleCallback, attribute, get_bcos_model
model = get_bcos_model(tiny.model("llama", "CausalLM"), BcosConfig())
print(float(attribute(model, **tiny.inputs()).residual.abs().max()) < 1e-4)
try:
    from bcos_peft import load
except ImportError as error:
    print("pip install" in str(error))
"""
    run = start(["-c", code], cwd=TESTS)
    assert run.stdout.split()[-2:] == ["True", "True"], run.stderr


def test_stock_models_are_left_to_peft():
    model = get_peft_model(tiny.model("llama", "CausalLM"), LoraConfig(target_modules="all-linear"))
    assert set(layer_types(model).values()) == {peft.tuners.lora.layer.Linear}
    assert model.peft_config["default"]._custom_modules is None
