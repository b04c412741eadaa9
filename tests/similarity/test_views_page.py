"""Pages of explained similarities: every number, and nothing that a hostile text could smuggle in. (The page in a
browser: tests/helpers/similarity_check.py.)"""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from helpers.similarities import far, hostile, near, pair, right_to_left, tokens
from helpers.views import HOSTILE

from bcos_peft.similarity import render_ranking


class Page(HTMLParser):
    """Elements, the text of each card's texts, and all else that is read; complains about tags that do not match."""

    void = frozenset({"meta", "br", "img", "link"})

    def __init__(self, source):
        super().__init__(convert_charrefs=True)
        self.found, self.open, self.texts, self.words = [], [], [], ""
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.found.append((tag, attributes))
        if "bcosx-pairs" in (attributes.get("class") or "").split():
            self.texts.append("")
        if tag not in self.void:
            self.open.append((tag, attributes))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if self.open and self.open[-1][0] in ("style", "script"):
            return
        self.words += data
        if any("bcosx-pairs" in (attributes.get("class") or "").split() for _, attributes in self.open):
            self.texts[-1] += data

    def of(self, tag, **wanted):
        return [one for name, one in self.found if name == tag and wanted.items() <= one.items()]

    @property
    def text(self):
        return " ".join(self.words.split())


def data_of(page):
    return [json.loads(found) for found in re.findall(r'class="bcosx-data">(.*?)</script>', page, re.DOTALL)]


PAGES = {
    "pair": lambda: near().to_html(title="A title", notes="One.\n\nTwo."),
    "difference": lambda: (near() - far()).to_html(),
    "ranking": lambda: render_ranking([far(), near()], title="A title"),
    "hostile": lambda: hostile().to_html(title=HOSTILE, notes=HOSTILE),
    "hostile ranking": lambda: render_ranking([hostile(), hostile(1)], title=HOSTILE, headings=[HOSTILE, HOSTILE]),
}


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_loaded_from_elsewhere(name):
    page = PAGES[name]()
    parsed = Page(page)
    assert not parsed.of("img") + parsed.of("link") + parsed.of("iframe")
    assert all(one["href"].startswith("#bcosx-") for one in parsed.of("a"))
    assert not [one for _, one in parsed.found if "src" in one or any(key.startswith("on") for key in one)]
    assert not re.search(r"url\(|@import", page)
    (policy,) = (one["content"] for one in parsed.of("meta") if "http-equiv" in one)
    assert policy.startswith("default-src 'none'")


@pytest.mark.parametrize("name", PAGES)
def test_every_unit_can_be_pointed_at_and_has_its_numbers(name):
    page = PAGES[name]()
    parsed = Page(page)
    stages = data_of(page)
    assert len(parsed.of("section")) == len(stages) + ("ranking" in name)
    units = [one for one in parsed.of("span") if "bcosx-unit" in (one.get("class") or "").split()]
    assert [int(one["data-unit"]) for one in units] == [
        i for stage in stages for labels in stage["labels"] for i in range(len(labels))
    ]
    groups = parsed.of("p", role="group")
    assert [int(one["data-text"]) for one in groups] == [i for stage in stages for i in range(len(stage["labels"]))]
    assert all(one["aria-label"] and one["dir"] == "auto" for one in groups)
    for stage in stages:
        for pairs in stage["pairs"]:
            shape = len(stage["labels"][pairs["a"]]), len(stage["labels"][pairs["b"]])
            assert np.shape(pairs["values"]) == shape
        assert [len(sums) for sums in stage["sums"]] == [len(labels) for labels in stage["labels"]]
    for one in parsed.of("tr"):
        if "data-place" in one:
            assert re.fullmatch(r"\d+,\d+,(\d+|-1)", one["data-place"])


def test_numbers_of_the_script_are_those_of_the_matrix():
    found = pair(tokens("a b c"), tokens("d e"))
    (stage,) = data_of(found.to_html(by="token"))
    assert stage["scale"] == np.abs(found.matrix[1:-1, 1:-1]).max()
    values = np.array(stage["pairs"][0]["values"]) * stage["step"]
    np.testing.assert_allclose(values, found.matrix, atol=0.51e-4)
    assert stage["decimals"] == 4
    assert stage["sums"][0] == [f"{score:+.4f}".replace("-", "−") for score in found.a_scores]


def test_page_shows_texts_table_and_sum():
    parsed = Page(PAGES["pair"]())
    assert parsed.texts == ["[CLS] A gripping film. [SEP]", "[CLS] This movie,  seat [SEP]"]
    text = parsed.text
    assert text.startswith("A title A title One. Two. cosine 0.500 first text lowers −0.312 +0.312 raises")
    assert "gripping with movie, +0.375 film with movie, +0.188 gripping with seat −0.062" in text
    assert "pairs with special tokens +0.031 constants −0.031" in text
    assert "pairs 0.531 − constants 0.031 + residual 0 = cosine 0.500" in text
    assert "do not rely on it" not in text
    assert "do not rely on it" in Page(near(similarity=0.9).to_html()).text


def test_page_of_a_difference():
    parsed = Page(PAGES["difference"]())
    assert [text.strip() for text in parsed.texts] == [
        "[CLS] A gripping film. [SEP]",
        "[CLS] This movie,  seat [SEP]",
        "[CLS] Salty soup [SEP]",
    ]
    assert "query for the second −0.188 +0.188 for the first" in parsed.text
    assert "gripping +0.312 +0.125 +0.188" in parsed.text
    assert "words of the query 0.281 − constants 0.031 + residual 0 = difference of the cosines 0.250" in parsed.text


def test_ranking_has_the_closest_first(tmp_path):
    page = render_ranking([far(), near()], tmp_path / "page.html", headings=["the soup", "the film"])
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == page
    parsed = Page(page)
    assert re.search(
        r"1 the film 0\.500 2 the soup 0\.250 1 the film cosine 0\.500 .* 2 the soup cosine 0\.250", parsed.text
    )
    assert [one["href"] for one in parsed.of("a")] == ["#bcosx-1", "#bcosx-2"]
    assert [one["id"] for one in parsed.of("h2")] == ["bcosx-1", "bcosx-2"]
    assert "1 This movie, seat 0.500 2 Salty soup 0.250" in Page(render_ranking([far(), near()])).text


def test_rankings_that_are_none_are_refused(tmp_path):
    with pytest.raises(ValueError, match="explanations is empty"):
        render_ranking([])
    with pytest.raises(ValueError, match=r"explanations\[1\] is of the query 'Other words', the first of 'A gripping"):
        render_ranking([near(), pair(tokens("Other words", start=90), far().b)])
    with pytest.raises(ValueError, match=r"explanations\[1\] is a dot, the first a cosine"):
        render_ranking([near(), near(function="dot")])
    with pytest.raises(ValueError, match="headings has 1 entries for 2 explanations"):
        render_ranking([near(), far()], headings=["one"])
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        render_ranking([near()], tmp_path / "none" / "page.html")


def test_hostile_texts_are_escaped_everywhere():
    for name in ("hostile", "hostile ranking"):
        page = PAGES[name]()
        parsed = Page(page)
        harmless = Page(PAGES["ranking" if "ranking" in name else "pair"]())
        assert {tag for tag, _ in parsed.found} <= {tag for tag, _ in harmless.found}
        assert {key for _, one in parsed.found for key in one} <= {key for _, one in harmless.found for key in one}
        assert page.count("</style>") == 1
        assert len(parsed.of("script")) == len(harmless.of("script"))
        assert "49" not in re.sub(r"[+−]\d\.\d+", "", parsed.text), "the text is no template"
        assert HOSTILE in parsed.texts[0]
        assert "\x1b" not in page
        styles = [one["style"] for _, one in parsed.found if "style" in one]
        assert all(re.fullmatch(r"--s:[01]\.\d{3}", value) for value in styles)


def test_keys_and_pointers_have_what_they_need():
    page = PAGES["pair"]()
    parsed = Page(page)
    script = page[page.rindex("<script>") :]
    for needed in (
        '"role", "button"',
        '"aria-pressed"',
        '"aria-label"',
        "tabIndex",
        "ArrowRight",
        "Escape",
        '"focus"',
    ):
        assert needed in script
    (readout,) = (one for one in parsed.of("div") if "bcosx-readout" in one.get("class", "").split())
    assert readout["aria-live"] == "polite"
    assert "hidden" in readout, "without a script it would stay empty"
    assert "innerHTML" not in script


def test_dark_narrow_and_printed():
    page = PAGES["pair"]()
    for needed in ("prefers-color-scheme: dark", "max-width: 34rem", "prefers-reduced-motion", "@media print"):
        assert needed in page


def test_special_tokens_hidden_and_long_texts():
    page = near().to_html(hide_special=True)
    assert Page(page).texts == ["A gripping film.", "This movie,  seat"]
    assert "pairs with special tokens (hidden) +0.031" in Page(page).text
    assert "bcosx-stays" in page[page.index("<main") :]
    long = pair(tokens("word " * 100), tokens("c"))
    body = long.to_html()
    assert "bcosx-stays" not in body[body.index("<main") :], "a long text does not stay in sight"
    assert data_of(long.to_html())[0]["drawn"]
    wide = pair(tokens("word " * 200), tokens("word " * 200))
    assert not data_of(wide.to_html())[0]["drawn"]


def test_right_to_left_words_stand_apart_from_numbers():
    page = right_to_left().to_html()
    assert "<bdi>מגיעה</bdi>" in page
    assert 'dir="ltr" data-unit="0"' in page, "special tokens do not decide about a line"


def test_notebooks_get_a_frame():
    for found in (hostile(), near() - far()):
        (frame,) = Page(found._repr_html_()).of("iframe")
        assert frame["sandbox"] == "allow-scripts"
        assert frame["srcdoc"].startswith("<!DOCTYPE html>")


def test_a_page_is_written(tmp_path):
    page = near().to_html(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == page == near().to_html()


@pytest.mark.parametrize("factor", [1e-7, 1.0, 1e5])
def test_numbers_of_any_size(factor):
    found = near(matrix=near().matrix * factor, similarity=0.53125 * factor, constants=None, function="dot")
    page = found.to_html()
    (stage,) = data_of(page)
    np.testing.assert_allclose(
        np.array(stage["pairs"][0]["values"]) * stage["step"], found.table().matrix, atol=0.501 * stage["step"]
    )
    assert stage["decimals"] == {1e-7: None, 1.0: 3, 1e5: 2}[factor]
    assert {1e-7: "+3.75e−08", 1.0: "+0.375", 1e5: "+37500.00"}[factor] in Page(page).text


def test_texts_that_have_nothing_in_common():
    found = near(matrix=near().matrix * 0, similarity=0.0, constants=None)
    assert "pairs 0.00 + residual 0 = cosine 0.00" in Page(found.to_html()).text
    assert data_of(found.to_html())[0]["scale"] == 0
