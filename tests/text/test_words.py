"""Words: cut in the text, the same for every kind of tokenizer."""

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from bcos_peft.text import group_tokens, strip_span
from bcos_peft.text.words import _split_words


SENTENCES = [
    "Don't miss it: a well-made, gripping film!",
    "The café's naïve crêpes cost 3.14 euros (or 1,000)...",
    "  Two  spaces, then 'quotes' and an emoji 🙂 here.",
    'Line one\nline "two" — state-of-the-art stuff?!',
    "Привет, мир! Это проверка",
]


def words_of(text, offsets):
    """The words as strings, from spans alone."""
    ids = group_tokens([text], offsets, [0] * len(offsets), [False] * len(offsets))
    words = {}
    for number, span in zip(ids, offsets, strict=True):
        start, end = strip_span(text, span)
        if start < end:
            low, high = words.get(number, (start, end))
            words[number] = (min(low, start), max(high, end))
    assert sorted(set(ids)) == list(range(len(set(ids)))), "words are numbered from 0 without gaps"
    return [text[low:high] for _, (low, high) in sorted(words.items())]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        (" \n\t ", []),
        ("film", ["film"]),
        ("don't well-made", ["don't", "well-made"]),
        ("don’t", ["don’t"]),
        ("'quoted' rock-", ["'", "quoted", "'", "rock", "-"]),
        ("good,bad. end", ["good", ",", "bad", ".", "end"]),
        ("wow?!... ok", ["wow", "?!...", "ok"]),
        ("3.14 and 1,000. B2", ["3.14", "and", "1,000", ".", "B2"]),
        ("a--b", ["a", "--", "b"]),
        ("snake_case @user #tag", ["snake_case", "@", "user", "#", "tag"]),
        ("no\u00a0break", ["no", "break"]),
        ("cafe\u0301 bon", ["cafe\u0301", "bon"]),  # a combining accent stays with its letter
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("电影好 ok", ["电", "影", "好", "ok"]),
        ("한국어 영화", ["한국어", "영화"]),
        ("hi 👩‍👩‍👧!", ["hi", "👩‍👩‍👧!"]),
    ],
)
def test_split_words(text, words):
    spans = _split_words(text)
    assert [text[start:end] for start, end in spans] == words
    assert "".join(words) == "".join(text.split())


def test_strip_span():
    assert strip_span("a  film ", (1, 8)) == (3, 7)
    assert strip_span("a  film ", (3, 7)) == (3, 7)
    assert strip_span("a  film", (1, 3)) == (3, 3)
    assert strip_span("film", (2, 2)) == (2, 2)


TEXT = "Don't be shy, café"


@pytest.mark.parametrize(
    "offsets",
    [
        # WordPiece: exact, cuts at punctuation
        [(0, 3), (3, 4), (4, 5), (6, 8), (9, 10), (10, 12), (12, 13), (14, 18)],
        # byte-level BPE, leading space inside the span, é in two tokens
        [(0, 3), (3, 5), (5, 8), (8, 12), (12, 13), (13, 17), (17, 18), (17, 18)],
        # byte-level BPE with trimmed spans
        [(0, 3), (3, 5), (6, 8), (9, 12), (12, 13), (14, 17), (17, 18), (17, 18)],
        # SentencePiece: a piece of its own for the space, an empty span at the start
        [(0, 0), (0, 5), (5, 6), (6, 8), (8, 12), (12, 13), (13, 18)],
    ],
    ids=["wordpiece", "bpe", "bpe-trimmed", "sentencepiece"],
)
def test_every_kind_of_span_gives_the_same_words(offsets):
    assert words_of(TEXT, offsets) == ["Don't", "be", "shy", ",", "café"]


def test_white_space_tokens_go_with_the_next_word_and_at_the_end_with_the_last():
    #       "\n\n" "a"    " "    "b"    "\n"
    spans = [(0, 2), (2, 3), (3, 4), (4, 5), (5, 6)]
    assert group_tokens(["\n\na b\n"], spans, [0] * 5, [False] * 5) == [0, 0, 1, 1, 1]


def test_text_of_white_space_keeps_its_tokens():
    assert group_tokens(["  "], [(0, 1), (1, 2)], [0, 0], [False, False]) == [0, 1]


def test_token_over_several_words_joins_them():
    assert group_tokens(["of the film."], [(0, 6), (6, 12)], [0, 0], [False, False]) == [0, 1]
    assert group_tokens(["a b c"], [(0, 3), (3, 5)], [0, 0], [False, False]) == [0, 1]


def test_cjk_tokens_are_words():
    assert words_of("这部电影好", [(0, 1), (1, 2), (2, 4), (4, 5)]) == ["这", "部", "电影", "好"]


def test_special_unknown_and_pairs():
    ids = group_tokens(
        ["good", "good"],
        [None, (0, 2), (2, 4), None, (0, 4), None, None],
        [None, 0, 0, None, 1, 1, None],
        [True, False, False, True, False, False, True],
    )
    assert ids == [None, 0, 0, None, 1, 2, None]  # the same characters of the other text are another word


def test_no_tokens():
    assert group_tokens([""], [], [], []) == []


# ---- real tokenizers, trained here ---------------------------------------------------------------


def wordpiece():
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(SENTENCES, trainers.WordPieceTrainer(vocab_size=150, special_tokens=["[UNK]"]))
    return tokenizer


def byte_level(trim, prefix):
    from tokenizers import processors

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(SENTENCES, trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet))
    return tokenizer


def unigram():
    tokenizer = Tokenizer(models.Unigram())
    # SentencePiece never learns a piece that mixes letters and punctuation; this splits between them likewise.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()])
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=["<unk>"], unk_token="<unk>")
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return tokenizer


def metaspace_bytes():
    """As Llama 2: metaspace, and bytes where the vocabulary ends."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    special = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=special, limit_alphabet=40)
    tokenizer.train_from_iterator(["".join(c if c.isalnum() else " " for c in s) for s in SENTENCES], trainer)
    return tokenizer


TOKENIZERS = {
    "wordpiece": wordpiece,
    "bpe": lambda: byte_level(trim=False, prefix=False),
    "bpe-trimmed": lambda: byte_level(trim=True, prefix=True),
    "unigram": unigram,
    "metaspace-bytes": metaspace_bytes,
}


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]()


@pytest.mark.parametrize("sentence", SENTENCES)
def test_real_tokenizers_agree_with_the_text(tokenizer, sentence):
    encoding = tokenizer.encode(sentence)
    expected = [sentence[start:end] for start, end in _split_words(sentence)]
    assert len(encoding.ids) >= len(expected)
    assert words_of(sentence, encoding.offsets) == expected


def test_bytes_of_one_character_are_one_word():
    encoding = byte_level(trim=False, prefix=False).encode("日 é")
    assert len(encoding.ids) > 3
    assert words_of("日 é", encoding.offsets) == ["日", "é"]
