"""What `BcosExplainer` refuses, before it computes anything, and what it says."""

import datasets
import pytest
import torch
from helpers import tiny

from bcos_peft import BcosConfig, BcosExplainer, attribute, get_bcos_model


TEXTS = ["An awful movie.", "We loved the music.", "It is not bad."]


@pytest.fixture(scope="module")
def bert():
    return BcosExplainer(get_bcos_model(tiny.model("bert"), BcosConfig()), tiny.tokenizer("wordpiece"))


@pytest.fixture(scope="module")
def masked():
    model = tiny.model("bert", "MaskedLM")
    return BcosExplainer(get_bcos_model(model, BcosConfig()), tiny.tokenizer("wordpiece"))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ("", "inputs is empty"),
        ("  \n", "inputs is empty"),
        (["good", " "], r"inputs\[1\] is empty"),
        (("", " "), "inputs is empty"),
        ([], "inputs is empty: there is nothing"),
        (iter([]), "inputs is empty"),
        ([[]], r"inputs\[0\] has no token"),
        ([2, 3], "inputs is empty"),  # [CLS] [SEP]
        (torch.zeros(1, 0, dtype=torch.long), r"inputs\[0\] has no token"),
        ({"input_ids": []}, "at least one token id"),
        ({"input_ids": [2, 40, 3], "attention_mask": [0, 0, 0]}, "is empty"),
        ({"input_ids": [2, 40, 3], "attention_mask": [1, 1]}, "attention_mask has 2 entries for 3"),
        ({"input_ids": [2, 40, 41, 3], "attention_mask": [1, 0, 1, 1]}, "hides tokens in the middle"),
        ([5, 10**6], "token id 1000000 is outside the tokenizer's vocabulary of"),
        ([5, -1], "token id -1 is outside"),
        (list(range(10, 90)), "80 tokens, but the model reads 64"),
        ("half a \ud83d character", "surrogate"),
        ({"words": ["a"]}, "needs 'input_ids' or 'text'"),
        ([{"words": "a"}], r"inputs\[0\] is a dict without"),
        ({"text": ["a", "b"], "text_pair": ["c"]}, "2 entries and 'text_pair' 1"),
        (datasets.Dataset.from_dict({"body": ["a"]}), r"text_column=.*'body'"),
        (datasets.DatasetDict(test=datasets.Dataset.from_dict({"body": ["a"]})), "one split"),
    ],
)  # fmt: skip
def test_refused_values(bert, inputs, message):
    with pytest.raises(ValueError, match=message):
        bert(inputs)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (b"bytes", "b'bytes'"),
        (3, "got int"),
        (None, "got NoneType"),
        (1.5, "got float"),
        (torch.tensor(3), "got int"),
        (torch.rand(4), r"inputs\[0\] is 0\.\d+"),
        ([True, False], r"inputs\[0\] is True"),
        (["good", None], r"inputs\[1\] is None"),
        (["good", b"x"], r"inputs\[1\] is b'x'"),
        (["good", 3], r"inputs\[1\] is 3"),
        ([["a", "b", "c"]], r"inputs\[0\] is \['a', 'b', 'c'\]"),
        ({"input_ids": [1, "a"]}, "'input_ids' must be integers"),
    ],
)
def test_refused_types(bert, inputs, message):
    with pytest.raises(TypeError, match=message):
        bert(inputs)


def test_text_column_that_does_not_exist(bert):
    rows = datasets.Dataset.from_dict({"body": TEXTS})
    with pytest.raises(ValueError, match="text_column='text' is no column of the dataset; it has 'body'"):
        bert(rows, text_column="text")
    with pytest.raises(ValueError, match="pass one of its splits: 'train'"):
        bert(datasets.DatasetDict(train=rows), text_column="body")
    with pytest.raises(ValueError, match="two columns of the texts of a pair"):
        bert(rows, text_column=("a", "b", "c"))
    with pytest.raises(ValueError, match="its columns are not known"):
        bert(TEXTS, text_column="text")


def test_truncation_does_not_cut_ids(bert):
    with pytest.raises(ValueError, match="cut the token ids yourself"):
        bert(list(range(10, 90)), truncation=True)


@pytest.mark.parametrize(
    ("choice", "error", "message"),
    [
        ({"target": 3}, ValueError, "target must be between 0 and 2, got 3"),
        ({"target": -1}, ValueError, "target must be between 0 and 2, got -1"),
        ({"target": "good"}, ValueError, "target='good' is not a label of the model; it has 'LABEL_0', 'LABEL_1'"),
        ({"foil": "bad"}, ValueError, "foil='bad' is not a label"),
        ({"target": [0, 1]}, ValueError, "target has 2 entries for 3 texts"),
        ({"target": [0, 1, 9]}, ValueError, "target must be between 0 and 2, got 9"),
        ({"target": ["all", 0, 1]}, ValueError, "'all' stands for itself, not in a list"),
        ({"target": 0.5}, TypeError, "target must be a number or a label of an output, got 0.5"),
        ({"target": True}, TypeError, "got True"),
        ({"target": torch.tensor([0.0, 1.0, 1.0])}, TypeError, "got 0.0"),
        ({"foil": object()}, TypeError, "foil must be a number or a label"),
        ({"target": 1, "foil": 1}, ValueError, r"foil equals target in row 0 \(both are 1\)"),
        ({"target": "all", "foil": 1}, ValueError, "foil cannot go with target='all'"),
        ({"position": 1}, ValueError, "one output for the whole text"),
    ],
)
def test_refused_choices(bert, choice, error, message):
    with pytest.raises(error, match=message):
        bert(TEXTS, **choice)


def test_a_label_of_two_classes_is_shown_but_is_no_choice(bert, monkeypatch):
    monkeypatch.setattr(bert.model.config, "id2label", {0: "A", 1: "A", 2: "B"})
    for choice in ("target", "foil"):
        with pytest.raises(ValueError, match=f"{choice}='A' is the label of outputs 0, 1; pass the number"):
            bert(TEXTS, **{choice: "A"})
    with pytest.raises(ValueError, match="it has 'A', 'B'"):
        bert(TEXTS, target="C")
    assert [bert("Dull!", target=i).target_label for i in (0, 1, "B")] == ["A", "A", "B"]


@pytest.mark.parametrize(
    ("choice", "error", "message"),
    [
        ({"position": 99}, ValueError, r"position=99 is no token of inputs\[0\], which has"),
        ({"position": -1}, ValueError, "position=-1 is no token"),
        ({"position": [1, 2, 99]}, ValueError, r"position=99 is no token of inputs\[2\]"),
        ({"position": 1.0}, TypeError, "position must be the index of a token, got 1.0"),
        ({"target": "wonderful zzz"}, ValueError, "is 2 tokens for this tokenizer"),
        ({"target": "qqq"}, ValueError, "target='qqq' is not in the tokenizer's vocabulary"),
        ({"target": tiny.VOCAB_SIZE}, ValueError, f"between 0 and {tiny.VOCAB_SIZE - 1}"),
    ],
)
def test_refused_choices_of_a_language_model(masked, choice, error, message):
    with pytest.raises(error, match=message):
        masked(TEXTS, **choice)


def test_several_masks(masked):
    with pytest.raises(ValueError, match=r"inputs\[1\] has mask tokens at \[1, 3\]"):
        masked(["A [MASK] film", "[MASK] good [MASK]"])
    assert masked("[MASK] good [MASK]", position=3).position == 3


def test_refused_models_and_tokenizers(bert):
    with pytest.raises(ValueError, match="Linear holds no transformers models"):
        BcosExplainer(torch.nn.Linear(2, 2), bert.tokenizer)
    with pytest.raises(TypeError, match="model must be a converted transformers model, got str"):
        BcosExplainer("bert", bert.tokenizer)
    for tokenizer in (None, "bert", tiny.model, bert.model):
        with pytest.raises(TypeError, match="tokenizer must be a transformers tokenizer"):
            BcosExplainer(bert.model, tokenizer)
    with pytest.raises(ValueError, match="batch_size must be a whole number of at least 1"):
        BcosExplainer(bert.model, bert.tokenizer, batch_size=0)
    for batch_size in (1.5, None, True, "2"):
        with pytest.raises(TypeError, match="batch_size must be a whole number"):
            BcosExplainer(bert.model, bert.tokenizer, batch_size=batch_size)


def test_a_refusal_comes_before_any_work(bert, monkeypatch):
    monkeypatch.setattr(type(bert.model), "forward", lambda *args, **kwargs: pytest.fail("the model ran"))
    for arguments in ({"target": [0, 1, 7]}, {"position": [0, 1, 99]}):
        with pytest.raises(ValueError, match="7|99"):
            BcosExplainer(bert.model, bert.tokenizer, batch_size=1)(TEXTS, **arguments)
    with pytest.raises(ValueError, match=r"inputs\[3\]"):
        BcosExplainer(bert.model, bert.tokenizer, batch_size=1)([*TEXTS, ""])


@pytest.mark.parametrize(("name", "close"), [("targets", "target"), ("token_type", "token_type_ids"), ("foo", None)])
def test_arguments_that_do_not_exist(name, close):
    model = get_bcos_model(tiny.model(), BcosConfig())
    with pytest.raises(TypeError, match=f"'{name}' is no argument.*" + (f"Did you mean '{close}'" if close else "")):
        attribute(model, torch.tensor([[5, 6]]), **{name: 1})
    wanted = attribute(model, torch.tensor([[5, 6]]))
    assert torch.equal(attribute(model, torch.tensor([[5, 6]]), return_dict=False).scores, wanted.scores)
    with pytest.raises(TypeError, match="attention_mask must be a tensor, got list"):
        attribute(model, torch.tensor([[5, 6]]), [[1, 1]])
