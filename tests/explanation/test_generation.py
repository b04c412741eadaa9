"""Generated texts explained: the certificate, agreement with `attribute`, batches, decoding."""

from functools import partial

import numpy as np
import pytest
import torch
from helpers import tiny
from helpers.generators import FAMILIES, PROMPT, PROMPTS, explainer
from transformers import ByT5Tokenizer, GenerationConfig

from bcos_peft import BcosConfig, BcosExplainer, GenerationExplanation, attribute, get_bcos_model
from bcos_peft.attribution import attribute_sequence


def longest(explanation):
    return np.abs(explanation.residuals).max()


# ---- the certificate ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("contrast", ["runner_up", None])
@pytest.mark.parametrize("family", FAMILIES)
def test_contributions_to_every_generated_token_sum_to_its_logit(family, contrast):
    found = explainer(family).generate(PROMPT, max_new_tokens=6, min_new_tokens=6, contrast=contrast)
    assert len(found) == 6
    assert longest(found) < 1e-10
    for i, row in enumerate(found.scores):
        assert not row[found.prompt_length + i :].any()
        assert abs(row.sum() - found.logits[i]) < 1e-10
    assert np.abs(found.scores[:, found.prompt_length :]).sum() > 1e-3, "generated tokens contribute to later ones"


@pytest.mark.parametrize("family", FAMILIES)
def test_float32(family):
    found = explainer(family, torch.float32).generate(PROMPT, max_new_tokens=6, min_new_tokens=6)
    assert (np.abs(found.residuals) <= 1e-4 * np.maximum(np.abs(found.logits), 1e-2)).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_each_token_is_what_attribute_says_of_its_prefix(family):
    one = explainer(family)
    found = one.generate(PROMPT, max_new_tokens=5, do_sample=True)
    for i, (target, foil) in enumerate(zip(found.token_ids[found.prompt_length :], found.foils, strict=True)):
        end = found.prompt_length + i
        alone = attribute(one.model, torch.tensor([found.token_ids[:end]]), target=target, foil=foil)
        np.testing.assert_allclose(found.scores[i, :end], alone.scores[0].numpy(), atol=1e-10)
        assert found.logits[i] == pytest.approx(float(alone.logit), abs=1e-10)
        assert found.probabilities[i] == pytest.approx(float(alone.probability), abs=1e-10)
        assert found.predicted[i] == int(alone.logits.argmax())
        best = alone.logits[0].clone()
        best[target] = -torch.inf
        assert foil == int(best.argmax())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_of_prompts_is_what_each_prompt_is_alone(family):
    """In float32: in float64 stock Gemma 2 answers left padding with NaN."""
    one = explainer(family, torch.float32)
    options = {"max_new_tokens": 5, "eos_token_id": None}
    together = one.generate(PROMPTS, **options)
    assert [len(found) for found in together] == [5, 5, 5]
    for prompt, found in zip(PROMPTS, together, strict=True):
        alone = one.generate(prompt, **options)
        assert found.token_ids == alone.token_ids
        np.testing.assert_allclose(found.scores, alone.scores, atol=1e-5)
        assert found.text == alone.text
        assert found.text.startswith(prompt)
    by_two = explainer(family, torch.float32, batch_size=2).generate(PROMPTS, **options)
    assert [found.token_ids for found in by_two] == [found.token_ids for found in together]


@pytest.mark.parametrize("at_once", [1, 2, 16])
def test_how_many_share_a_backward_pass_does_not_matter(at_once):
    model, ids = explainer().model, tiny.inputs(1, 12, None, "llama")["input_ids"][0]
    places, targets = range(4, 11), [[int(token)] for token in ids[5:]]
    result = attribute_sequence(model, ids[:-1], places, targets, at_once=at_once)
    whole = attribute_sequence(model, ids[:-1], places, targets, at_once=7)
    torch.testing.assert_close(result.scores, whole.scores, rtol=0, atol=1e-12)


class Closed(torch.autograd.Function):
    """A layer whose backward pass writes into a buffer, which torch.vmap refuses."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return torch.mul(gradient, 1.0, out=torch.empty(gradient.shape, dtype=gradient.dtype))


def test_layers_that_take_one_gradient_at_a_time_are_explained_too():
    one = explainer()
    expected = one.explain_generation(PROMPT, " that was good")
    handle = one.model.model.layers[1].register_forward_hook(lambda module, args, output: Closed.apply(output))
    found = one.explain_generation(PROMPT, " that was good")
    handle.remove()
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-12)


def test_one_forward_pass_and_as_few_backward_passes_as_fit():
    one, calls, passes = explainer(), [], []
    hooks = [
        one.model.model.register_forward_hook(lambda module, args, output: calls.append(output[0].shape)),
        one.model.lm_head.register_forward_hook(lambda module, args, output: calls.append(output.shape)),
    ]
    layer = one.model.model.layers[0]
    hooks.append(
        layer.register_forward_hook(
            lambda module, args, output: output.register_hook(lambda g: passes.append(1)) and None
        )
    )
    found = one.explain_generation(PROMPT, [40, 41, 42, 43, 44])
    for hook in hooks:
        hook.remove()
    length = found.prompt_length + 4  # nothing is asked after the last token
    assert calls == [(1, length, 32), (1, 5, tiny.VOCAB_SIZE)], "logits where they are explained, and nowhere else"
    assert passes == [1], "five tokens go back through the layers together"


def test_the_model_comes_back_as_it_was():
    one = explainer(attention_dropout=0.5)
    one.model.train()
    one.model.model.norm.eval()
    first = one.generate(PROMPT, max_new_tokens=4, eos_token_id=None)
    assert one.model.training
    assert not one.model.model.norm.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in one.model.parameters())
    assert one.generate(PROMPT, max_new_tokens=4, eos_token_id=None) == first


# ---- decoding -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 3},
        {"do_sample": True, "top_k": 5, "temperature": 2.0},
        {"cache_implementation": "static"},
        {"use_cache": False},
        {"return_dict_in_generate": True, "output_scores": True},
        {"repetition_penalty": 1.5},
        {"generation_config": GenerationConfig(max_new_tokens=4, eos_token_id=2)},
    ],
)
def test_every_decoding_strategy(options):
    torch.manual_seed(0)
    options = options if "generation_config" in options else options | {"max_new_tokens": 4}
    found = explainer().generate(PROMPT, **options)
    assert 1 <= len(found) <= 4
    assert longest(found) < 1e-10


def test_several_sequences_for_a_prompt():
    one = explainer()
    options = {"max_new_tokens": 3, "num_beams": 4, "num_return_sequences": 2}
    several = one.generate(PROMPT, **options)
    assert [type(found) for found in several] == [GenerationExplanation] * 2
    nested = one.generate(PROMPTS[:2], **options)
    assert [len(found) for found in nested] == [2, 2]
    assert [found.token_ids for found in nested[0]] == [found.token_ids for found in several]


def test_an_answer_ends_with_its_end_and_not_with_padding():
    one = explainer()
    free = [
        found.token_ids[found.prompt_length :] for found in one.generate(PROMPTS, max_new_tokens=6, eos_token_id=None)
    ]
    end = free[0][2]  # the first prompt's answer now ends there
    for pad in (0, end):
        found = one.generate(PROMPTS, max_new_tokens=6, eos_token_id=end, pad_token_id=pad)
        for row, whole in zip(found, free, strict=True):
            cut = whole.index(end) + 1 if end in whole else 6
            assert row.token_ids[row.prompt_length :] == whole[:cut]


@pytest.mark.parametrize("pad", [0, 2, None])
def test_a_text_that_was_stopped_ends_with_what_stopped_it(pad):
    """Where padding is the token that ends texts, as for many language models, it is none that the model wrote."""
    one = explainer()
    one.model.generation_config.pad_token_id = pad
    if pad is None:
        one.tokenizer.pad_token = None
    free = [found.token_ids[found.prompt_length :] for found in one.generate(PROMPTS, max_new_tokens=6)]
    end = one.tokenizer.decode(free[2][0])  # the last prompt's answer is stopped at once
    options = {"max_new_tokens": 6, "stop_strings": [end], "tokenizer": one.tokenizer}
    found = [row.token_ids[row.prompt_length :] for row in one.generate(PROMPTS, **options)]
    assert found[2] == free[2][:1]
    assert found == [row.token_ids[row.prompt_length :] for row in map(partial(one.generate, **options), PROMPTS)]


def test_sampling_is_compared_with_the_largest_logit():
    torch.manual_seed(0)
    found = explainer().generate(PROMPT, max_new_tokens=8, do_sample=True, temperature=5.0, eos_token_id=None)
    answer = found.token_ids[found.prompt_length :]
    other = [i for i, token in enumerate(answer) if token != found.predicted[i]]
    assert other, "sampling took a token that is not the likeliest"
    assert all(found.foils[i] == found.predicted[i] and found.logits[i] < 0 for i in other)


# ---- texts that exist -----------------------------------------------------------------------------------------------


def test_explaining_what_was_generated_again_is_the_same():
    one = explainer()
    generated = one.generate(PROMPT, max_new_tokens=5, eos_token_id=None)
    ids = generated.token_ids[generated.prompt_length :]
    assert one.explain_generation(PROMPT, ids) == generated
    both = one.explain_generation([PROMPT, "We loved"], [ids, " the music."])
    assert both[0] == generated
    assert both[1].answer == " the music."


def test_a_completion_as_text():
    found = explainer().explain_generation(PROMPT, " that I did not want.")
    assert (found.prompt, found.answer) == (PROMPT, " that I did not want.")
    places = found.offsets[found.prompt_length :]
    assert "".join(found.text[low:high] for low, high in places) == found.answer
    assert found.segments == {"prompt": (0, 15), "answer": (15, 36)}


@pytest.mark.parametrize("kind", tiny.TOKENIZER_KINDS)
def test_every_kind_of_tokenizer(kind):
    model = get_bcos_model(tiny.model("llama", "CausalLM", dtype=torch.float64), BcosConfig())
    found = BcosExplainer(model, tiny.tokenizer(kind)).explain_generation(
        "we loved the wonderful", "acting, the music"
    )
    assert found.answer.strip() == "acting, the music"
    assert found.text[:22] == "we loved the wonderful"
    assert longest(found) < 1e-10


def test_characters_of_several_tokens_and_a_slow_tokenizer():
    model = get_bcos_model(tiny.model("llama", "CausalLM", dtype=torch.float64, vocab_size=400), BcosConfig())
    found = BcosExplainer(model, ByT5Tokenizer()).explain_generation("né", "né")
    assert (found.prompt, found.answer) == ("né", "né") or found.answer == "né"
    assert len(found) == 3
    assert found.offsets[-1] == found.offsets[-2]
    assert found.summed().target_label == "né"


def test_a_foil_for_each_token():
    one = explainer()
    ids = [40, 41, 42]
    found = one.explain_generation(PROMPT, ids, foil=[50, 51, 52])
    assert found.foils == [50, 51, 52]
    plain, other = (one.explain_generation(PROMPT, ids, contrast=None), one.explain(PROMPT, target=50, contrast=None))
    assert plain.foils is None
    assert found.logits[0] == pytest.approx(plain.logits[0] - other.logit, abs=1e-10)
    assert one.explain_generation(PROMPT, ids, foil=50).foils == [50, 50, 50]
