"""Explanations as HTML: every number, and nothing that a hostile text could smuggle in."""

import re
from html.parser import HTMLParser

import pytest
from helpers.views import HOSTILE, make, pair, review

from bcos_peft.explanation import render_html
from bcos_peft.explanation.render import _render_fragment


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
    for source in (render_html(explanation), _render_fragment(explanation), explanation._repr_html_()):
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
