"""Explanations of experimental architectures say so, and what is held."""

import pytest
import torch
from helpers import tiny, trials
from transformers import AutoModelForCausalLM

from bcos_peft import BcosConfig, BcosExplainer, Explanation, GenerationExplanation, attribute, get_bcos_model


pytestmark = pytest.mark.newest


def built(model_type, tokenizer):
    config = trials.configs.config(model_type)
    config.vocab_size, config.pad_token_id = len(tokenizer), tokenizer.pad_token_id
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, experts_implementation="eager").eval()
    return get_bcos_model(model, BcosConfig(b=1.5))


def test_it_is_shown_once_in_each_view_and_saved(tmp_path, capsys):
    tokenizer = tiny.tokenizer("bpe")
    model = built("mamba", tokenizer)
    explainer = BcosExplainer(model, tokenizer)
    one, written = explainer.explain("a good film"), explainer.generate("a good film", max_new_tokens=2)
    for found, kind in ((one, Explanation), (written, GenerationExplanation)):
        assert found.note.startswith("Experimental: ")
        assert "the vector that reads a state" in found.note
        assert found.to_html().count("Experimental: ") == 1
        found.show()
        assert capsys.readouterr().out.count("Experimental: ") == 1
        found.save(tmp_path / "found.json")
        assert kind.load(tmp_path / "found.json").note == found.note
    assert attribute(model, torch.tensor([[11, 12, 13]])).note == one.note


def test_others_have_none():
    tokenizer = tiny.tokenizer("bpe")
    found = BcosExplainer(built("granite", tokenizer), tokenizer).explain("a good film")
    assert found.note is None
    assert "note" not in found.to_dict()
    assert "Experimental" not in found.to_html()


@pytest.mark.parametrize(
    "model_type", ["mamba", *(pytest.param(one, marks=pytest.mark.slow) for one in ("falcon_mamba",))]
)
def test_what_a_scan_carries_is_explained_and_not_what_reads_it(model_type):
    """With one layer, and no convolution over earlier tokens, the state alone brings them to the last one."""
    config = trials.configs.config(model_type)
    config.num_hidden_layers, config.conv_kernel = 1, 1
    torch.manual_seed(0)
    stock = AutoModelForCausalLM.from_config(config, dtype=torch.float64).eval()
    for parameter in stock.parameters():
        if parameter.dim() > 1 and parameter.shape[-1] > 1:
            parameter.data.normal_(0, 0.3)
    with trials.check.without_tables():
        model = get_bcos_model(stock, BcosConfig(b=1.5))
    found = attribute(model, torch.arange(10, 18)[None])
    assert abs(float(found.residual)) < 1e-10
    assert (found.scores[0, :-1].abs() > 0).all()
