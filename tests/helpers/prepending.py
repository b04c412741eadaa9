"""Tokenizers that put a space in front of every text, as SentencePiece does, in the ways that their files have."""

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast


VOCAB_SIZE = 400

_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
_SPECIAL = ["<unk>", "<s>", "</s>"]
_CORPUS = ["we loved paris and madrid", "a good film with good acting", "the answer is 4 44 4", "film"] * 5
_SIGNS = "0123456789+=.?\n|<>/abcdefghijklmnopqrstuvwxyzPM"
_PLAIN = decoders.Sequence(
    [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
)


def tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """One of `KINDS`, of at most `VOCAB_SIZE` entries; digits are tokens with and without a space in front."""
    made = _unigram() if kind == "unigram" else _bpe(kind)
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", made.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="</s>",
        model_max_length=64,
    )


def _bpe(kind: str) -> Tokenizer:
    """Llama 2's file (`"normalizer"`), and those that say when Metaspace prepends (`"first"`, `"always"`)."""
    made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE, special_tokens=_SPECIAL + _BYTES, initial_alphabet=list(_SIGNS), limit_alphabet=60
    )
    made.train_from_iterator(_CORPUS, trainer)
    if kind == "normalizer":
        made.pre_tokenizer = None
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=kind, split=False)
    made.decoder = _PLAIN
    return made


def _unigram() -> Tokenizer:
    """T5's and XLM-R's kind."""
    pieces = ["▁", *_SIGNS, *"▁é", "▁44", "44", "▁good", "good", "▁paris", "paris", "▁film", "▁acting", "ac", "ting"]
    known = [(piece, 0.0) for piece in _SPECIAL] + [(piece, -8.0 / len(piece)) for piece in dict.fromkeys(pieces)]
    made = Tokenizer(models.Unigram(known, unk_id=0))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    made.decoder = decoders.Metaspace(prepend_scheme="always")
    made.add_special_tokens(_SPECIAL)
    return made


def nothing_added() -> processors.TemplateProcessing:
    """For tokenizers that add no special tokens, as those of many chat models."""
    return processors.TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])


KINDS = ("normalizer", "first", "always", "unigram")
