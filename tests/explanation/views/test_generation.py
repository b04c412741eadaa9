"""What is shown of an explained generation: layout, terminal, and the page's structure. (The page in a browser:
tests/browser_check.py.)"""

import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from helpers.generations import make
from rich.console import Console

from bcos_peft import GenerationExplanation
from bcos_peft.explanation import render_generation_html
from bcos_peft.explanation.generation_layout import _layout_generation


EVIL = '</script><img src=x onerror="boom()">'


def words(**changes):
    """Prompt tokens that make words, and an answer with a character of two tokens."""
    fields = {
        "text": "un happy\n a é",
        "tokens": ["un", " hap", "py", "\n", " a", " Ã", "©"],
        "token_ids": [1, 2, 3, 4, 5, 6, 7],
        "offsets": [(0, 2), (2, 6), (6, 8), (8, 9), (9, 11), (11, 13), (12, 13)],
        "special": [False] * 7,
        "prompt_length": 4,
        "scores": [[1, 2, 3, 4], [0.5, 0, 0, 0, 1], [0.25, 0, 0, 0, 0, 2]],
        "logits": [10, 1.5, 2.25],
        "probabilities": [0.5, 0.5, 0.5],
        "predicted": [5, 6, 7],
        "labels": {5: " a", 6: "?", 7: "?"},
    }
    return GenerationExplanation(**(fields | changes))


def evil():
    return make(
        text=f"Paris big. Rome {EVIL[:5]}Old? Rome it is</s>",
        tokens=["<s>", EVIL, " Rome old.", " Old?", " Rome", " it is", "</s>"],
        offsets=[None, (0, 10), (10, 20), (20, 25), (25, 30), (30, 36), (36, 40)],
        labels={2: EVIL, 10: EVIL, 13: EVIL, 14: EVIL, 15: EVIL},
        segments={EVIL: (0, 10)},
    )


class Elements(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def of(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


def printed(found, width=100, **kwargs):
    options = {"file": io.StringIO(), "width": width, "force_terminal": True, "legacy_windows": False} | kwargs
    console = Console(**options)
    found.show(console=console)
    return console.file.getvalue()


# ---- layout ---------------------------------------------------------------------------------------------------------


def test_the_text_is_whole_and_each_token_is_in_one_unit():
    for found in (make(), words()):
        view = _layout_generation(found)
        units = [*view.prompt, *view.answer]
        assert sorted(i for unit in units for i in unit.tokens) == list(range(len(found.tokens)))
        shown = "".join(unit.text for unit in units if unit.text != "<s>")
        assert shown.replace("↵", "") == found.text


def test_words_of_the_prompt_and_tokens_of_the_answer():
    view = _layout_generation(words())
    assert [(unit.text, unit.tokens) for unit in view.prompt if unit.tokens] == [("un", (0,)), ("happy", (1, 2, 3))]
    assert [(unit.text, unit.tokens, unit.step) for unit in view.answer if unit.tokens] == [
        ("a", (4,), 0),
        ("é", (5, 6), 1),
    ]
    character = view.steps[1]
    assert (character.logit, character.probability) == (3.75, 0.25)
    np.testing.assert_allclose(character.strengths * character.scale, [0.75, 0, 1, 2])


def test_rows_sum_to_the_logit():
    found = make()
    for top in (0, 1, 5):
        view = _layout_generation(found, top=top)
        for step in (*view.steps, view.whole):
            assert sum(row.score for row in step.sources) == pytest.approx(step.logit - step.residual)
            assert sum(row.score for row in step.passages) == pytest.approx(step.logit - step.residual)
            assert len([row for row in step.sources if row.kind == "top"]) <= top
    assert [row.label for row in view.steps[0].sources] == [
        "␣Rome old.".strip("␣"),
        "Old?",
        "Paris big.",
        "special tokens",
    ]
    assert view.whole.logit == pytest.approx(found.logits.sum())


def test_what_does_not_sum_is_said():
    found = make(logits=[9.0, 9.75, -1.25])
    view = _layout_generation(found)
    assert [step.exact for step in view.steps] == [False, True, True]
    assert "do not rely on them" in printed(found)
    assert '"exact": false' in render_generation_html(found)


# ---- terminal -------------------------------------------------------------------------------------------------------


def test_terminal():
    out = printed(make(), color_system=None)
    assert "3 tokens, each rather than the runner-up" in out
    assert re.search(r"Rome +␣Paris +0\.50 +\+7\.50 ", out)
    assert re.search(r"prompt +\+5\.75 .*\n *answer +\+8\.75 .*\n *rest +\+1\.50", out)
    assert "Σ contributions to all tokens +16.00 = sum of logit differences +16.00" in out
    assert "rather than" not in printed(make(foils=None), color_system=None)


def test_terminal_is_coloured_by_the_whole_answer():
    out = printed(make(), color_system="truecolor", no_color=False)
    assert re.search(r"\x1b\[1;\d[0-9;]*mRome\x1b", out), "bold, as generated tokens are, on its colour"


def test_terminal_keeps_to_some_steps_and_reads_no_markup():
    console = Console(file=io.StringIO(), width=100, color_system=None)
    make(labels={2: "[bold]", 10: "a", 13: "[red]x", 14: "c", 15: "d"}).show(console=console, steps=1)
    assert "and 2 more" in console.file.getvalue()
    assert "[red]x" not in console.file.getvalue(), "the text has the token's own characters"


def test_ascii_consoles_do_not_crash():
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    make().show(console=Console(file=file, width=100))
    file.flush()
    assert b"sum of logit differences" in file.buffer.getvalue()


# ---- page -----------------------------------------------------------------------------------------------------------


def test_every_generated_token_can_be_pointed_at_and_has_its_numbers():
    found = make()
    page = render_generation_html(found)
    elements = Elements(page)
    steps = [span for span in elements.of("span") if "data-step" in span]
    assert [span["data-step"] for span in steps] == ["0", "1", "2"]
    data = json.loads(re.search(r'id="bcosx-data">(.*?)</script>', page, re.DOTALL)[1])
    assert len(data["steps"]) == 3
    coloured = [span for span in elements.of("span") if "bcosx-w" in span.get("class", "").split()]
    for step in (*data["steps"], data["whole"]):
        assert len(step["strengths"]) == len(coloured)
        assert all(-100 <= value <= 100 for value in step["strengths"])
    assert data["steps"][0]["logit"] == "+7.50"
    assert [row[:2] for row in data["steps"][1]["passages"]] == [
        ["prompt", "+1.75"],
        ["answer", "+8.00"],
        ["rest", "0.00"],
    ]


def test_the_table_has_every_token_for_those_who_do_not_point():
    page = render_generation_html(make())
    assert page.index("<details") < page.index("<summary>All tokens as a table")
    table = page[page.index("<details") : page.index("</details>")]
    assert len(re.findall(r'<tr><th scope="row"', table)) == 3
    assert "data-" not in table
    assert "+7.50" in table
    assert "−1.25" in table


def test_nothing_is_loaded_from_elsewhere():
    page = render_generation_html(make(), title="A title", notes="One.\n\nTwo.")
    elements = Elements(page)
    assert not [tag for tag, attributes in elements.found if {"src", "href"} & attributes.keys()]
    assert not re.search(r"https?:|url\(|@import", page)
    (policy,) = [meta["content"] for meta in elements.of("meta") if "http-equiv" in meta]
    assert policy.startswith("default-src 'none'")
    assert page.count('class="bcosx-notes"') == 2


def test_everything_is_escaped():
    page = render_generation_html(evil(), title=EVIL, notes=EVIL)
    assert "onerror=" in page
    assert not Elements(page).of("img")
    assert len(Elements(page).of("script")) == 2
    frame = evil()._repr_html_()
    (attributes,) = Elements(frame).of("iframe")
    assert "sandbox" in attributes
    assert attributes["srcdoc"].startswith("<!DOCTYPE html>")
    assert not Elements(frame).of("img")


def test_chosen_passages_and_no_contrast():
    page = render_generation_html(make(foils=None), segments={"Rome": "Rome old."})
    data = json.loads(re.search(r'id="bcosx-data">(.*?)</script>', page, re.DOTALL)[1])
    assert [row[0] for row in data["whole"]["passages"]] == ["Rome", "rest"]
    assert data["logit"] == "logit"
    assert "rather than" not in page[page.index("<main") :]
    with pytest.raises(ValueError, match="does not occur"):
        render_generation_html(make(), segments={"a": "London"})


def test_a_page_is_written(tmp_path):
    page = make().to_html(tmp_path / "page.html", title="A title")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == page
    assert "<title>A title</title>" in page
