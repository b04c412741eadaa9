"""Right-to-left scripts: lines begin where they should, numbers read from left to right, messages stand apart."""

import re

import pytest
from helpers.generations import make as generation
from helpers.views import make, plain

from bcos_peft.explanation import layout, render_generation_html, render_html


HEBREW, ARABIC = "הסרט היה נפלא.", "كان الفيلم رائعا."
LRM, RLM = "\N{LEFT-TO-RIGHT MARK}", "\N{RIGHT-TO-LEFT MARK}"


def explain(text, scale=1.0, **changes):
    words = re.findall(r"\w+|[^\w\s]", text)
    pieces = ["[CLS]", *words, "[SEP]"]
    scores = [scale * (1 + i % 3) * (-1) ** i for i in range(len(pieces))]
    return make(text, pieces, scores, special=("[CLS]", "[SEP]"), **changes)


@pytest.mark.parametrize("text", [HEBREW, ARABIC])
def test_special_tokens_do_not_decide_about_a_line(text):
    """A browser leaves what has a direction of its own out when it looks for the first letter."""
    page = render_html(explain(text))
    marked = re.findall(r'<span class="bcosx-w[^>]*bcosx-special"[^>]*>', page)
    assert len(marked) == 2
    assert all('dir="ltr"' in tag for tag in marked)
    assert '<p class="bcosx-text" dir="auto">' in page
    assert re.search(r"\.bcosx-text \{[^}]*unicode-bidi: plaintext", page)
    assert not re.search(r'<span class="bcosx-w(?![^"]*bcosx-special)[^>]*dir=', page)


def test_numbers_below_words_read_from_left_to_right():
    page = render_html(explain(HEBREW))
    assert re.search(r"\.bcosx-noted::after \{[^}]*direction: ltr; unicode-bidi: isolate", page)
    (title,) = re.findall(r'title="([^"]*נפלא[^"]*)"', page)
    assert title == "\u2066\u2068נפלא\u2069: −1\u2069"
    assert 'title="good: +3"' in render_html(explain("A good film."))


def chat(text, message, special=()):
    """A prompt with a message, and an answer of one token."""
    pieces = [piece for piece in re.findall(r"<[^>]*>|\s*[^\s<.]+|\.|\s+", text) if piece]
    tokens, offsets, at = [*pieces, "שלום"], [], 0
    for token in tokens:
        offsets.append((at, at + len(token)))
        at += len(token)
    count = len(pieces)
    start = text.index(message)
    return generation(
        text="".join(tokens), tokens=tokens, token_ids=list(range(count + 1)), offsets=offsets, prompt_length=count,
        special=[token in special for token in tokens], scores=[[0.5] * count], logits=[count / 2],
        probabilities=[0.5], predicted=[count], foils=None, labels={count: "שלום"},
        segments={"user": (start, start + len(message)), "answer": (at - 4, at)},
    )  # fmt: skip


def test_a_message_beside_other_text_stands_apart():
    found = chat(f"[INST] {HEBREW} [/INST] ", HEBREW)
    for page in (render_generation_html(found), render_html(found[0])):
        (apart,) = re.findall(r"<bdi>(.*?)</bdi>", page, re.DOTALL)
        assert re.sub(r"<[^>]*>", "", apart) == HEBREW


def test_a_message_on_lines_of_its_own_gives_them_their_direction():
    found = chat(f"<s>user\n{HEBREW}<e>\n", HEBREW, special=("<s>", "<e>"))
    for page in (render_generation_html(found), render_html(found[0])):
        assert "<bdi>" not in page
        assert page.count('dir="ltr"') >= 2


def test_a_message_ends_within_a_line():
    found = chat(f"<s>{HEBREW} user:", HEBREW, special=("<s>",))
    assert "<bdi>" in render_generation_html(found)


def test_numbers_of_the_table_stand_apart():
    page = render_generation_html(chat(f"{HEBREW}\n", HEBREW))
    assert re.search(r'<span class="bcosx-from" dir="auto">[^<]*<i dir="ltr">\+0\.50</i>', page)


# ---- the terminal --------------------------------------------------------------------------------------------------


def test_terminals_get_marks():
    shown = plain(explain(HEBREW))
    assert f"{RLM}[CLS]" in shown
    assert "היה[" not in shown
    assert f"היה{LRM}[+3.00]" in shown
    assert f"{LRM}נפלא{LRM}" in shown  # in the table
    assert "הסרט" in shown


def test_other_texts_and_other_terminals_get_none():
    assert not {LRM, RLM} & set(plain(explain("A good film.")))
    assert "\\u200" not in plain(explain(HEBREW), encoding="ascii")
    assert not {LRM, RLM} & set(plain(explain("A [CLS] film.")))


def test_marks_follow_the_first_letter_of_a_line():
    assert RLM not in plain(explain(f"Film: {HEBREW}"))
    assert f"{RLM}[CLS]" in plain(explain(f"1. {HEBREW}"))


# ---- room for numbers ----------------------------------------------------------------------------------------------


def noted(text, scale=1.0):
    (line,) = layout(explain(text, scale), top=99).lines
    return sum(piece.noted for piece in line)


HINDI = "यह फ़िल्म बहुत ही अच्छी थी और मुझे पूरी फ़िल्म में नींद नहीं आई"
LATIN = "".join("x" if character.isalpha() else character for character in ARABIC * 4)


def test_long_numbers_take_more_room():
    for text in ("A film that is not bad at all, but it is not good either.", ARABIC * 4, HINDI):
        assert 0 < noted(text, 1e7) < noted(text)


def test_numbers_below_connected_letters_and_marks_take_more_of_them():
    assert noted(ARABIC * 4) < noted(LATIN)
    plainly = "".join("x" if not character.isspace() else " " for character in HINDI)
    assert noted(HINDI) < noted(plainly)
