"""What `BcosExplainer` takes, and what it refuses: each kind of input gives the same explanation of the same text."""

import datasets
import numpy as np
import pytest
import torch
from helpers import tiny
from transformers import BatchEncoding, ByT5Tokenizer

from bcos_peft import BcosConfig, BcosExplainer, get_bcos_model


TEXTS = [
    "The café's well-made film, don't miss it!",
    "An awful movie.",
    "We loved the wonderful acting, the direction and the music; it cost 3.14 euros.",
]
PAIR = ("Who made this?", "Nobody knows, nobody cares.")
FAMILY_OF = {"wordpiece": "bert", "bpe": "roberta", "sentencepiece": "xlm-roberta"}


@pytest.fixture(scope="module", params=tiny.TOKENIZER_KINDS)
def explainer(request):
    model = get_bcos_model(tiny.model(FAMILY_OF[request.param]), BcosConfig())
    return BcosExplainer(model, tiny.tokenizer(request.param))


@pytest.fixture(scope="module")
def bert():
    return BcosExplainer(get_bcos_model(tiny.model("bert"), BcosConfig()), tiny.tokenizer("wordpiece"))


def assert_same(one, two, text=True, atol=1e-5):
    """The same tokens with the same scores; and the same text and places, unless one was made from ids."""
    assert one.tokens == two.tokens
    np.testing.assert_allclose(one.scores, two.scores, atol=atol)
    assert (one.target, one.predicted, one.sequence_ids) == (two.target, two.predicted, two.sequence_ids)
    if text:
        assert (one.text, one.offsets, one.special) == (two.text, two.offsets, two.special)


def words(explanation):
    return [word.text for word in explanation.words()]


# ---- the same explanation, however the text is given ---------------------------------------------------------------


@pytest.mark.parametrize(
    "wrap",
    [
        list,
        tuple,
        iter,
        lambda texts: (text for text in texts),
        lambda texts: np.array(texts),
        lambda texts: {"text": texts},
        lambda texts: [{"text": text} for text in texts],
        lambda texts: datasets.Dataset.from_dict({"text": texts})["text"],
    ],
    ids=["list", "tuple", "iterator", "generator", "array", "dict", "dicts", "column"],
)
def test_many_texts(explainer, wrap):
    alone = [explainer(text) for text in TEXTS]
    together = explainer(wrap(TEXTS))
    assert len(together) == len(TEXTS)
    for one, two in zip(alone, together, strict=True):
        assert_same(one, two)


@pytest.mark.parametrize("wrap", [lambda p: p, lambda p: {"text": p[0], "text_pair": p[1]}], ids=["tuple", "dict"])
def test_pairs(explainer, wrap):
    explanation = explainer(wrap(PAIR))
    assert explanation.text == PAIR
    assert {0, 1} <= set(explanation.sequence_ids)
    assert words(explanation) == words(explainer(PAIR[0])) + words(explainer(PAIR[1]))
    together = explainer([TEXTS[0], wrap(PAIR), list(PAIR)])
    assert_same(together[1], explanation)
    assert_same(together[2], explanation)


def test_two_strings_in_a_list_are_two_texts(explainer):
    assert [explanation.text for explanation in explainer(list(PAIR))] == list(PAIR)


@pytest.mark.parametrize(
    "wrap",
    [
        list,
        tuple,
        np.array,
        torch.tensor,
        lambda ids: {"input_ids": ids},
        lambda ids: BatchEncoding({"input_ids": ids}),
    ],
    ids=["list", "tuple", "array", "tensor", "dict", "encoding"],
)
def test_token_ids(explainer, wrap):
    expected = explainer(TEXTS[0])
    assert_same(explainer(wrap(expected.token_ids)), expected, text=False)
    several = explainer([wrap(expected.token_ids), TEXTS[1]])
    assert_same(several[0], expected, text=False)
    assert_same(several[1], explainer(TEXTS[1]))


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("tensors", [None, "pt", "np"])
def test_batch_encoding(explainer, side, tensors):
    encoded = explainer.tokenizer(TEXTS, padding=True, padding_side=side, return_tensors=tensors)
    for given in (encoded, dict(encoded)):
        for one, text in zip(explainer(given), TEXTS, strict=True):
            assert_same(one, explainer(text), text=False)


@pytest.mark.parametrize("side", ["right", "left"])
def test_padded_ids_without_a_mask(explainer, side):
    ids = explainer.tokenizer(TEXTS, padding=True, padding_side=side, return_tensors="pt")["input_ids"]
    for one, text in zip(explainer(ids), TEXTS, strict=True):
        assert_same(one, explainer(text), text=False)


def test_batch_encoding_with_more_than_inputs(explainer):
    encoded = explainer.tokenizer(
        TEXTS[0],
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        return_length=True,
        return_token_type_ids=True,
    )
    assert_same(explainer(encoded), explainer(TEXTS[0]), text=False)
    tensors = explainer.tokenizer(TEXTS[0], return_tensors="pt")
    tensors["labels"] = torch.tensor([1])
    assert_same(explainer([tensors, TEXTS[1]])[0], explainer(TEXTS[0]), text=False)


def test_batch_encoding_of_a_pair_keeps_its_two_texts(explainer):
    encoded = explainer.tokenizer([PAIR, (TEXTS[1], "good")], padding=True, return_tensors="pt")
    one, two = explainer(encoded)
    assert_same(one, explainer(PAIR), text=False)
    assert len(one.text) == len(two.text) == 2
    assert two.text[1] == "good"


def test_dataset(explainer):
    rows = datasets.Dataset.from_dict({"first": TEXTS, "second": ["good", "bad", "so so"]})
    expected = explainer(TEXTS)
    for given in (rows, rows.to_iterable_dataset(), {"first": TEXTS}, rows.to_pandas()):
        for one, two in zip(explainer(given, text_column="first"), expected, strict=True):
            assert_same(one, two)
    stream = datasets.IterableDataset.from_generator(lambda: ({"first": text} for text in TEXTS))
    assert_same(explainer(stream, text_column="first")[2], expected[2])
    pairs = explainer(rows, text_column=("first", "second"))
    assert_same(pairs[0], explainer((TEXTS[0], "good")))


def test_tokenized_dataset(explainer):
    rows = datasets.Dataset.from_dict({"text": TEXTS}).map(lambda row: explainer.tokenizer(row["text"]))
    for given in (rows, rows.with_format("torch"), rows.with_format("numpy")):
        for one, text in zip(explainer(given, text_column="input_ids"), TEXTS, strict=True):
            assert_same(one, explainer(text), text=False)


# ---- places in the text --------------------------------------------------------------------------------------------


def test_words_are_the_same_for_every_tokenizer():
    kinds = {}
    for kind, family in FAMILY_OF.items():
        explainer = BcosExplainer(get_bcos_model(tiny.model(family), BcosConfig()), tiny.tokenizer(kind))
        kinds[kind] = [words(explanation) for explanation in explainer([*TEXTS, PAIR])]
    assert kinds["wordpiece"] == kinds["bpe"] == kinds["sentencepiece"]
    assert kinds["bpe"][0] == ["The", "café's", "well-made", "film", ",", "don't", "miss", "it", "!"]


def test_every_token_of_ids_has_its_place(explainer):
    """Emoji are several byte tokens for byte-level BPE, and unknown to the others; any ids may follow one another."""
    generator, size = torch.Generator().manual_seed(0), len(explainer.tokenizer)
    emoji = explainer("A 😀👩‍👩‍👧 film").token_ids
    for ids in [emoji, emoji[:-2], *torch.randint(5, size, (20, 30), generator=generator).tolist()]:
        explanation = explainer(ids)
        assert explanation.token_ids == ids
        places = [span for span in explanation.offsets if span is not None]
        assert places == sorted(places)
        assert max(end for _, end in places) <= len(explanation.text)


def test_bytes_of_a_character_share_its_place():
    explainer = BcosExplainer(get_bcos_model(tiny.model("roberta"), BcosConfig()), tiny.tokenizer("bpe"))
    explanation = explainer("A 😀 film")
    at = explanation.text.index("😀")
    assert explanation.offsets.count((at, at + 1)) == 4
    again = explainer(explanation.token_ids)
    assert (again.text, again.offsets) == (explanation.text, explanation.offsets)
    assert "😀" in words(again)


def test_unknown_and_mask_tokens_are_text(bert):
    ids = bert("a zzz # [MASK] film").token_ids
    assert bert.tokenizer.unk_token_id in ids
    explanation = bert(ids)
    assert explanation.special == [True, *[False] * (len(ids) - 2), True]
    assert bert([bert.tokenizer.unk_token_id]).text == "[UNK]"


def test_special_tokens_in_a_text_are_part_of_it(bert):
    explanation = bert("good [SEP] film")
    assert explanation.special == [True, False, False, False, True]
    assert explanation.offsets[2] == (5, 10)


@pytest.mark.parametrize("text", ["Ein Café, naïve Größe 😀!", ("Wer?", "Niemand 😀.")])
def test_python_tokenizer(text):
    """ByT5's tokens are bytes, and the tokenizer is written in Python: it tells no offsets."""
    explainer = BcosExplainer(get_bcos_model(tiny.model("bert"), BcosConfig()), ByT5Tokenizer(extra_ids=0))
    explanation = explainer(text)
    assert explanation.text == text
    for number, one in enumerate([text] if isinstance(text, str) else text):
        spans = [s for s, q in zip(explanation.offsets, explanation.sequence_ids, strict=True) if q == number]
        assert [one[s:e] for s, e in dict.fromkeys(spans)] == list(one)
    assert_same(explainer([text, "x"])[0], explanation)
    if isinstance(text, str):
        assert explainer(explanation.token_ids).text == text
    else:
        cut = explainer((text[0], "y" * 99), truncation=True)
        assert len(cut.tokens) == tiny.MAX_LENGTH
        assert cut.sequence_ids.count(0) == len(text[0])


# ---- length and tokenizers -----------------------------------------------------------------------------------------


def test_truncation(explainer):
    long = "The film was good. " * 40
    with pytest.raises(ValueError, match=r"inputs has \d+ tokens, but the model reads 64.*truncation=True"):
        explainer(long)
    explanation = explainer(long, truncation=True)
    assert len(explanation.tokens) == tiny.MAX_LENGTH
    assert explanation.text == long
    assert abs(explanation.residual) < 1e-4
    assert_same(explainer([TEXTS[0], long], truncation=True)[1], explanation)
    pair = explainer((long, "good"), truncation=True)
    assert len(pair.tokens) == tiny.MAX_LENGTH
    assert 1 in pair.sequence_ids


def test_truncation_leaves_short_texts_alone(explainer):
    assert_same(explainer(TEXTS[0], truncation=True), explainer(TEXTS[0]))


def test_tokenizer_without_a_padding_token(bert):
    tokenizer = tiny.tokenizer("wordpiece")
    tokenizer.pad_token = None
    for one, two in zip(BcosExplainer(bert.model, tokenizer)(TEXTS), bert(TEXTS), strict=True):
        assert_same(one, two)


def test_inputs_that_a_model_does_not_take_are_left_out():
    """DistilBERT has no token types; a tokenizer of BERT gives them."""
    explainer = BcosExplainer(get_bcos_model(tiny.model("distilbert"), BcosConfig()), tiny.tokenizer("wordpiece"))
    assert abs(explainer(PAIR).residual) < 1e-5


def test_token_types_are_used(bert):
    ids = bert(PAIR).token_ids
    types = bert.tokenizer(*PAIR)["token_type_ids"]
    typed = bert({"input_ids": ids, "token_type_ids": types})
    assert_same(typed, bert(PAIR), text=False)
    assert np.abs(typed.scores - bert(ids).scores).max() > 1e-3


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_classifiers_without_a_padding_token_read_one_text_at_a_time(family):
    model = get_bcos_model(tiny.model(family, pad_token_id=None), BcosConfig())
    explainer = BcosExplainer(model, tiny.tokenizer("bpe"))
    for text, found in zip(TEXTS, explainer(TEXTS), strict=True):
        assert_same(found, explainer(text))


def test_a_row_of_a_dataset_is_one_text(bert):
    (found,) = bert({"review": TEXTS[0], "label": 1}, text_column="review")
    assert_same(found, bert(TEXTS[0]))


def test_columns_that_are_no_inputs_are_left_alone(bert):
    ids = bert.tokenizer(TEXTS[0])["input_ids"]
    row = {"input_ids": ids, "tokens": bert.tokenizer.convert_ids_to_tokens(ids), "nothing": [None] * len(ids)}
    assert_same(bert(row), bert({"input_ids": ids}))


def test_tables_of_pandas_need_a_column(bert):
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"review": TEXTS, "label": [1, 0, 1]})
    with pytest.raises(ValueError, match="A dataset needs text_column=.*'?review"):
        bert(table)
    for found, text in zip(bert(table, text_column="review"), TEXTS, strict=True):
        assert_same(found, bert(text))


def test_one_text_is_not_read_letter_by_letter(bert):
    with pytest.raises(TypeError, match="'text' is a list and 'text_pair' one text, 'cd'"):
        bert({"text": ["a film", "b film"], "text_pair": "cd"})
    found = bert("a film")
    for span in ("film", (2, 6)):
        with pytest.raises(TypeError, match="spans must be a list"):
            found.spans(span)
