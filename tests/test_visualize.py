"""What is shown: every number, the text as it is, and nothing that a hostile text could smuggle in."""

import io
import re
from html.parser import HTMLParser

import pytest
from rich.console import Console

from bcos_peft import terminal
from bcos_peft.explanation import Explanation
from bcos_peft.view import layout
from bcos_peft.view_text import format_residual, format_score, printable, visible
from bcos_peft.visualize import export_svg, render_fragment, render_html, show


HOSTILE = """</style></title><script>alert('x')</script> "quoted" <img src=x onerror='y'> {{ 7*7 }} &amp;"""


def make(text, pieces, scores, special=(), **changes):
    """An explanation of `text`; pieces are substrings in order, or special tokens where `special` names them."""
    offsets, cursor = [], 0
    for piece in pieces:
        if piece in special:
            offsets.append(None)
            continue
        start = text.index(piece, cursor)
        cursor = start + len(piece)
        offsets.append((start, cursor))
    fields = {
        "tokens": list(pieces),
        "scores": scores,
        "text": text,
        "offsets": offsets,
        "sequence_ids": [None if span is None else 0 for span in offsets],
        "special": [piece in special for piece in pieces],
        "token_ids": list(range(len(pieces))),
        "target": 1,
        "target_label": "positive",
        "predicted": 1,
        "predicted_label": "positive",
        "logit": sum(scores) + 1e-7,
        "probability": 0.875,
    }
    return Explanation(**{**fields, **changes})


def review(**changes):
    pieces = ["[CLS]", "A", "grip", "ping", ",", "dull", "film", "[SEP]"]
    scores = [0.25, 0.01, 1.5, 0.5, -0.02, -1.25, 0.3, -0.13]
    return make("A gripping,  dull film", pieces, scores, special=("[CLS]", "[SEP]"), **changes)


def pair(**changes):
    fields = {
        "tokens": ["<s>", "Up", "</s>", "Down", "</s>"],
        "scores": [0.0, 1.0, 0.5, -2.0, 0.0],
        "text": ("Up", "Down"),
        "offsets": [None, (0, 2), None, (0, 4), None],
        "sequence_ids": [None, 0, None, 1, None],
        "special": [True, False, True, False, True],
        "token_ids": [0] * 5,
        "target": 0,
        "target_label": "same",
        "predicted": 2,
        "predicted_label": "other",
        "logit": -0.5,
        "probability": 0.2,
    }
    return Explanation(**{**fields, **changes})


def empty():
    return make("", [], [], logit=0.0)


def plain(explanation, width=200, encoding="utf-8", **options):
    """What a file or a pipe receives."""
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    show(explanation, width=width, console=Console(file=file, width=width, force_terminal=False), **options)
    file.flush()
    return file.buffer.getvalue().decode(encoding)


def coloured(explanation, width=200, **options):
    file = io.StringIO()
    console = Console(
        file=file, width=width, force_terminal=True, color_system="truecolor", no_color=False, legacy_windows=False
    )
    show(explanation, console=console, **options)
    return file.getvalue()


def without_escapes(output):
    return re.sub(r"\x1b\[[0-9;]*m", "", output)


def squeezed(output):
    return re.sub(r" +", " ", output)


# ---- numbers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "scale", "text"),
    [
        (3.214, None, "+3.21"),
        (-0.5, None, "-0.50"),
        (0.0, None, "0.00"),
        (-0.001, 3.0, "0.00"),
        (1234.5, None, "+1234.50"),
        (0.0123, None, "+0.012"),
        (0.5, 0.0123, "+0.500"),
        (1e-7, None, "+1.00e-07"),
    ],
)
def test_format_score(value, scale, text):
    assert format_score(value, scale) == text


@pytest.mark.parametrize(
    ("value", "text"), [(1.2e-7, "1e-7"), (-3e-16, "-3e-16"), (0.0, "0"), (0.5, "+0.50"), (-12.0, "-12.00")]
)
def test_format_residual(value, text):
    assert format_residual(value) == text


def test_visible_and_printable():
    assert visible(" film\n") == "␣film↵"
    assert visible("\n") == "↵"
    assert visible("") == ""
    assert visible("two words") == "two words"
    assert printable("a\x1b[2Jb\x00\x7f\x9b\u202e\ud800\tc\n") == "a␛[2Jb␀����\tc\n"


# ---- layout --------------------------------------------------------------------------------------


def test_layout_keeps_the_text_and_its_spacing():
    (line,) = layout(review()).lines
    assert "".join(piece.text for piece in line) == "[CLS] A gripping,  dull film [SEP]"
    assert [piece.text for piece in line if piece.kind == "word"] == ["A", "gripping", ",", "dull", "film"]
    assert [piece.score for piece in line if piece.text == "gripping"] == [2.0]


def test_layout_of_tokens():
    (line,) = layout(review(), words=False).lines
    assert [piece.text for piece in line if piece.kind == "word"] == ["A", "grip", "ping", ",", "dull", "film"]


def test_strength_is_relative_to_the_largest_word():
    view = layout(review())
    assert view.scale == 2.0
    assert [piece.strength for piece in view.lines[0] if piece.text == "dull"] == [-0.625]
    zeros = layout(make("a b", ["a", "b"], [0.0, 0.0]))
    assert [piece.strength for piece in zeros.lines[0]] == [0.0, 0.0, 0.0]


def test_large_special_tokens_do_not_drown_the_words():
    view = layout(make("a b", ["[CLS]", "a", "b"], [50.0, 1.0, -0.5], special=("[CLS]",)))
    assert view.scale == 1.0
    assert [piece.strength for piece in view.lines[0] if piece.text.strip()] == [1.0, 1.0, -0.5]


@pytest.mark.parametrize("words", [True, False])
@pytest.mark.parametrize("hide_special", [True, False])
@pytest.mark.parametrize("top", [0, 2, 99])
def test_rows_sum_to_the_total(words, hide_special, top):
    explanation = review()
    rows = layout(explanation, words=words, hide_special=hide_special, top=top).rows
    assert sum(row.score for row in rows) == pytest.approx(explanation.total, abs=1e-12)


def test_rows():
    rows = [(row.label, round(row.score, 9), row.kind) for row in layout(review(), top=2, hide_special=True).rows]
    assert rows == [
        ("gripping", 2.0, "top"),
        ("dull", -1.25, "top"),
        ("3 other words", 0.29, "rest"),
        ("special tokens (hidden)", 0.12, "special"),
    ]


def test_characters_of_several_tokens_are_shown_once():
    explanation = make("né", ["n"], [6.0]).to_dict()
    explanation.update(
        tokens=["n", "Ã", "©"],
        scores=[1.0, 2.0, 3.0],
        offsets=[(0, 1), (1, 2), (1, 2)],
        sequence_ids=[0, 0, 0],
        special=[False] * 3,
        token_ids=[1, 2, 3],
        word_ids=None,
    )
    (line,) = layout(Explanation.from_dict(explanation), words=False).lines
    assert [(piece.text, piece.score) for piece in line] == [("n", 1.0), ("é", 5.0)]


def test_text_beyond_the_last_token_is_marked():
    view = layout(make("seen " + "x" * 200, ["seen"], [1.0]))
    assert view.unseen == 200
    assert [(piece.kind, len(piece.text)) for piece in view.lines[0]] == [("word", 4), ("unseen", 81)]
    assert "200 characters were not seen by the model" in plain(make("seen " + "x" * 200, ["seen"], [1.0]))


def test_line_breaks_that_contribute_are_shown():
    explanation = make("a\nb", ["a", "\n", "b"], [1.0, -2.0, 1.0])
    (line,) = layout(explanation, words=False).lines
    assert [piece.text for piece in line] == ["a", "↵\n", "b"]
    assert layout(explanation, words=False).rows[0].label == "↵"


def test_tokens_without_places_are_shown_as_they_are():
    fields = dict(review().to_dict(), offsets=[None] * 8, word_ids=None)
    (line,) = layout(Explanation.from_dict(fields)).lines
    assert "".join(piece.text for piece in line) == "[CLS] A grip ping , dull film [SEP]"


def test_numbers_below_the_text_do_not_collide():
    view = layout(make("a b c d", ["a", "b", "c", "d"], [1.0, 0.9, 0.8, 0.05]))
    assert [piece.text for piece in view.lines[0] if piece.noted] == ["a"]


# ---- terminal ------------------------------------------------------------------------------------


def test_plain_output_tells_the_story():
    lines = plain(review()).splitlines()
    assert lines[0] == "predicted positive  probability 0.875  logit +1.16"
    assert lines[2] == ("[CLS][+0.25] A[+0.01] gripping[+2.00],[-0.02]  dull[-1.25] film[+0.30] [SEP][-0.13]")
    assert lines[-1] == "Σ contributions +1.16 = logit +1.16 (residual 1e-7)"
    assert re.search(r"^gripping +\+2\.00 +│█{12} *$", "\n".join(lines), re.MULTILINE)
    assert re.search(r"^dull +-1\.25 +▐█{7}│ *$", "\n".join(lines), re.MULTILINE)


def test_plain_output_has_no_escapes():
    assert "\x1b" not in plain(review())


def test_no_color(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    file = io.StringIO()
    show(review(), console=Console(file=file, width=200, force_terminal=True, color_system="truecolor"))
    assert not re.search(r"\x1b\[[0-9;]*[34]8;", file.getvalue())
    assert "gripping[+2.00]" in without_escapes(file.getvalue())


def test_colours_are_in_proportion():
    output = coloured(review())
    assert "48;2;36;99;222mgripping" in output  # the largest: full blue
    ground, full = (44, 46, 52), (182, 78, 0)
    mixed = ";".join(str(round(a + (b - a) * 0.625)) for a, b in zip(ground, full, strict=True))
    assert f"48;2;{mixed}mdull" in output  # 1.25 / 2 of the way to orange
    assert "against positive -2.00" in without_escapes(output)
    assert "+2.00 for positive" in without_escapes(output)
    assert "gripping[" not in output


def test_light_terminal(monkeypatch):
    monkeypatch.setenv("COLORFGBG", "0;15")
    assert "48;2;96;162;255mgripping" in coloured(review())


def contrast(one, two):
    """WCAG 2 contrast ratio of two colours."""

    def luminance(colour):
        linear = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(two)))
    return (high + 0.05) / (low + 0.05)


def blend(one, two, share):
    return [a + (b - a) * share for a, b in zip(one, two, strict=True)]


@pytest.mark.parametrize("palette", [terminal._DARK, terminal._LIGHT], ids=["dark", "light"])
@pytest.mark.parametrize("side", ["for", "against"])
def test_terminal_ink_is_legible_on_every_step(palette, side):
    for step in range(11):
        assert contrast(palette["ink"], blend(palette["ground"], palette[side], step / 10)) >= 4.5


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_is_legible_on_every_step(scheme):
    declared = re.search(rf"color-scheme: {scheme};(.*?)\}}", render_html([]), re.DOTALL).group(1)
    colours = {}
    for name, value in re.findall(r"--([a-z-]+): ([^;]+);", declared):
        is_hex = value.startswith("#")
        colours[name] = [int(value[i : i + 2], 16) for i in (1, 3, 5)] if is_hex else [int(v) for v in value.split()]
    assert contrast(colours["soft"], colours["paper"]) >= 4.5
    for side in ("for", "against"):
        assert contrast(colours[f"{side}-ink"], colours["paper"]) >= 4.5
        for step in range(11):
            assert contrast(colours["ink"], blend(colours["paper"], colours[side], step / 10)) >= 4.5
            assert contrast(colours["soft"], blend(colours["paper"], colours[side], 0.35 * step / 10)) >= 4  # special


def test_hidden_special_tokens_are_stated():
    output = squeezed(plain(review(), hide_special=True))
    assert "[CLS]" not in output
    assert "special tokens (hidden) +0.12" in output
    assert "= logit +1.16" in output


def test_markup_is_literal():
    text = "[bold]no[/] [/] [link=http://x]y[/link] :smile:"
    explanation = make(text, text.split(), [1.0] * 4, target_label="[red]label[/red]")
    for output in (plain(explanation), without_escapes(coloured(explanation))):
        for word in ("[bold]", "[/]", "[link=http://x]", ":smile:", "[red]label[/red]"):
            assert word in squeezed(re.sub(r"\[\+\d\.\d\d\]", "", output))


def test_control_characters_do_not_reach_the_terminal():
    explanation = make("a\x1b]0;title\x07 b", ["a\x1b]0;title\x07", "b"], [1.0, 2.0], target_label="\x1b[2J")
    assert "\x1b" not in plain(explanation)
    assert "␛]0;title␇" in without_escapes(coloured(explanation))


def test_target_foil_and_prediction():
    head = plain(review(foil=0, foil_label="negative")).splitlines()
    assert head[0].startswith(
        "target positive  rather than negative  predicted positive  probability of positive 0.875"
    )
    assert "logit difference +1.16" in head[0]
    assert head[-1] == "Σ contributions +1.16 = logit difference +1.16 (residual 1e-7)"
    assert plain(pair()).startswith("target same  predicted other  probability 0.200  logit -0.50")
    assert plain(review(probability=None)).startswith("predicted positive  logit +1.16")
    assert "probability >0.999" in plain(review(probability=0.99999))
    assert "probability <0.001" in plain(review(probability=1e-9))


def test_position_is_named():
    assert "at token 3 ping" in plain(review(position=3))


def test_pairs_show_both_texts():
    lines = plain(pair()).splitlines()
    assert lines[lines.index("text 1") + 1] == "<s>[0.00] Up[+1.00] </s>[+0.50]"
    assert lines[lines.index("text 2") + 1] == "Down[-2.00] </s>[0.00]"


def test_parts_are_summed():
    parts = {"word": [0.1] * 8, "token_type": [-0.05] * 8}
    assert "by source: word +0.80, token type -0.40" in plain(review(parts=parts))


def test_inexact_explanations_say_so():
    output = plain(review(logit=5.0))
    assert "≠ logit +5.00 (residual +3.84)" in output
    assert "do not sum to the logit" in output
    assert "do not sum to the logit" in render_html(review(logit=5.0))
    assert "do not sum to the logit" not in plain(review()) + render_html(review())


@pytest.mark.parametrize(
    "explanation", [empty(), make("a", ["a"], [0.0]), make(" ", [" "], [1.0])], ids=["empty", "zero", "space"]
)
@pytest.mark.parametrize("words", [True, False])
def test_edges_are_shown_everywhere(explanation, words):
    assert "Σ contributions" in plain(explanation, words=words)
    assert "Σ contributions" in without_escapes(coloured(explanation, words=words))
    assert "Σ contributions" in render_html(explanation, words=words)


def test_ascii_consoles_do_not_crash():
    output = plain(make("café 中", ["café", "中"], [1.0, -0.5]), encoding="ascii")
    assert r"caf\xe9[+1.00] \u4e2d[-0.50]" in output
    assert "Sum of contributions +0.50 = logit +0.50" in output
    assert "|############" in output


def test_narrow_terminals_lose_nothing():
    output = plain(review(), width=30)
    assert max(map(len, output.splitlines())) <= 30
    assert "gripping[+2.00]" in output
    table = [line.split() for line in output.splitlines()]
    assert ["gripping", "+2.00"] in table, "the words of the table, for which bars leave no place"
    assert ["gripping", "+2.00"] not in [line.split() for line in plain(review(), width=60).splitlines()]


def test_show_method_and_default_console(capsys):
    review().show(width=100)
    assert "gripping[+2.00]" in capsys.readouterr().out


def test_svg(tmp_path):
    path = tmp_path / "one.svg"
    svg = export_svg(review(), path)
    assert path.read_text(encoding="utf-8") == svg == export_svg(review())
    assert svg.startswith("<svg")
    assert "gripping" in svg
    assert "url(http" not in svg
    assert "@font-face" not in svg


def test_svg_escapes():
    assert "<script" not in export_svg(make(HOSTILE, HOSTILE.split(), [1.0] * len(HOSTILE.split())), title="<script>")


# ---- HTML ----------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Tags, attributes and text, read the way a browser does; complains about tags that do not match."""

    void = frozenset({"meta", "br", "img", "link"})

    def __init__(self, source):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.words, self.text, self.open = [], [], [], "", []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in self.void:
            self.open.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if self.open and self.open[-1][0] == "style":
            return
        self.text += data
        if any("bcosx-text" in (attributes.get("class") or "") for _, attributes in self.open):
            self.words.append(data)


def test_page_shows_text_numbers_and_sum():
    page = Page(render_html(review(), title="A title", notes="One.\n\nTwo."))
    assert "".join(page.words) == "[CLS] A gripping,  dull film [SEP]"
    text = " ".join(page.text.split())
    assert "Σ contributions +1.16 = logit +1.16 (residual 1e−7)" in text
    assert "special tokens +0.12" in text
    assert "against positive −2.00" in text
    assert text.startswith("A title A title One. Two. predicted positive probability 0.875 logit +1.16")
    assert ("title", "dull: −1.25") in page.attributes
    assert ("style", "--s:0.625") in page.attributes


def test_page_is_self_contained():
    source = render_html([review(), pair()], title="t", headings=["a", "b"])
    page = Page(source)
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert not {"src", "href", "onclick", "onload"} & {name for name, _ in page.attributes}
    assert not re.search(r"https?:|//|@import|url\(", source.replace("<!DOCTYPE html>", ""))
    assert "prefers-color-scheme: dark" in source


def hostile():
    pieces = HOSTILE.split()
    return make(
        HOSTILE, pieces, [1.0 + i for i in range(len(pieces))], target_label=HOSTILE, predicted_label=HOSTILE,
        predicted=0, foil=2, foil_label=HOSTILE, parts={HOSTILE: [0.0] * len(pieces)},
    )  # fmt: skip


@pytest.mark.parametrize("words", [True, False])
def test_hostile_text_is_escaped_everywhere(words):
    harmless = Page(
        render_html(review(foil=0, foil_label="x", parts={"word": [0.0] * 8}), title="t", headings=["h"], notes="n")
    )
    source = render_html(hostile(), title=HOSTILE, notes=HOSTILE, headings=[HOSTILE], words=words, top=99)
    page = Page(source)
    assert set(page.tags) <= set(harmless.tags)
    assert {name for name, _ in page.attributes} <= {name for name, _ in harmless.attributes}
    assert source.count("</style>") == 1
    assert "".join(page.words) == HOSTILE
    assert "49" not in page.text  # the text is no template


def test_hostile_special_tokens_and_fragments():
    token = '"><script>alert(1)</script>'
    explanation = make("a", [token, "a"], [1.0, 2.0], special=(token,))
    for source in (render_html(explanation), render_fragment(explanation), explanation._repr_html_()):
        assert "<script" not in source
        assert "script" not in Page(source).tags


def test_style_holds_numbers_only():
    styles = [value for name, value in Page(render_html([hostile(), review()])).attributes if name == "style"]
    assert styles
    assert all(re.fullmatch(r"--s:[01]\.\d{3}", value) for value in styles)


def test_special_tokens_hidden():
    page = Page(render_html(review(), hide_special=True))
    assert "".join(page.words) == "A gripping,  dull film"
    assert "special tokens (hidden) +0.12" in " ".join(page.text.split())


def test_pairs_and_several_explanations():
    page = Page(render_html([pair(), review()], headings=["First", "Second"]))
    text = " ".join(page.text.split())
    assert text.index("First") < text.index("text 1") < text.index("text 2") < text.index("Second")
    assert "".join(page.words) == "<s> Up </s>Down </s>[CLS] A gripping,  dull film [SEP]"


def test_headings_must_match():
    with pytest.raises(ValueError, match="headings has 1 entries for 2"):
        render_html([pair(), review()], headings=["one"])


def test_no_explanations():
    assert "No explanations." in render_html([])


def test_fragment_is_scoped():
    source = review()._repr_html_()
    page = Page(source)
    assert not {"html", "body", "head", "title"} & set(page.tags)
    style = source[source.index("<style>") + 7 : source.index("</style>")]
    selectors = re.findall(r"([^{};]+)\{", re.sub(r"@media[^{]+\{", "", style))
    assert len(selectors) > 20
    assert all("bcosx" in part for selector in selectors for part in selector.split(","))
    classes = {c for name, value in page.attributes if name == "class" for c in value.split()}
    assert all(c.startswith("bcosx") for c in classes)


def test_to_html_writes_the_page(tmp_path):
    path = tmp_path / "page.html"
    page = review().to_html(path)
    assert path.read_text(encoding="utf-8") == page == review().to_html() == render_html(review())
