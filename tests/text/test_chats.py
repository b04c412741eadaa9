"""One chat has the same special tokens and words in every form; ids that may be padded are warned of."""

import warnings

import pytest
import torch
from helpers import prepending, tiny
from transformers import ByT5Tokenizer

from bcos_peft import BcosConfig, BcosExplainer, get_bcos_model
from bcos_peft.evaluation import ask
from bcos_peft.text import encode, split_inputs


CHAT = [
    {"role": "user", "content": "hello film"},
    {"role": "assistant", "content": "good"},
    {"role": "user", "content": "so"},
]
TEMPLATE = "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}</s>\n{% endfor %}"


def explainer(kind):
    model = tiny.model("llama", "CausalLM", dtype=torch.float64, vocab_size=prepending.VOCAB_SIZE)
    tokenizer = prepending.tokenizer(kind) if kind in prepending.KINDS else tiny.tokenizer(kind)
    tokenizer.backend_tokenizer.post_processor = prepending.nothing_added()
    tokenizer.chat_template = TEMPLATE
    return BcosExplainer(get_bcos_model(model, BcosConfig(b=1.25)), tokenizer)


@pytest.mark.parametrize("kind", ["bpe", "normalizer", "first"])
def test_one_chat_has_one_explanation(kind):
    one = explainer(kind)
    expected = one.explain(messages=CHAT)
    assert sum(expected.special) == 6
    text = one.tokenizer.apply_chat_template(CHAT, tokenize=False)
    batch = one.tokenizer(text, return_tensors="pt")
    forms = {
        "text": text,
        "BatchEncoding": batch,
        "template": one.tokenizer.apply_chat_template(CHAT, return_dict=True, return_tensors="pt"),
        "ids": expected.token_ids,
        "tensor": batch["input_ids"],
    }
    for name, form in forms.items():
        found = one.explain(form)
        found = found[0] if isinstance(found, list) else found
        assert found.token_ids == expected.token_ids, name
        assert found.special == expected.special, name
        # What ids of a prepending tokenizer decode to has a space behind a special token: white space may differ.
        written = [[one.text for one in each.words() if one.text.strip()] for each in (found, expected)]
        assert written[0] == written[1], name
        assert [(one.text, one.score) for one in found.top(5)] == [(one.text, one.score) for one in expected.top(5)]
        question = ask(one.model, one.tokenizer, form if isinstance(form, (str, list)) else expected.token_ids)
        assert question.special.tolist() == expected.special, name


def test_special_tokens_of_a_text_keep_their_places_and_those_added_have_none():
    tokenizer = tiny.tokenizer("bpe")
    assert sum(encode("a film</s>good", tokenizer, None, False).special) == 2, "elsewhere it is what a user wrote"
    tokenizer.chat_template = TEMPLATE
    found = encode("a film</s>good", tokenizer, None, False)
    assert found.special == [token in tokenizer.all_special_ids for token in found.input_ids]
    placed = [place for place, special in zip(found.offsets, found.special, strict=True) if special]
    assert placed == [None, (6, 10), None]
    slow = ByT5Tokenizer(chat_template=TEMPLATE)
    found = encode("a</s>b", slow, None, False)
    assert found.special == [False, True, False, True]


def test_a_second_beginning_is_warned_of():
    tokenizer = tiny.tokenizer("bpe")
    with pytest.warns(UserWarning, match="begins with '<s>', and the tokenizer puts another"):
        encode("<s>hello</s>", tokenizer, None, False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encode("hello</s>", tokenizer, None, False)


@pytest.mark.parametrize("side", ["left", "right"])
def test_ids_that_may_be_padded_are_warned_of(side):
    tokenizer = tiny.tokenizer("bpe", padding_side=side)
    tokenizer.backend_tokenizer.post_processor = prepending.nothing_added()
    tokenizer.pad_token = tokenizer.eos_token
    batch = tokenizer(["a film", "a gripping film, and good"], padding=True)
    with pytest.warns(UserWarning, match=r"inputs begins or ends with '</s>'.*Pass the attention_mask"):
        found = encode({"input_ids": batch["input_ids"][0]}, tokenizer, None, False)
    assert len(found.input_ids) == len(batch["input_ids"][0]), "read as text"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encode({"input_ids": batch["input_ids"][1]}, tokenizer, None, False)
        masked = {"input_ids": batch["input_ids"][0], "attention_mask": batch["attention_mask"][0]}
        assert len(encode(masked, tokenizer, None, False).input_ids) < len(found.input_ids)


def test_the_end_that_a_tokenizer_writes_itself_is_no_padding():
    tokenizer = tiny.tokenizer("bpe")
    tokenizer.pad_token = tokenizer.eos_token
    ids = tokenizer("a film")["input_ids"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encode({"input_ids": ids}, tokenizer, None, False)
    with pytest.warns(UserWarning, match="begins or ends with"):
        encode({"input_ids": [*ids, tokenizer.pad_token_id]}, tokenizer, None, False)


def test_hints_are_of_the_call():
    one = explainer("bpe")
    rows = {"sentence": ["a", "b"]}
    with pytest.raises(ValueError, match="A dict of prompt needs") as error:
        one.explain(rows)
    assert "text_column" not in str(error.value)
    with pytest.raises(ValueError, match="text_column"):
        split_inputs(rows)
    datasets = pytest.importorskip("datasets")
    dataset = datasets.Dataset.from_dict(rows)
    with pytest.raises(TypeError, match="prompt is a dataset; it has 'sentence'. Pass the column") as error:
        one.explain(dataset)
    assert "text_column" not in str(error.value)
    with pytest.raises(TypeError, match=r"prompt\[1\] is 3"):
        one.generate(["a", 3])
    with pytest.raises(ValueError, match="contrast must be") as error:
        one.generate("a", contrast="second")
    assert "use foil" not in str(error.value)
