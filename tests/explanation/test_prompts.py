"""The next token, prompts and chats explained, and what is refused."""

import re

import numpy as np
import pytest
import torch
from helpers import tiny
from helpers.generators import FAMILIES, PROMPT, PROMPTS, TEMPLATE, explainer

from bcos_peft import Alternatives, BcosConfig, BcosExplainer, Explanation, attribute, get_bcos_model


CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": " Is it a film? "},
]


IMAGE = {"type": "image", "url": "film.png"}


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
    found = one.explain(PROMPT, target=Alternatives(40, 41), contrast=None)
    assert found == one.explain(PROMPT, target=[[40, 41]], contrast=None)
    np.testing.assert_allclose(found.scores, parts[40].scores + parts[41].scores, atol=1e-12)
    assert found.probability == pytest.approx(parts[40].probability + parts[41].probability)
    assert found.target_ids == [40, 41]
    assert found.target_label == f"{parts[40].target_label} | {parts[41].target_label}"
    against = one.explain(PROMPT, target=[[40, 41]], foil=Alternatives(50, 51, 52))
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
    alone = one.explain(PROMPTS[1], target=40)
    assert (found[1].tokens, found[1].target, found[1].foil) == (alone.tokens, alone.target, alone.foil)
    np.testing.assert_allclose(found[1].scores, alone.scores, atol=1e-10)


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


def test_a_message_that_is_found_within_another_is_left_to_the_rest():
    one = explainer()
    one.tokenizer.chat_template = "{{ messages[-1].content }}"
    chat = [{"role": "system", "content": "A"}, {"role": "user", "content": "A FILM"}]
    found = one.explain(messages=chat)
    assert not found.segments
    assert abs(found.residual) < 1e-10


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


STRINGS = "{% for m in messages %}<s>{{ m.role }} {{ m.content }}</s>{% endfor %}"
PARTS = (
    "{% for m in messages %}<s>{{ m.role }} {% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% endif %}"
    "{% endfor %}</s>{% endfor %}"
)
BOTH = PARTS.replace("{% for p", "{% if m.content is string %}{{ m.content }}{% else %}{% for p").replace(
    "{% endfor %}</s>", "{% endfor %}{% endif %}</s>"
)


@pytest.mark.parametrize("template", [STRINGS, PARTS, BOTH, STRINGS.replace("m.content", "m.content | trim")])
def test_contents_have_the_form_that_the_template_writes(template):
    one = explainer()
    one.tokenizer.chat_template = template
    text = [{"role": "user", "content": "Is it a film?"}]
    expected = one.explain(messages=text)
    assert expected.text == "<s>user Is it a film?</s>"
    assert expected.segments == {"user": (8, 21)}
    pieces = [{"type": "text", "text": "Is it"}, {"type": "text", "text": " a film?"}]
    for content in (
        pieces,
        [{"text": "Is it a film?"}],
        ["Is it", " a film?"],
        {"type": "text", "text": "Is it a film?"},
    ):
        assert one.explain(messages=[{"role": "user", "content": content}]) == expected
    silent = [*text, {"role": "assistant", "content": None}, *text]
    assert one.explain(messages=silent).text == "<s>user Is it a film?</s><s>assistant </s><s>user Is it a film?</s>"


def test_an_assistant_who_has_said_nothing_begins():
    one = explainer()
    for content in ("", None):
        begun = [*CHAT, {"role": "assistant", "content": content}]
        assert one.explain(messages=begun) == one.explain(messages=CHAT)


def test_messages_as_the_first_argument_and_one_message():
    one = explainer()
    expected = one.explain(messages=CHAT)
    assert one.explain(CHAT) == expected
    assert one.explain([CHAT, CHAT[1:]])[0].text == expected.text
    assert one.explain(messages=CHAT[1]) == one.explain(messages=CHAT[1:])
    assert one.explain(CHAT[1]) == one.explain(messages=CHAT[1:])
    written = one.explain_generation(CHAT, " good")
    assert written == one.explain_generation(messages=CHAT, completion=" good")
    options = {"max_new_tokens": 2, "eos_token_id": None}
    assert one.generate(CHAT, **options) == one.generate(messages=CHAT, **options)


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
        (lambda one: one.explain(PROMPT, target=[[40, 40]]), ValueError, "a token twice"),
        (lambda one: one.explain(PROMPT, target=Alternatives("a", " good acting")), ValueError, "target is one token"),
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
        (lambda one: one.explain(messages=[{"role": "user", "content": [IMAGE]}]), ValueError, "type 'image'"),
        (lambda one: one.explain([{"role": "user", "content": [{"type": "audio"}]}]), ValueError, "of type 'audio'"),
        (lambda one: one.explain(messages=[{"role": "user", "content": 3}]), TypeError, "content must be a text"),
        (lambda one: one.explain(messages=[{"role": "user", "content": [3]}]), TypeError, "a part of the content"),
        (lambda one: one.explain(messages=[{"role": "user", "content": [{"text": 3}]}]), TypeError, "text of a part"),
        (lambda one: one.explain(messages={"content": "a"}), TypeError, r"messages\[0\] must be a dict"),
        (lambda one: one.explain(CHAT, messages=CHAT), ValueError, "not both"),
        (lambda one: one(CHAT), TypeError, r"is a message of a chat.*explain\(messages"),
        (lambda one: one([CHAT]), TypeError, "is a message of a chat"),
        (lambda one: one(CHAT[0]), TypeError, "is a message of a chat"),
        (lambda one: one.generate(PROMPT, input_ids=[[1]]), ValueError, "input_ids cannot be given"),
        (lambda one: one.explain_generation(PROMPT, ""), ValueError, "completion is empty"),
        (lambda one: one.explain_generation(PROMPT), TypeError, "completion must be a text"),
        (lambda one: one.explain_generation(PROMPT, [4, "a"]), TypeError, "'a' is no token id"),
        (lambda one: one.explain_generation(PROMPT, [999]), ValueError, "completion must be between"),
        (lambda one: one.explain_generation(PROMPTS, ["a"]), ValueError, "1 entries for 3 prompts"),
        (lambda one: one.explain_generation(["a", "b"], "xy"), TypeError, "completion must be a list of 2"),
        (lambda one: one.explain_generation(PROMPT, [40, 41], foil=[50]), ValueError, "foil has 1 entries"),
        (lambda one: one.explain_generation(PROMPT, [40, 41], foil=41), ValueError, "foil equals token 1"),
        (lambda one: one.explain_generation(PROMPTS, ["a"] * 3, foil=[41]), ValueError, "foil has 1 entries for 3"),
        (lambda one: one.explain(PROMPT, target=[40, 41]), ValueError, r"one prompt.*Alternatives\(a, b"),
        (lambda one: one.explain(PROMPTS, target=[40, 41]), ValueError, "target has 2 entries for 3 prompts"),
        (lambda one: one.explain(PROMPTS, target=[[40, 41]]), ValueError, "target has 1 entries for 3 prompts"),
        (lambda one: one.explain(PROMPTS, foil=[40, 41]), ValueError, "foil has 2 entries for 3 prompts"),
        (lambda one: one.explain(PROMPTS, target=[40, [], None]), ValueError, "target has an empty list"),
        (lambda one: one(PROMPT, target=Alternatives(40, 41)), TypeError, "alternatives are for explain"),
        (lambda one: Alternatives(), ValueError, "at least one token"),
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
