"""Architectures without a table: a third of all that transformers has, by the commit, and those most used.

`make architectures` checks all of them, and calibration and generation, too.
"""

import hashlib
import os
import subprocess

import pytest
import torch
from architectures import check, configs
from architectures.control import nothing_held
from helpers import tiny
from helpers.paths import ROOT

from bcos_peft import BcosConfig, attribute, get_bcos_model
from bcos_peft.discovery import infer_family
from bcos_peft.families import families
from bcos_peft.nn import BcosLayer


pytestmark = pytest.mark.newest  # the architectures of the newest transformers

MOST_USED = """
    mpnet t5 bart gpt_oss qwen3_5_text nomic_bert deepseek_v3 marian llama4_text camembert albert gemma4_text phi gte
    qwen2_moe bloom falcon mt5 m2m_100 glm4 olmo2 granite starcoder2 pegasus mamba qwen3_next jina_embeddings_v3 mbart
    glm4_moe jamba
""".split()
# Its experts sum in float32 what is kept in float64 while explaining.
MIXING = {"openai_privacy_filter"}


def part():
    """Which third: ARCHITECTURES=0, 1 or 2, or else what the commit says."""
    if "ARCHITECTURES" in os.environ:
        return int(os.environ["ARCHITECTURES"])
    found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return int(found.stdout.strip() or "0", 16) % 3


PART = part()
THIRD = [one for one in configs.text_types() if int(hashlib.sha256(one.encode()).hexdigest(), 16) % 3 == PART]


@pytest.mark.parametrize("model_type", sorted({*MOST_USED, *THIRD}))
def test_contributions_sum_without_a_table(model_type):
    result = check.check(model_type, everything=False)
    again = f"ARCHITECTURES={PART} chooses the same architectures again; {result}"
    assert result.certified, again
    assert result.saves, again
    # Plain gradients of the same inputs do not sum, if torch can take them and they are numbers.
    assert result.control is None or not result.control <= check.CONTROL, again
    if model_type not in MIXING:
        assert all(reason.startswith("the stock model cannot") for reason in result.reasons.values()), again


def test_the_control_holds_nothing_and_can_be_undone():
    stock = tiny.model("bert", "SequenceClassification", torch.float64)
    model, inputs = get_bcos_model(stock, BcosConfig(b=1.5)), tiny.inputs()
    with nothing_held():
        assert check.residual_of(attribute(model, **inputs)) > 0.01
    assert check.residual_of(attribute(model, **inputs)) < 1e-12


# Their tables say that the classifier loses its activation, which cannot be seen: it is called in the model's own
# forward, or does not saturate.
_ACTIVATION_KEPT = ("distilbert", "deberta")


@pytest.mark.parametrize("model_type", ["cohere", "recurrent_gemma"])
def test_stock_code_that_goes_on_with_a_text_finds_what_it_looks_for(model_type):
    with check.without_tables():
        assert check.generates(check.converted(model_type, torch.float32), seq2seq=False)


@pytest.mark.parametrize("model_type", ["gpt_oss", "qwen3_next", "llama4_text", "led"])
def test_experts_of_all_kinds_and_caches_are_no_hindrance_to_calibration(model_type):
    with check.without_tables():
        assert check.calibrates(model_type)


def test_blocks_that_share_layers_are_not_calibrated():
    with check.without_tables(), pytest.raises(ValueError, match="share layers"):
        check.calibrates("zamba")


def test_experts_are_told_from_other_weights_of_three_dimensions():
    kinds = {
        one: infer_family(configs.model(one, torch.float32)).replacements for one in ("mixtral", "jamba", "xlnet")
    }
    assert kinds["mixtral"]["MixtralExperts"] == kinds["jamba"]["JambaExperts"] == "experts"
    assert "Conv1d" not in kinds["jamba"]
    assert not any("experts" in kind for kind in kinds["xlnet"].values())


def _converted(family, task, target_modules=None):
    stock = tiny.model(family, task, torch.float64)
    stock.config._experts_implementation = "eager"  # others do not know float64
    for name, parameter in stock.named_parameters():
        if name.endswith("q_bias"):  # DeBERTa's table takes it away, too; it reaches no logit
            parameter.data.zero_()
    activation = "dynamic" if family in _ACTIVATION_KEPT else "identity"
    config = BcosConfig(b=1.5, target_modules=target_modules, pooler_activation=activation)
    model = get_bcos_model(stock, config)
    layers = [name for name, one in model.named_modules() if isinstance(one, BcosLayer) and one.b is not None]
    return model, layers


@pytest.mark.parametrize("family", [family.model_type for family in families()])
def test_what_is_found_explains_as_the_table_does(family):
    task = "CausalLM" if family in tiny.DECODERS else "SequenceClassification"
    # The same layers in both: tables keep projections of embeddings plain, which nothing shows.
    _, layers = _converted(family, task)
    inputs = tiny.inputs(family=family)
    with_table = attribute(_converted(family, task, layers)[0], **inputs, split=True)
    with check.without_tables():
        model, found = _converted(family, task, layers)
        assert found == layers
        without = attribute(model, **inputs, split=True)
        assert model.config.bcos["family"] is not None
    size = with_table.scores.abs().sum(-1).max()
    torch.testing.assert_close(without.scores / size, with_table.scores / size, rtol=0, atol=1e-6)
    torch.testing.assert_close(without.logits, with_table.logits, rtol=1e-6, atol=1e-9)
    for name, scores in with_table.parts.items():
        torch.testing.assert_close(without.parts[name] / size, scores / size, rtol=0, atol=1e-6)
