"""Generated texts and next tokens, explained: the certificate, agreement with `attribute`, batches, refusals."""

import re

import numpy as np
import pytest
import tiny
import torch
from transformers import ByT5Tokenizer, GenerationConfig

from bcos_peft import BcosConfig, BcosExplainer, Explanation, GenerationExplanation, attribute, get_bcos_model
from bcos_peft.generation_attribution import attribute_sequence


FAMILIES = ("llama", "gpt2", "gemma2", "qwen2", "mixtral", "opt")
PROMPT = "A gripping film"
PROMPTS = [PROMPT, "It is not bad, not good either, and", "We loved"]
TEMPLATE = (
    "{% for m in messages %}<s>{{ m.role }}\n{{ m.content | trim }}"
    "{% if not loop.last or not continue_final_message %}</s>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": " Is it a film? "},
]


def explainer(family="llama", dtype=torch.float64, batch_size=16, **changes):
    model = get_bcos_model(tiny.model(family, "CausalLM", dtype=dtype, **changes), BcosConfig(b=1.25))
    model.generation_config.update(eos_token_id=2, pad_token_id=0)
    tokenizer = tiny.tokenizer("bpe", padding_side="left")
    tokenizer.chat_template = TEMPLATE
    return BcosExplainer(model, tokenizer, batch_size=batch_size)


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


# ---- the next token -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_the_next_token_without_contrast_is_what_calling_gives(family):
    one = explainer(family)
    called, explained = one(PROMPT), one.explain(PROMPT, contrast=None)
    np.testing.assert_allclose(explained.scores, called.scores, atol=1e-12)
    for name in ("target", "target_label", "predicted", "position", "tokens", "text", "special", "offsets"):
        assert getattr(explained, name) == getattr(called, name)
    assert explained.logit == pytest.approx(called.logit, abs=1e-12)
    assert explained.probability == pytest.approx(called.probability, abs=1e-12)


def test_the_runner_up_is_the_default_foil():
    one = explainer()
    found = one.explain(PROMPT)
    logits = attribute(one.model, torch.tensor([found.token_ids])).logits[0]
    best, second = logits.topk(2).indices.tolist()
    assert (found.target, found.foil) == (best, second)
    assert found.logit == pytest.approx(float(logits[best] - logits[second]), abs=1e-10)
    assert one.explain(PROMPT, target=second).foil == best
    assert one.explain(PROMPT, target=best, foil=7).foil == 7


def test_alternatives_add_and_are_compared_with_the_mean_of_the_foils():
    one = explainer()
    parts = {token: one.explain(PROMPT, target=token, contrast=None) for token in (40, 41, 50, 51, 52)}
    found = one.explain(PROMPT, target=[40, 41], contrast=None)
    np.testing.assert_allclose(found.scores, parts[40].scores + parts[41].scores, atol=1e-12)
    assert found.probability == pytest.approx(parts[40].probability + parts[41].probability)
    assert found.target_ids == [40, 41]
    assert found.target_label == f"{parts[40].target_label} | {parts[41].target_label}"
    against = one.explain(PROMPT, target=[40, 41], foil=[50, 51, 52])
    mean = sum(parts[token].scores for token in (50, 51, 52)) / 3
    np.testing.assert_allclose(against.scores, found.scores - 2 * mean, atol=1e-12)
    assert abs(against.residual) < 1e-10
    assert Explanation.from_dict(against.to_dict()) == against


def test_a_word_of_several_tokens_is_the_sum_along_it():
    one = explainer()
    found = one.explain(PROMPT, target=" good acting", contrast=None)
    ids = one.tokenizer(" good acting", add_special_tokens=False)["input_ids"]
    prompt = one.tokenizer(PROMPT)["input_ids"]
    total, probability = np.zeros(len(prompt) + len(ids) - 1), 1.0
    for i, token in enumerate(ids):
        step = one.explain([*prompt, *ids[:i]], target=token, contrast=None)
        total[: len(step.scores)] += step.scores
        probability *= step.probability
    np.testing.assert_allclose(found.scores, total, atol=1e-10)
    assert found.logit == pytest.approx(total.sum(), abs=1e-10)
    assert found.probability == pytest.approx(probability)
    assert (found.target_ids, found.target_label) == (ids, " good acting")
    assert found.text == PROMPT + " good act"


def test_several_prompts_give_a_list():
    one = explainer()
    found = one.explain(PROMPTS, target=40)
    assert [explanation.text for explanation in found] == PROMPTS
    assert found[1] == one.explain(PROMPTS[1], target=40)


# ---- chats ----------------------------------------------------------------------------------------------------------


def test_messages_go_through_the_chat_template():
    one = explainer()
    found = one.explain(messages=CHAT)
    assert found.text == "<s>system\nBe brief.</s>\n<s>user\nIs it a film?</s>\n<s>assistant\n"
    wanted = one.tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, return_dict=False)
    assert found.token_ids == list(wanted)
    assert {name: found.text[low:high] for name, (low, high) in found.segments.items()} == {
        "system": "Be brief.",
        "user": "Is it a film?",
    }
    assert [token for token, special in zip(found.tokens, found.special, strict=True) if special] == [
        "<s>", "</s>", "<s>", "</s>", "<s>",
    ]  # fmt: skip
    sums = found.by_segment()
    assert list(sums) == ["system", "user", "rest"]
    assert sum(sums.values()) == pytest.approx(found.logit, abs=1e-10)


def test_generation_from_messages_has_the_answer_as_a_segment():
    found = explainer().generate(messages=CHAT, max_new_tokens=4, eos_token_id=None)
    assert list(found.segments) == ["system", "user", "answer"]
    low, high = found.segments["answer"]
    assert found.text[low:high] == found.answer
    sums = found.by_segment()
    assert list(sums) == ["system", "user", "answer", "rest"]
    np.testing.assert_allclose(sum(sums.values()), found.logits, atol=1e-10)


def test_roles_that_come_again_are_numbered_and_the_last_answer_is_gone_on_with():
    turns = [*CHAT[1:], {"role": "assistant", "content": "user"}, {"role": "user", "content": "user"}]
    turns.append({"role": "assistant", "content": "It is"})
    found = explainer().explain(messages=turns)
    assert found.text.endswith("<s>assistant\nIt is")
    assert {name: found.text[low:high] for name, (low, high) in found.segments.items()} == {
        "user 1": "Is it a film?",
        "assistant 1": "user",
        "user 2": "user",
        "assistant 2": "It is",
    }
    assert found.segments["user 2"][0] > found.segments["assistant 1"][1]


def test_messages_that_a_template_changes_are_found_by_their_text_or_left_to_the_rest():
    one = explainer()
    one.tokenizer.chat_template = (
        "{% for m in messages %}{% if m.content == 'Be brief.' %}(short) {% endif %}"
        "{{ m.content | replace('film', 'movie') }}{% endfor %}"
    )
    found = one.explain(messages=CHAT)
    assert list(found.segments) == ["system"]
    assert sum(found.by_segment().values()) == pytest.approx(found.logit, abs=1e-10)


def test_turns_that_call_tools_need_no_text():
    call = {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {}}}]}
    chat = [{"role": "user", "content": "weather?"}, call, {"role": "tool", "name": "f", "content": "22"}]
    one = explainer()
    one.tokenizer.chat_template = TEMPLATE.replace("m.content", "(m.content or 'f()')")
    found = one.explain(messages=chat)
    assert set(found.segments) == {"user", "tool"}
    assert abs(found.residual) < 1e-10


def test_messages_without_text_have_no_segments():
    found = explainer().explain(messages=[{"role": "user", "content": ""}])
    assert found.segments is None
    assert abs(found.residual) < 1e-10


def test_several_conversations():
    one = explainer()
    found = one.generate(messages=[CHAT, CHAT[1:]], max_new_tokens=2, eos_token_id=None)
    assert found[1] == one.generate(messages=CHAT[1:], max_new_tokens=2, eos_token_id=None)
    parts = [{"role": "user", "content": [{"type": "text", "text": "Is it?"}]}]
    one.tokenizer.chat_template = "{% for m in messages %}{{ m.content[0].text }}{% endfor %}"
    assert one.explain(messages=parts).segments == {"user": (0, 6)}


# ---- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda one: one.explain(), ValueError, "Give either a prompt or messages"),
        (lambda one: one.explain(PROMPT, messages=CHAT), ValueError, "not both"),
        (lambda one: one.explain(""), ValueError, "prompt is empty"),
        (lambda one: one.explain(("a", "b")), TypeError, "prompt is a pair"),
        (lambda one: one.explain("film " * 70), ValueError, "but the model reads 64; shorten it"),
        (lambda one: one.explain(PROMPT, target=""), ValueError, "target is an empty text"),
        (lambda one: one.explain(PROMPT, target=[]), ValueError, "target is an empty list"),
        (lambda one: one.explain(PROMPT, target=320), ValueError, "target must be between 0 and 319"),
        (lambda one: one.explain(PROMPT, target=[40, 40]), ValueError, "a token twice"),
        (lambda one: one.explain(PROMPT, target=["a", " good acting"]), ValueError, "target is one token"),
        (lambda one: one.explain(PROMPT, target=40, foil=40), ValueError, "foil equals target"),
        (lambda one: one.explain(PROMPT, foil=one.explain(PROMPT).target), ValueError, "foil equals target"),
        (lambda one: one.explain(PROMPT, foil=" good acting"), ValueError, "foil=' good acting' is"),
        (lambda one: one.explain(PROMPT, target=" good acting", foil=40), ValueError, "Leave the foil out"),
        (lambda one: one.explain(PROMPT, contrast="second"), ValueError, "contrast must be"),
        (lambda one: one.explain(PROMPT, chat_template_kwargs={"a": 1}), ValueError, "chat_template_kwargs goes with"),
        (lambda one: one.explain(messages=[]), ValueError, "messages is empty"),
        (lambda one: one.explain(messages=["hi"]), TypeError, r"messages\[0\]\[0\] must be a dict"),
        (lambda one: one.explain(messages=[{"role": "user"}]), TypeError, r"messages\[0\] must be a dict"),
        (lambda one: one.explain(messages=[{"role": "user", "content": "a b " * 70}]), ValueError, "model reads 64"),
        (lambda one: one.generate(PROMPT, input_ids=[[1]]), ValueError, "input_ids cannot be given"),
        (lambda one: one.explain_generation(PROMPT, ""), ValueError, "completion is empty"),
        (lambda one: one.explain_generation(PROMPT), TypeError, "completion must be a text"),
        (lambda one: one.explain_generation(PROMPT, [4, "a"]), TypeError, "'a' is no token id"),
        (lambda one: one.explain_generation(PROMPT, [999]), ValueError, "completion must be between"),
        (lambda one: one.explain_generation(PROMPTS, ["a"]), ValueError, "1 entries for 3 prompts"),
        (lambda one: one.explain_generation(["a", "b"], "xy"), TypeError, "completion must be a list of 2"),
        (lambda one: one.explain_generation(PROMPT, [40, 41], foil=[50]), ValueError, "foil has 1 entries"),
        (lambda one: one.explain_generation(PROMPT, [40, 41], foil=41), ValueError, "foil equals token 1"),
        (lambda one: one.explain_generation(PROMPTS, ["a"] * 3, foil=41), ValueError, "a single prompt"),
    ],
)  # fmt: skip
def test_what_cannot_be_explained_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(explainer())


def test_without_a_chat_template():
    one = explainer()
    one.tokenizer.chat_template = None
    with pytest.raises(ValueError, match="tokenizer with a chat template, and this one has none"):
        one.explain(messages=CHAT)


@pytest.mark.parametrize("method", ["explain", "generate", "explain_generation"])
def test_models_that_generate_nothing(method):
    classifier = get_bcos_model(tiny.model("bert"), BcosConfig())
    with pytest.raises(ValueError, match=f"{method} needs a causal language model"):
        getattr(BcosExplainer(classifier, tiny.tokenizer()), method)(PROMPT)


def test_learned_positions_end():
    one = explainer("gpt2")
    with pytest.raises(ValueError, match="beyond the 64 positions that the model has.*Pass max_new_tokens="):
        one.generate(PROMPT, max_new_tokens=70, min_new_tokens=70)
    with pytest.raises(ValueError, match="position embeddings for 64"):
        one.explain_generation(PROMPT, [40] * 70)


def test_reading_errors_say_what_is_there():
    found = explainer().explain_generation(PROMPT, [40, 41])
    with pytest.raises(IndexError, match="token 2 of 2"):
        found[2]
    with pytest.raises(TypeError, match="index must be the number of a token"):
        found[0:2]
    with pytest.raises(ValueError, match="hold none of the 2"):
        found.summed(1, 1)
    assert re.fullmatch(r"GenerationExplanation\(.+, against the runners-up, largest residual=\S+\)", repr(found))
