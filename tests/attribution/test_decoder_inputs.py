"""What decoders are given besides token ids: padding, token types, caches, labels."""

import pytest
import torch
from helpers import tiny

from bcos_peft import BcosConfig, BcosExplainer, attribute, explanation_mode, get_bcos_model


def classifier(family="llama", **changes):
    return get_bcos_model(tiny.model(family, "SequenceClassification", dtype=torch.float64, **changes), BcosConfig())


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_a_classifier_reads_the_last_token_whatever_the_padding_is(family, side):
    """Tokenizers without a padding token are often given that of the text's end, which the config does not know of."""
    model = classifier(family)
    words, padding = torch.tensor([[7, 8, 9]]), torch.full((1, 2), 11)
    parts = (padding, words) if side == "left" else (words, padding)
    mask = torch.tensor([[0, 0, 1, 1, 1]]) if side == "left" else torch.tensor([[1, 1, 1, 0, 0]])
    alone, padded = attribute(model, words, target=1), attribute(model, torch.cat(parts, 1), mask, target=1)
    torch.testing.assert_close(padded.logits, alone.logits)
    torch.testing.assert_close(padded.scores[mask.bool()], alone.scores[0])
    assert not padded.scores[~mask.bool()].any()


def test_a_classifier_that_knows_no_padding_is_given_none():
    model = classifier(pad_token_id=None)
    with pytest.raises(ValueError, match=r"no token for it: set model.config.pad_token_id"):
        attribute(model, torch.tensor([[0, 7, 8]]), torch.tensor([[0, 1, 1]]))
    assert attribute(model, torch.tensor([[7, 8]]), torch.tensor([[1, 1]])).residual.abs().max() < 1e-10


@pytest.mark.parametrize("baseline", ["zero", "average"])
@pytest.mark.parametrize("task", ["CausalLM", "SequenceClassification"])
def test_token_types_that_gpt2_looks_up_among_the_words(task, baseline):
    model = get_bcos_model(tiny.model("gpt2", task, dtype=torch.float64), BcosConfig())
    inputs = {"input_ids": torch.tensor([[7, 8, 9]]), "token_type_ids": torch.tensor([[1, 1, 2]]), "target": 1}
    whole = attribute(model, **inputs, baseline=baseline)
    split = attribute(model, **inputs, baseline=baseline, split=True)
    assert list(split.parts) == ["word", "position", "token_type"]
    assert split.residual.abs().max() < 1e-10
    torch.testing.assert_close(sum(split.parts.values()), whole.scores)
    other = attribute(model, **{**inputs, "token_type_ids": torch.tensor([[2, 2, 1]])}, split=True)
    assert not torch.allclose(split.parts["token_type"], other.parts["token_type"])


def test_a_cache_is_refused():
    model = get_bcos_model(tiny.model("llama", "CausalLM"), BcosConfig())
    cache = model(torch.tensor([[5, 6]]), use_cache=True).past_key_values
    with pytest.raises(ValueError, match="past_key_values stands for tokens that are not in input_ids"):
        attribute(model, torch.tensor([[7, 8]]), past_key_values=cache)
    assert cache.get_seq_length() == 2


@pytest.mark.parametrize(("family", "task"), [("llama", "CausalLM"), ("bert", "SequenceClassification")])
def test_labels_of_a_batch_for_training_change_nothing(family, task):
    model, inputs = get_bcos_model(tiny.model(family, task), BcosConfig()), tiny.inputs(2, 5)
    labels = inputs["input_ids"] if task == "CausalLM" else torch.zeros(2, model.config.num_labels)
    without = attribute(model, **inputs)
    torch.testing.assert_close(attribute(model, **inputs, labels=labels).scores, without.scores)
    assert model.config.problem_type is None
    torch.testing.assert_close(attribute(model, **inputs).probability, without.probability)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_in_inference_mode(family):
    one = BcosExplainer(get_bcos_model(tiny.model(family, "CausalLM"), BcosConfig()), tiny.tokenizer("bpe"))
    text, ids, mask = "A gripping film", torch.tensor([[7, 8, 9]]), torch.tensor([[0, 1, 1]])
    expected, alone = one.explain(text), attribute(one.model, ids, mask, target=5)
    with torch.inference_mode():
        assert one.explain(text) == expected
        assert abs(one(text, target=7).residual) < 1e-4
        assert one.generate(text, max_new_tokens=2).residuals.max() < 1e-4
        made_inside = attribute(one.model, ids.clone(), mask.clone(), target=torch.tensor([5]))
    torch.testing.assert_close(made_inside.scores, alone.scores)
    torch.testing.assert_close(attribute(one.model, made_inside.target[:, None] + 2).residual, torch.zeros(1))


def test_a_held_cap_returns_what_the_stock_forward_does():
    model = get_bcos_model(tiny.model("gemma2", "CausalLM", final_logit_softcapping=1.0), BcosConfig()).eval()
    ids = torch.tensor([[7, 8, 9]])
    plain = model(ids, labels=ids, logits_to_keep=0, output_hidden_states=True)
    with explanation_mode(model), torch.no_grad():
        held = model(ids, labels=ids, output_hidden_states=True)
        assert isinstance(model(ids, return_dict=False), tuple)
        torch.testing.assert_close(model(ids, logits_to_keep=1).logits, plain.logits[:, -1:])
        assert model(ids, use_cache=True).past_key_values.get_seq_length() == 3
    torch.testing.assert_close(held.logits, plain.logits)
    torch.testing.assert_close(held.loss, plain.loss)
    assert len(held.hidden_states) == len(plain.hidden_states)
