"""Words end where those of the text do: at special tokens, behind their marks, and in the spelling of the text."""

import pytest
from helpers import tiny
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

from bcos_peft import BcosConfig, BcosExplainer, GenerationExplanation, get_bcos_model
from bcos_peft.explanation import render_generation_html
from bcos_peft.text import align, encode, group_tokens, hold_marks


PAIR = ("a good film", "was it")


def words(encoding):
    texts = (encoding.text,) if isinstance(encoding.text, str) else encoding.text
    groups = group_tokens(texts, encoding.offsets, encoding.sequence_ids, encoding.special)
    found = {}
    for group, place, sequence in zip(groups, encoding.offsets, encoding.sequence_ids, strict=True):
        if group is not None:
            text, start, end = found.get(group, (texts[sequence], *place))
            found[group] = text, min(start, place[0]), max(end, place[1])
    return [text[start:end].strip() for text, start, end in found.values()]


# ---- borders at special tokens -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", tiny.TOKENIZER_KINDS)
@pytest.mark.parametrize("pairs", [False, True])
def test_ids_of_a_pair(kind, pairs):
    tokenizer = tiny.tokenizer(kind)
    ids = tokenizer(*PAIR)["input_ids"]
    found = encode({"input_ids": ids}, tokenizer, None, False, pairs=pairs)
    assert words(found) == ["a", "good", "film", "was", "it"]
    assert found.text == (PAIR if pairs else " ".join(PAIR))
    if pairs:
        assert found.sequence_ids == encode(PAIR, tokenizer, None, False).sequence_ids


@pytest.mark.parametrize("kind", tiny.TOKENIZER_KINDS)
def test_what_is_no_pair(kind):
    """One text, three of them, or no special tokens around: one text, with its borders."""
    tokenizer = tiny.tokenizer(kind)
    ids = tokenizer(*PAIR)["input_ids"]
    border = ids.index(tokenizer.sep_token_id or tokenizer.eos_token_id)
    for given in (ids[1:-1], ids + ids, ids[: border + 1], ids[1:]):
        assert isinstance(encode({"input_ids": given}, tokenizer, None, False, pairs=True).text, str)


def test_token_types_say_that_it_is_one_text():
    tokenizer = tiny.tokenizer("wordpiece")
    values = {"input_ids": tokenizer(*PAIR)["input_ids"]}
    types = dict(values, token_type_ids=[0] * len(values["input_ids"]))
    assert encode(types, tokenizer, None, False, pairs=True).text == " ".join(PAIR)
    assert encode(tokenizer(*PAIR), tokenizer, None, False, pairs=True).text == PAIR


@pytest.mark.parametrize("kind", tiny.TOKENIZER_KINDS)
def test_turns_of_a_chat(kind):
    tokenizer = tiny.tokenizer(kind)
    first, last = (tokenizer("a")["input_ids"][i] for i in (0, -1))
    ids = []
    for turn in ("good", "film", "it"):
        ids += [first, *tokenizer(turn, add_special_tokens=False)["input_ids"], last]
    found = encode({"input_ids": ids}, tokenizer, None, False)
    assert words(found) == ["good", "film", "it"]


def test_explainers_read_ids_alike():
    ids = []
    model = get_bcos_model(tiny.model("llama", "CausalLM"), BcosConfig())
    explainer = BcosExplainer(model, tiny.tokenizer("bpe"))
    for turn in ("good film", "was it", "Nobody"):
        ids += [0, *explainer.tokenizer(turn, add_special_tokens=False)["input_ids"], 2]
    for found in (explainer(ids), explainer.explain(ids), explainer.explain_generation(ids, " good")[0]):
        assert [word.text for word in found.words()] == ["good", "film", "was", "it", "Nobody"]


def test_no_space_where_there_is_one():
    tokenizer = tiny.tokenizer("bpe")
    ids = [0, *tokenizer("good\n", add_special_tokens=False)["input_ids"], 2]
    ids += [*tokenizer(" film", add_special_tokens=False)["input_ids"], 2]
    assert encode({"input_ids": ids}, tokenizer, None, False).text == "good\n film"


def test_no_word_reaches_over_a_special_token():
    offsets = [(0, 2), None, (2, 7)]
    assert group_tokens(["unhappy"], offsets, [0, None, 0], [False, True, False]) == [0, None, 1]
    white = [(0, 4), (4, 5), None, (5, 9)]  # white space goes with the word before, not over the border
    assert group_tokens(["good film"], white, [0, 0, None, 0], [False, False, True, False]) == [0, 0, None, 1]


# ---- marks that a tokenizer drops ----------------------------------------------------------------------------------


def stripping(*pieces):
    """A tokenizer that drops accents, as those of uncased BERT models do."""
    vocabulary = {piece: i for i, piece in enumerate(["[UNK]", "[CLS]", "[SEP]", *pieces])}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")


MARKED = [
    ("में film", ["म", "film"], ["में", "film"]),
    ("हिन्दी!", ["ह", "##न", "##द", "##ी", "!"], ["हिन्दी", "!"]),
    ("cafe\N{COMBINING ACUTE ACCENT} noir", ["cafe", "noir"], ["cafe\N{COMBINING ACUTE ACCENT}", "noir"]),
    ("I ❤\N{VARIATION SELECTOR-16} it", ["i", "❤", "it"], ["I", "❤\N{VARIATION SELECTOR-16}", "it"]),
    ("שָׁלוֹם", ["ש", "##לום"], ["שָׁלוֹם"]),
    ("كِتَابٌ", ["كتاب"], ["كِتَابٌ"]),
    ("1\N{VARIATION SELECTOR-16}\N{COMBINING ENCLOSING KEYCAP} film", ["1", "film"], None),
    ("👩\N{ZERO WIDTH JOINER}👧", ["👩👧"], ["👩\N{ZERO WIDTH JOINER}👧"]),
]


@pytest.mark.parametrize(("text", "pieces", "expected"), MARKED)
def test_words_keep_their_marks(text, pieces, expected):
    tokenizer = stripping(*pieces)
    found = encode(text, tokenizer, None, False)
    assert words(found) == (expected or text.split())
    assert encode(("film", text), stripping(*pieces, "film"), None, False).sequence_ids.count(1) >= len(expected or [])


def test_views_see_whole_words():
    model = get_bcos_model(tiny.model("bert"), BcosConfig())
    found = BcosExplainer(model, stripping("म", "film"))("में film")
    assert [word.text for word in found.words()] == ["में", "film"]
    assert [piece.text for piece in found.spans(["में"])] == ["में"]
    page = found.to_html()
    assert ">में</span>" in page
    assert "not seen" not in page


def test_marks_that_are_tokens_stay_with_them():
    text = "cafe\N{COMBINING ACUTE ACCENT}"
    assert hold_marks([text], [(0, 4), (4, 5)], [0, 0]) == [(0, 4), (4, 5)]
    assert hold_marks([text], [(0, 4), None], [0, None]) == [(0, 5), None]
    assert hold_marks([text, text], [(0, 4), (0, 4)], [1, 0]) == [(0, 5), (0, 5)]
    assert hold_marks(["a \N{COMBINING ACUTE ACCENT}b"], [(0, 1), (3, 4)], [0, 0]) == [(0, 1), (3, 4)]
    shared = hold_marks(["❤\N{VARIATION SELECTOR-16}!"], [(0, 1), (0, 1), (2, 3)], [0, 0, 0])
    assert shared == [(0, 2), (0, 2), (2, 3)]  # bytes of one character


def test_korean_written_in_parts_is_whole():
    """Tokenizers compose syllables, and place what they have composed at the first of its parts."""
    syllable = "\u1112\u1161\u11ab"
    assert hold_marks([f"{syllable} a"], [(0, 1), (4, 5)], [0, 0]) == [(0, 3), (4, 5)]
    assert hold_marks([syllable * 2], [(0, 1), (3, 4)], [0, 0]) == [(0, 3), (3, 6)]
    assert hold_marks(["ab"], [(0, 1)], [0]) == [(0, 1)]
    found = encode(f"film {syllable}  film", tiny.tokenizer("sentencepiece"), None, False)
    assert words(found) == ["film", syllable, "film"]


def test_generations_have_whole_words():
    text = "cafe\N{COMBINING ACUTE ACCENT} noir"
    found = GenerationExplanation(
        text=text, tokens=["cafe", "noir"], token_ids=[4, 5], offsets=[(0, 4), (6, 10)], prompt_length=1,
        special=[False, False], scores=[[1.0, 0]], logits=[1.0], probabilities=[0.6], predicted=[5],
        labels={5: "noir"},
    )  # fmt: skip
    assert found[0].words()[0].text == "cafe\N{COMBINING ACUTE ACCENT}"
    assert ">cafe\N{COMBINING ACUTE ACCENT}</span>" in render_generation_html(found)


# ---- tokenizers that tell no places --------------------------------------------------------------------------------


def slow(tmp_path, *pieces):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces]), encoding="utf-8")
    return BertTokenizerLegacy(str(path))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A Good 😀 Film", ["A", "Good", "😀", "Film"]),
        ("Good 😀😀 film I ❤\N{VARIATION SELECTOR-16} A", None),
        ("😀", ["😀"]),
        ("Zzz a ZZZ", ["Zzz", "a", "ZZZ"]),
        ("Xx yy zz", ["Xx", "yy", "zz"]),
        ("xay a goodx GOOD", ["xay", "a", "goodx", "GOOD"]),
        ("में Film", ["में", "Film"]),
        ("Cafe\N{COMBINING ACUTE ACCENT} 👩\N{ZERO WIDTH JOINER}👧 A", None),
    ],
)
def test_an_unknown_sign_leaves_the_text_as_it_is(tmp_path, text, expected):
    tokenizer = slow(tmp_path, "a", "good", "film", "i", "म")
    assert not tokenizer.is_fast
    found = encode(text, tokenizer, None, False)
    assert found.text == text
    assert words(found) == (expected or text.split())
    pair = encode((text, "Good film"), tokenizer, None, False)
    assert pair.text == (text, "Good film")


def test_a_cut_text_with_unknown_signs(tmp_path):
    tokenizer = slow(tmp_path, "a", "good", "film")
    text = "Good 😀 Film Zzz A good film"
    found = encode(text, tokenizer, 6, True)
    assert found.text == text
    assert words(found) == ["Good", "😀", "Film", "Zzz"]


def test_unknown_tokens_that_fit_nowhere():
    spans = [(0, 1), (1, 7), (7, 12)]
    assert align("a [UNK] film", spans, "A 😀 b", [False, True, False]) == ("a [UNK] film", spans)
    many = "[UNK] b " * 40
    found = align(many, [span for i in range(40) for span in ((8 * i, 8 * i + 5), (8 * i + 5, 8 * i + 7))],
                  "bb " * 39 + "x", [True, False] * 40)  # fmt: skip
    assert found[0] == many  # and that soon


def test_a_pair_in_a_list_keeps_which_text_each_token_is_of():
    from bcos_peft.text import split_inputs

    tokenizer = tiny.tokenizer("bpe")
    encoded = tokenizer("a good film", "was it")
    (alone,), _ = split_inputs(encoded)
    (listed,), _ = split_inputs([encoded])
    assert listed["sequence_ids"] == alone["sequence_ids"]
    assert 1 in listed["sequence_ids"]
