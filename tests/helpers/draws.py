"""What generator-based tests draw: models, tokenizers, texts in many scripts, and the forms in which they are passed.

Models and tokenizers are made once; a draw changes B only.
"""

import functools

import torch
from hypothesis import strategies as st

from bcos_peft import BcosConfig, BcosExplainer, get_bcos_model
from helpers import prepending, tiny


SCRIPTS = {
    "Latin": ["film", "Good", "café", "cafe\u0301", "naïve", "don't", "Łódź", "x"],
    "Cyrillic": ["фильм", "Хороший", "ёлка", "й", "и\u0306"],
    "Greek": ["ταινία", "Καλή", "ό", "ς"],
    "Arabic": ["فيلم", "جيد", "مُحَمَّد", "لا", "\u0661\u0662"],
    "Hebrew": ["סרט", "טוב", "שָׁלוֹם"],
    "Devanagari": ["में", "अच्छी", "फ़िल्म", "क्ष"],
    "Thai": ["หนัง", "ดี", "น้ำ"],
    "Han": ["电影", "好", "很長的"],
    "Japanese": ["映画", "がっこう", "か\u3099", "スシ"],
    "Hangul": ["영화", "좋은", "\u1112\u1161\u11ab"],
    "Signs": ["❤\ufe0f", "👍🏽", "👩\u200d👩", "🇩🇪", "1.5", "42", "$", "…", "#1", "½", "ﬁ"],
}
_BETWEEN = [" ", " ", " ", "  ", "\n", ", ", "-", "", ".", " \t", "\u00a0", "\u200b", '"']
_AROUND = ["", "", "", " ", "\n", "!", "\u200f"]
_AS_TOKENS = ["[MASK]", "[SEP]", "<s>", "<mask>", "</s>", "[UNK]", "##ing", "▁a", "Ġ"]

# Beside these, B is drawn.
CONFIGS = (
    {},
    {"gates": "hold"},
    {"normalize_weights": True},
    {"pooler_activation": "dynamic"},
    {"convert_head": True, "normalize_weights": True},
    {"b_pattern": {r".*\.0\..*": 1.1}},
    {"align": False},
)
KINDS = (*tiny.TOKENIZER_KINDS, *prepending.KINDS)
_CHAT = "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }}\n{% endfor %}"


@functools.cache
def tokenizer(kind: str):
    """Word pieces, bytes, or pieces with a sign for the space in front, of several makes."""
    made = tiny.tokenizer(kind) if kind in tiny.TOKENIZER_KINDS else prepending.tokenizer(kind)
    made.chat_template = _CHAT
    return made


@functools.lru_cache(maxsize=150)
def model(family: str, task: str, kind: str, number: int):
    """A converted model for a tokenizer, by the number of its config."""
    known = tokenizer(kind)
    changes = {"pad_token_id": known.pad_token_id, "vocab_size": max(len(known), tiny.VOCAB_SIZE)}
    if task == "SequenceClassification":
        changes["id2label"] = {0: "bad", 1: "fair", 2: "good"}
    stock = tiny.model(family, task, **changes)
    return get_bcos_model(stock, BcosConfig(**CONFIGS[number]), verify=False)


@st.composite
def explainers(draw, tasks=tiny.TASKS, families=tiny.FAMILIES, kinds=tiny.TOKENIZER_KINDS, **options):
    """An explainer of a model whose B was drawn."""
    family, task, kind = (draw(st.sampled_from(some)) for some in (families, tasks, kinds))
    found = model(family, task, kind, draw(st.integers(0, len(CONFIGS) - 1)))
    found.set_b(draw(st.sampled_from([1.0, 1.25, 1.5, 2.0])))
    return BcosExplainer(found, tokenizer(kind), progress=False, **options)


@st.composite
def texts(draw, most: int = 4, special: bool = True):
    """A few words of one or two scripts, with what stands between words."""
    scripts = draw(st.lists(st.sampled_from(sorted(SCRIPTS)), min_size=1, max_size=2))
    words = [word for script in scripts for word in SCRIPTS[script]]
    words += _AS_TOKENS if special and draw(st.integers(0, 5)) == 0 else []
    text = draw(st.sampled_from(_AROUND))
    for i, word in enumerate(draw(st.lists(st.sampled_from(words), min_size=1, max_size=most))):
        text += (draw(st.sampled_from(_BETWEEN)) if i else "") + word
    return text + draw(st.sampled_from(_AROUND))


def state(found) -> list:
    """All of a model that a refusal or an explanation could leave changed."""
    modules = [(type(module), module.training, len(module._forward_hooks)) for module in found.modules()]
    tensors = [(name, p.requires_grad, p.grad is None, p._version) for name, p in found.named_parameters()]
    return [modules, tensors, found.config.to_dict(), torch.is_grad_enabled()]


def passed_as(draw, known, items: list):
    """The same inputs in another form, and whether it has the text itself, ids of which other texts may be made.

    None: it has lost the types of the tokens, too.
    """
    form = draw(st.sampled_from(["list", "generator", "dicts", "columns", "ids", "encoding", "left"]))
    if form in ("list", "generator"):
        return items if form == "list" else (item for item in items), True
    if form in ("dicts", "columns"):
        rows = [{"text": one} if isinstance(one, str) else {"text": one[0], "text_pair": one[1]} for one in items]
        if form == "dicts":
            return rows, True
        if len({tuple(row) for row in rows}) > 1:
            return items, True
        return {name: [row[name] for row in rows] for name in rows[0]}, True
    encoded = [known(*([one] if isinstance(one, str) else one)) for one in items]
    if form == "ids":
        return [list(one["input_ids"]) for one in encoded], None if "token_type_ids" in encoded[0] else False
    if form == "encoding":
        return encoded, False
    pairs = [one if isinstance(one, tuple) else (one, None) for one in items]
    if len({second is None for _, second in pairs}) > 1:
        return encoded, False
    firsts, seconds = zip(*pairs, strict=True)
    rest = [] if seconds[0] is None else [list(seconds)]
    return known(list(firsts), *rest, padding=True, padding_side="left", return_tensors="pt"), False
