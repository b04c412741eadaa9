"""Questions to a model: batched logits are those of each text alone, targets have the right defaults."""

import pytest
import torch
from helpers import tiny
from transformers import AddedToken

from bcos_peft.evaluation import Question, Texts, ask, logits, probabilities, score


TEXTS = ["A gripping film.", "Two hours that I shall not get back: dull.", "Good"]
KINDS = {"bert": "wordpiece", "roberta": "bpe", "llama": "bpe", "gpt2": "bpe"}


def model_and_tokenizer(family, task):
    return tiny.model(family, task), tiny.tokenizer(KINDS[family])


@pytest.mark.parametrize(
    ("family", "task"),
    [
        ("bert", "SequenceClassification"),
        ("roberta", "SequenceClassification"),
        ("llama", "SequenceClassification"),
        ("llama", "CausalLM"),
        ("gpt2", "CausalLM"),
    ],
)
def test_a_text_has_the_same_logits_alone_and_in_a_batch(family, task):
    model, tokenizer = model_and_tokenizer(family, task)
    questions = [ask(model, tokenizer, text) for text in TEXTS]
    together = logits(model, questions)
    for row, question in zip(together, questions, strict=True):
        with torch.no_grad():
            alone = model(input_ids=question.input_ids[None]).logits[0]
        alone = alone[-1] if alone.dim() == 2 else alone
        torch.testing.assert_close(row, alone, rtol=1e-4, atol=1e-5)
        assert question.target == int(alone.argmax())
    torch.testing.assert_close(logits(model, questions, batch_size=2), together, rtol=1e-4, atol=1e-5)


def test_ids_in_place_of_the_questions_own():
    model, tokenizer = model_and_tokenizer("bert", "SequenceClassification")
    questions = [ask(model, tokenizer, text) for text in TEXTS]
    others = [question.input_ids.flip(0) for question in questions]
    expected = logits(model, [Question(ids, 0, extra=q.extra) for ids, q in zip(others, questions, strict=True)])
    torch.testing.assert_close(logits(model, questions, others), expected)
    with pytest.raises(ValueError, match="of its length"):
        logits(model, questions, [ids[1:] for ids in others])


def test_targets_and_foils_by_number_and_name():
    model, tokenizer = model_and_tokenizer("bert", "SequenceClassification")
    question = ask(model, tokenizer, TEXTS[0], target="LABEL_2", foil=1)
    assert (question.target, question.foil) == (2, 1)
    row = logits(model, [question])[0]
    value = score(model, question)
    assert value.requires_grad
    torch.testing.assert_close(value.detach(), row[2] - row[1])
    with pytest.raises(ValueError, match="target='good' is not a label"):
        ask(model, tokenizer, TEXTS[0], target="good")
    with pytest.raises(ValueError, match="foil=2 is the target"):
        ask(model, tokenizer, TEXTS[0], target=2, foil=2)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_classifiers_on_decoders_without_a_padding_token(family):
    """transformers refuses batches of them, as it cannot tell where a text ends."""
    model, tokenizer = model_and_tokenizer(family, "SequenceClassification")
    model.config.pad_token_id = None
    questions = [ask(model, tokenizer, text) for text in TEXTS]
    # Token 0 in a text, and at its end, must not be taken for padding.
    questions.append(Question(torch.tensor([0, 5, 6, 0]), target=0))
    alone = torch.cat([logits(model, [question]) for question in questions])
    torch.testing.assert_close(logits(model, questions), alone, rtol=1e-4, atol=1e-5)
    assert model.config.pad_token_id is None


def test_special_tokens_and_pairs():
    model, tokenizer = model_and_tokenizer("bert", "SequenceClassification")
    question = ask(model, tokenizer, ("A film.", "Dull."))
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    assert question.special.tolist() == [i in special for i in question.input_ids.tolist()]
    assert question.extra["token_type_ids"].tolist()[-1] == 1
    part = question.keep(question.special)
    assert len(part) == 3
    assert part.extra["token_type_ids"].tolist() == [0, 0, 1]
    assert len(part.ranked) == 0


def test_special_tokens_that_a_text_is_written_with_are_not_ranked():
    model, tokenizer = model_and_tokenizer("bert", "SequenceClassification")
    question = ask(model, tokenizer, "good [SEP] bad [MASK] film")
    words = tokenizer.convert_ids_to_tokens(question.input_ids[question.ranked].tolist())
    assert "[SEP]" not in words
    assert "[MASK]" in words, "it stands for a word"
    with pytest.raises(ValueError, match=r"text has special tokens only, '\[SEP\]'"):
        ask(model, tokenizer, "[SEP]")
    with pytest.raises(ValueError, match=r"dataset\[1\] has special tokens only"):
        Texts(model, tokenizer, ["good", "[SEP]"]).examples()


def test_marks_of_a_chat_template_are_not_ranked():
    model, tokenizer = model_and_tokenizer("llama", "CausalLM")
    # As in Llama 3: special, but none of the named special tokens.
    tokenizer.add_tokens([AddedToken("<|turn|>", special=True)])
    model.resize_token_embeddings(len(tokenizer))
    question = ask(model, tokenizer, "<|turn|>good<|turn|>film")
    mark = tokenizer.convert_tokens_to_ids("<|turn|>")
    assert question.special[question.input_ids == mark].tolist() == [True, True]
    assert mark not in question.input_ids[question.ranked]


def test_probabilities_follow_the_problem():
    model, tokenizer = model_and_tokenizer("bert", "SequenceClassification")
    questions = [ask(model, tokenizer, text) for text in TEXTS]
    torch.testing.assert_close(probabilities(model, questions).sum(1), torch.ones(3))
    model.config.problem_type = "multi_label_classification"
    torch.testing.assert_close(probabilities(model, questions), logits(model, questions).sigmoid())


def test_the_model_comes_back_as_it_was():
    model, tokenizer = model_and_tokenizer("bert", "SequenceClassification")
    model.train()
    model.classifier.eval()
    question = ask(model, tokenizer, TEXTS[0])
    logits(model, [question])
    assert model.training
    assert model.bert.training
    assert not model.classifier.training


def test_refusals():
    model, tokenizer = model_and_tokenizer("bert", "MaskedLM")
    with pytest.raises(ValueError, match="sequence classifiers and causal language models"):
        ask(model, tokenizer, TEXTS[0])
    with pytest.raises(ValueError, match="64"):
        ask(model, tokenizer, "film " * 100)
    assert len(ask(tiny.model(), tokenizer, "film " * 100, truncation=True)) == tiny.MAX_LENGTH
    with pytest.raises(ValueError, match="special must have the shape"):
        Question(torch.tensor([1, 2]), 0, special=torch.tensor([True]))
