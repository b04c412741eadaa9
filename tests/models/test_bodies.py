"""A body loaded of a model with a head, a head put on a saved body, and one stack of two."""

import pytest
import torch
from helpers import trials
from transformers import AutoModel

from bcos_peft import BcosConfig, attribute, get_bcos_model, models


pytestmark = pytest.mark.newest

slow = "marian falcon gpt_oss qwen3_next gemma4_text mamba jamba mpnet albert nomic_bert mbart".split()


def states(model, inputs):
    with torch.no_grad():
        found = model.eval()(**inputs, output_hidden_states=model.base_model is model and hasattr(model, "lm_head"))
    if "last_hidden_state" in found:
        return found.last_hidden_state
    return found["decoder_hidden_states" if "decoder_hidden_states" in found else "hidden_states"][-1]


def first_values(output):
    return output[0].flatten(1)[:, :50].sum(1)


def exact(model, inputs):
    options = {"output": first_values} if type(model).__name__.endswith("Model") else {}
    return trials.check.residual_of(attribute(model, **inputs, **options)) < 1e-4


@pytest.mark.parametrize("model_type", ["t5", "bart", *(pytest.param(one, marks=pytest.mark.slow) for one in slow)])
def test_body_and_head_come_apart(model_type, tmp_path):
    model = trials.converted(model_type)
    inputs = trials.inputs_of(model)
    model.save_pretrained(tmp_path / "whole")
    body = AutoModel.from_pretrained(tmp_path / "whole", experts_implementation="eager")
    torch.testing.assert_close(states(body, inputs), states(model.base_model, inputs))
    assert exact(body, inputs)
    body.save_pretrained(tmp_path / "body")
    again = trials.auto_class(model_type).from_pretrained(tmp_path / "body", experts_implementation="eager")
    torch.testing.assert_close(states(again.base_model, inputs), states(body, inputs))
    assert exact(again, inputs)


def test_a_body_whose_name_is_not_that_of_its_head(tmp_path):
    """Llama 4's language model names another prefix than its body has."""
    model = trials.converted("llama4_text")
    model.save_pretrained(tmp_path)
    body = AutoModel.from_pretrained(tmp_path, experts_implementation="eager")
    inputs = trials.inputs_of(model)
    torch.testing.assert_close(states(body, inputs), states(model.model, inputs))
    assert exact(body, inputs)


@pytest.mark.parametrize(
    ("model_type", "name"),
    [
        ("t5", "T5EncoderModel"),
        ("t5", "T5ForTokenClassification"),
        ("bart", "BartForCausalLM"),
        pytest.param("t5", "T5ForSequenceClassification", marks=pytest.mark.slow),
        pytest.param("umt5", "UMT5EncoderModel", marks=pytest.mark.slow),
        pytest.param("marian", "MarianForCausalLM", marks=pytest.mark.slow),
    ],
)
def test_one_stack_of_two(model_type, name, tmp_path):
    model = trials.converted(model_type)
    ids = {"input_ids": trials.inputs_of(model)["input_ids"]}
    model.save_pretrained(tmp_path)
    part = getattr(models, f"Bcos{name}").from_pretrained(tmp_path)
    assert not part.bcos_family.seq2seq or name == "T5ForSequenceClassification"
    assert part.bcos_family.causal == name.endswith("CausalLM")
    assert exact(part, ids)
    if name.endswith("EncoderModel"):
        torch.testing.assert_close(states(part, ids), states(model.get_encoder(), ids))


def test_an_encoder_alone():
    import transformers

    with trials.check.without_tables():
        stock = transformers.T5EncoderModel(trials.configs.config("t5"))
        model = get_bcos_model(stock, BcosConfig(b=1.5))
    assert not model.bcos_family.seq2seq
    assert exact(model, {"input_ids": torch.arange(5, 12)[None]})
