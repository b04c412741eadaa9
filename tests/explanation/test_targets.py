"""A target is what follows the prompt: with every kind of tokenizer, wherever a text can be a target."""

import numpy as np
import pytest
import torch
from helpers import prepending, tiny

from bcos_peft import Alternatives, BcosConfig, BcosExplainer, get_bcos_model
from bcos_peft.evaluation import Texts, ask, get_method
from bcos_peft.evaluation.human import explain_with
from bcos_peft.text import ids_after


PROMPT = "2+2="
PROMPTS = [PROMPT, "we loved", "the answer is ", "a film.", "x\n", "a good film</s>"]
TARGETS = ["44", " 44", "paris", " good", "\n", " acting", "?", "ting film", "M", "é"]
KINDS = (*prepending.KINDS, "bpe", "wordpiece")


def tokenizer(kind):
    return prepending.tokenizer(kind) if kind in prepending.KINDS else tiny.tokenizer(kind)


def explainer(kind, family="llama", task="CausalLM", **options):
    model = tiny.model(family, task, dtype=torch.float64, vocab_size=prepending.VOCAB_SIZE)
    return BcosExplainer(get_bcos_model(model, BcosConfig(b=1.25)), tokenizer(kind), **options)


def spelled(tokenizer, before, ids):
    """What ids add to those before."""
    start, whole = (tokenizer.decode(row, clean_up_tokenization_spaces=False) for row in (before, [*before, *ids]))
    assert whole.startswith(start)
    return whole[len(start) :]


@pytest.mark.parametrize("kind", [*prepending.KINDS, "bpe"])
def test_tokens_of_a_text_that_follows_spell_it(kind):
    known = tokenizer(kind)
    found = 0
    for prompt in PROMPTS:
        before = known(prompt)["input_ids"]
        for text in TARGETS:
            if kind == "unigram" and text in "é":  # the others have a token for every byte
                continue
            ids = ids_after(before, prompt, text, known)
            found += 1
            # A Unigram tokenizer has no way to tell a text behind a special token from one with a space.
            same = spelled(known, before, ids)
            assert same == text or (prompt.endswith("</s>") and kind in ("always", "unigram") and same == " " + text)
    assert found > 40


@pytest.mark.parametrize("kind", prepending.KINDS)
def test_a_number_goes_on_with_the_sum(kind):
    one = explainer(kind)
    digits = one.tokenizer(PROMPT + "44", add_special_tokens=False)["input_ids"]
    digits = digits[len(one.tokenizer(PROMPT, add_special_tokens=False)["input_ids"]) :]
    alone = one.tokenizer("44", add_special_tokens=False)["input_ids"]
    assert digits != alone, "on its own the number has a space in front"
    found = one.explain(PROMPT, target="44")
    assert (found.target_ids or [found.target]) == digits
    assert found.target_label == "44"
    assert abs(found.residual) < 1e-10
    spaced = one.explain(PROMPT, target=" 44")
    assert (spaced.target_ids or [spaced.target]) != digits
    assert spaced.target_label == " 44"


@pytest.mark.parametrize("kind", prepending.KINDS)
def test_foils_alternatives_and_completions_follow_too(kind):
    one = explainer(kind)
    vocabulary = one.tokenizer.get_vocab()
    four, five = vocabulary["4"], vocabulary["5"]
    found = one.explain(PROMPT, target="4", foil="5")
    assert (found.target, found.foil, found.target_label, found.foil_label) == (four, five, "4", "5")
    either = one.explain(PROMPT, target=Alternatives("4", "5"), foil=Alternatives("6", "7"))
    assert (either.target_ids, either.foil_ids) == ([four, five], [vocabulary["6"], vocabulary["7"]])
    written = one.explain_generation(PROMPT, "4?", foil=["5", "."])
    assert written.token_ids[written.prompt_length :] == [four, vocabulary["?"]]
    assert written.foils == [five, vocabulary["."]]
    assert (written.text, written.answer) == (PROMPT + "4?", "4?")
    several = one.explain_generation([PROMPT, "x"], ["4?", "4"], foil=[["5", "."], "5"])
    assert [one.foils for one in several] == [written.foils, [five]]


@pytest.mark.parametrize("kind", prepending.KINDS)
def test_calling_and_evaluation_read_the_same_token(kind):
    one = explainer(kind)
    vocabulary = one.tokenizer.get_vocab()
    wanted = (vocabulary["4"], vocabulary["5"])
    called = one([PROMPT, "we loved"], target=["4", None], foil="5")[0]
    assert (called.target, called.foil, called.target_label) == (*wanted, "4")
    text = "2+2=4"
    position = one.tokenizer(text)["input_ids"].index(vocabulary["="])
    assert one(text, target="4", position=position).target == wanted[0]
    question = ask(one.model, one.tokenizer, PROMPT, target="4", foil="5")
    assert (question.target, question.foil) == wanted
    (shown,) = explain_with(one.model, one.tokenizer, [PROMPT], get_method("random"), "4", "5")
    assert (shown.target, shown.foil, shown.target_label) == (*wanted, "4")
    rows = Texts(one.model, one.tokenizer, [PROMPT], labels=["4"], target="label")
    assert rows.examples()[0].questions[0].target == wanted[0]
    assert Texts(one.model, one.tokenizer, [PROMPT], target="4").examples()[0].questions[0].target == wanted[0]


@pytest.mark.parametrize("kind", KINDS)
def test_the_name_of_a_prediction_is_a_target(kind):
    one = explainer(kind)
    for prompt in ("we loved", PROMPT):
        found = one.explain(prompt)
        for token, name in ((found.predicted, found.predicted_label), (found.foil, found.foil_label)):
            if "\N{REPLACEMENT CHARACTER}" in name or token in one.tokenizer.all_special_ids or not name.strip():
                continue
            assert spelled(one.tokenizer, found.token_ids, [token]) == name
            again = one.explain(prompt, target=name)
            added = spelled(one.tokenizer, found.token_ids, again.target_ids or [again.target])
            assert added == name or (kind == "wordpiece" and added.strip() == name.strip()), "WordPiece has no spaces"


def test_a_space_at_the_end_of_the_prompt_is_the_prompts():
    one = explainer("normalizer")
    found = one.explain("the answer is ", target="44")
    assert found.target_label == "44"
    assert spelled(one.tokenizer, found.token_ids, found.target_ids or [found.target]) == "44"


def test_ids_as_a_prompt():
    one = explainer("normalizer")
    ids = one.tokenizer(PROMPT)["input_ids"]
    assert one.explain(ids, target="44").target_ids == one.explain(PROMPT, target="44").target_ids


def test_a_token_as_the_tokenizer_writes_it_is_that_token():
    one = explainer("normalizer")
    assert one.explain(PROMPT, target="▁good").target == one.tokenizer.get_vocab()["▁good"]
    wordpiece = explainer("wordpiece")
    assert wordpiece.explain("a film", target="##ing").target == wordpiece.tokenizer.get_vocab()["##ing"]


def test_what_nothing_spells_is_refused():
    one = explainer("unigram")
    for call in (
        lambda: one.explain(PROMPT, target="我"),
        lambda: one.explain(PROMPT, target=4, foil="我"),
        lambda: one.explain_generation(PROMPT, "4我"),
        lambda: one(PROMPT, target="我"),
        lambda: ask(one.model, one.tokenizer, PROMPT, target="我"),
    ):
        with pytest.raises(ValueError, match="is not in the tokenizer's vocabulary|no tokens of this tokenizer spell"):
            call()


def test_a_word_in_the_place_of_a_mask():
    """Where no space is before the mask, the word has none either."""
    one = explainer("normalizer", "roberta", "MaskedLM")
    one.tokenizer.add_special_tokens({"mask_token": "<unk>"})
    vocabulary = one.tokenizer.get_vocab()
    assert one("2+2=<unk>", target="4").target == vocabulary["4"]
    assert one("it is <unk>", target="▁4").target == vocabulary["▁4"]


# ---- one for each prompt --------------------------------------------------------------------------------------------


def test_as_many_targets_as_prompts_are_one_each():
    one = explainer("bpe")
    prompts, targets, foils = ["A gripping film", "We loved"], [" not", " the"], [" and", " it"]
    for options in ({"target": targets}, {"target": [" not", None]}, {"target": targets, "foil": foils}):
        found = one.explain(prompts, contrast=None, **options)
        called = one(prompts, **options)
        for explained, plain in zip(found, called, strict=True):
            assert (explained.target, explained.foil) == (plain.target, plain.foil)
            assert explained.target_ids is None
            np.testing.assert_allclose(explained.scores, plain.scores, atol=1e-12)
    assert [each.foil_label for each in one.explain(prompts, target=targets, foil=foils)] == foils
    some = one.explain(prompts, target=[[" not", " the"], " and"])
    assert (len(some[0].target_ids), some[1].target_ids) == (2, None)
    both = one.explain(prompts, target=Alternatives(" not", " the"))
    assert both[0] == some[0]
    assert both[1].target_ids == both[0].target_ids
    mixed = one.explain(prompts, target=[" not", " good acting"], foil=[" and", None])
    assert [each.foil_label for each in mixed] == [" and", "the runners-up"]


def test_prompts_share_forward_passes_and_have_the_scores_that_they_have_alone():
    one = explainer("bpe", batch_size=4)
    words = ["good", "film", "the", "acting"]
    prompts = [" ".join(words[: 1 + i % 4]) for i in range(32)]
    calls = []
    handle = one.model.model.register_forward_hook(lambda module, args, output: calls.append(output[0].shape[0]))
    for target, foil in ((None, None), ([" good", " good acting"] * 16, None), (40, [41, None] * 16)):
        calls.clear()
        found = one.explain(prompts, target=target, foil=foil)
        assert calls == [4] * 8
        each = zip(
            target if isinstance(target, list) else [target] * 32, foil or [None] * 32, prompts, found, strict=True
        )
        for i, (wanted, other, prompt, explained) in enumerate(each):
            if i < 8:
                alone = one.explain(prompt, target=wanted, foil=other)
                np.testing.assert_allclose(explained.scores, alone.scores, atol=1e-12)
                assert explained.logit == pytest.approx(alone.logit, abs=1e-12)
                assert (explained.text, explained.target, explained.foil) == (alone.text, alone.target, alone.foil)
    handle.remove()


@pytest.mark.parametrize(
    "call",
    [
        lambda one, prompts: one.explain(prompts),
        lambda one, prompts: one.generate(prompts, max_new_tokens=1),
        lambda one, prompts: one.explain_generation(prompts, [" a"] * len(prompts)),
    ],
)
def test_progress_is_shown(call, capsys):
    call(explainer("bpe", progress=True), ["A film"] * 2)
    assert "Explaining" in capsys.readouterr().err
    call(explainer("bpe", progress=False), ["A film"] * 2)
    assert "Explaining" not in capsys.readouterr().err


# ---- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*prepending.KINDS, "bpe"])
def test_generated_tokens_have_names_with_their_space_and_on_one_line(kind):
    one = explainer(kind)
    text = " good\n" if kind != "bpe" else " good film"
    found = one.explain_generation("a film", text, foil=" film" if kind != "bpe" else " the")
    names = [found.labels[token] for token in found.token_ids[found.prompt_length :]]
    assert "".join(names) == text
    assert names[0].startswith(" ")
    from bcos_peft.explanation.generation_layout import _layout_generation

    steps = _layout_generation(found).steps
    assert steps[0].label.startswith("␣")
    assert {step.foil[0] for step in steps} == {"␣"}
    if kind != "bpe":
        assert steps[-1].label == "↵"
        assert all("↵↵" not in row.label for step in steps for row in step.sources)


def test_a_letter_is_not_the_byte_of_its_number():
    """Byte-level vocabularies write the byte 0xBD, which spells nothing, as the letter of that number."""
    known = tiny.tokenizer("bpe")
    model = get_bcos_model(tiny.model("llama", "CausalLM"), BcosConfig(), verify=False)
    explainer = BcosExplainer(model, known)
    ids = known("½", add_special_tokens=False)["input_ids"]
    assert len(ids) == 2
    found = explainer.explain("a film", target="½")
    assert found.target_ids == ids
    assert found.target_label == "½"
    with pytest.raises(ValueError, match="is 2 tokens"):
        explainer("a film", target="½")
