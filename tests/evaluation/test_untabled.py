"""Evaluation of classifiers and language models without a table."""

import pytest
import torch
from helpers import tiny, trials
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from bcos_peft import BcosConfig, get_bcos_model
from bcos_peft.evaluation import evaluate, ioi_pairs


pytestmark = pytest.mark.newest

TEXTS = ["a good film and a long one", "two hours of nothing"]
slow = [pytest.mark.slow]


def built(model_type, auto, tokenizer):
    config = trials.configs.config(model_type)
    config.vocab_size, config.pad_token_id = len(tokenizer), tokenizer.pad_token_id
    if config.is_encoder_decoder:
        config.eos_token_id = tokenizer.sep_token_id
    torch.manual_seed(0)
    model = auto.from_config(config, dtype=torch.float32, experts_implementation="eager").eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, 0.15)
    with trials.check.without_tables():
        return get_bcos_model(model, BcosConfig(b=1.5))


@pytest.mark.parametrize(
    "model_type",
    ["bart", "longformer"]
    + [pytest.param(one, marks=slow) for one in ["t5", "mbart", "mpnet", "albert", "falcon", "qwen3_next", "jamba"]],
)
def test_classifiers(model_type):
    tokenizer = tiny.tokenizer()
    model = built(model_type, AutoModelForSequenceClassification, tokenizer)
    methods = ["bcos", "input_x_gradient", "occlusion", "random"]
    found = evaluate(model, tokenizer, TEXTS, methods, ["comprehensiveness", "completeness"], progress=False)
    summary = found.summary()
    assert summary["B-cos", "bcos"]["own_gap"].mean < 1e-4
    assert (
        summary["B-cos", "bcos"]["completeness_gap_share"].mean
        < summary["B-cos", "random"]["completeness_gap_share"].mean
    )


@pytest.mark.parametrize(
    "model_type", ["gpt_oss", *(pytest.param(one, marks=slow) for one in ["bloom", "mamba", "lfm2", "llama4_text"])]
)
def test_language_models(model_type):
    tokenizer = tiny.tokenizer("bpe")
    model = built(model_type, AutoModelForCausalLM, tokenizer)
    found = evaluate(model, tokenizer, ioi_pairs(2), ["bcos", "random"], progress=False)
    assert {record.metric for record in found.records} == {"contrastive_evidence"}
