"""The human-evaluation kit: blinding and the page."""

import json
import re
from collections import Counter

import numpy as np
import pytest
from helpers import tiny
from helpers.human_kits import TEXTS, explanation, explanations, kit_of

from bcos_peft import BcosConfig, get_bcos_model
from bcos_peft.evaluation import HumanKit, explain_with, get_method


def data_of(page):
    found = re.search(r'<script type="application/json" id="bcosx-data">(.*?)</script>', page, re.DOTALL)
    return json.loads(found[1])


def pieces(data):
    """All stretches of text on a page."""
    return [
        piece for pair in data["pairs"] for side in ("left", "right") for line in pair[side]["lines"] for piece in line
    ]


def test_the_output_of_a_regression_is_no_probability():
    model = tiny.model("bert", num_labels=1, problem_type="regression")
    (found,) = explain_with(model, tiny.tokenizer(), TEXTS[:1], "random")
    assert found.probability is None


# Building a kit


def test_a_kit_has_every_pair_once():
    kit = kit_of(methods=("a1", "b2", "c3"))
    assert Counter((pair.text, pair.methods) for pair in kit.pairs) == Counter(
        (text, couple) for text in range(4) for couple in [("a1", "b2"), ("a1", "c3"), ("b2", "c3")]
    )
    assert [pair.name for pair in kit.pairs] == [f"p{i:03}" for i in range(1, 13)]
    assert kit.methods == ["a1", "b2", "c3"]


def test_pairs_are_shuffled_and_sides_are_balanced():
    kit = kit_of(texts=40)
    assert [pair.text for pair in kit.pairs] != sorted(pair.text for pair in kit.pairs)
    assert Counter(pair.left for pair in kit.pairs) == {"secretive": 20, "covert": 20}
    sides = [pair.left == "covert" for pair in kit.pairs]
    assert sides not in ([i % 2 == 0 for i in range(40)], [i % 2 == 1 for i in range(40)])
    firsts = {kit_of(texts=1, seed=seed).pairs[0].left for seed in range(10)}
    assert firsts == {"secretive", "covert"}, "of an odd number, chance says who is left once more"


def test_a_kit_depends_on_its_seed():
    assert kit_of().page == kit_of().page
    assert kit_of().kit != kit_of(seed=1).kit
    assert kit_of().pairs != kit_of(texts=40, seed=1).pairs


def test_reference_and_limit():
    kit = kit_of(methods=("a1", "b2", "c3"), reference="b2")
    assert {pair.methods for pair in kit.pairs} == {("a1", "b2"), ("b2", "c3")}
    assert len(kit_of(limit=3).pairs) == 3


def test_texts_with_different_predictions_are_left_out_and_named():
    found = explanations()
    found["covert"][2] = explanation(TEXTS[2], label="negative")
    kit = HumanKit.build(found)
    assert sorted(pair.text for pair in kit.pairs) == [0, 1, 3]
    assert kit.left_out == ["text 2: covert explains 'negative', secretive 'positive'"]
    found["covert"] = [explanation(text, label="negative") for text in TEXTS]
    with pytest.raises(ValueError, match="No pair is left: text 0: covert explains 'negative'"):
        HumanKit.build(found)


def test_refusals():
    with pytest.raises(ValueError, match=r"1 method\(s\); a comparison needs two"):
        HumanKit.build({"a": [explanation(TEXTS[0])]})
    with pytest.raises(ValueError, match="reference='x' is none of the methods: secretive, covert"):
        kit_of(reference="x")
    with pytest.raises(ValueError, match="limit must be at least 1"):
        kit_of(limit=0)
    found = explanations()
    found["covert"].pop()
    with pytest.raises(ValueError, match="'covert' explains 3 texts and 'secretive' 4"):
        HumanKit.build(found)
    found["covert"].append(explanation("Another text."))
    with pytest.raises(ValueError, match="Text 3 is 'Another text.' for 'covert' and 'We loved"):
        HumanKit.build(found)


def test_key_and_page_are_files(tmp_path):
    kit = kit_of()
    page, key = kit.save(tmp_path / "kit")
    assert page.read_text(encoding="utf-8") == kit.page
    for path in (key, key.parent):
        loaded = HumanKit.load(path)
        assert (loaded.pairs, loaded.kit, loaded.seed) == (kit.pairs, kit.kit, kit.seed)
    kit.save(tmp_path / "kit")
    with pytest.raises(ValueError, match="has another kit already"):
        kit_of(seed=1).save(tmp_path / "kit")
    with pytest.raises(ValueError, match="has no page; build it again"):
        loaded.save(tmp_path / "new")
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match="no file of the format 'bcos_peft.human_kit'"):
        HumanKit.load(tmp_path / "other.json")


def test_a_damaged_key_is_refused_by_its_name(tmp_path):
    _, key = kit_of().save(tmp_path / "kit")
    values = json.loads(key.read_text())
    pair = values["pairs"][0]
    key.write_bytes(b"\xef\xbb\xbf" + key.read_bytes())  # the mark of editors on Windows
    assert HumanKit.load(key).kit == values["kit"]
    for pairs in (None, [], [None], ["p001"], [{"name": "p001"}], [pair | {"name": ["p001"]}], [pair | {"more": 1}]):
        key.write_text(json.dumps(values | {"pairs": pairs}))
        with pytest.raises(ValueError, match="key.json' is damaged"):
            HumanKit.load(key)
    key.write_text(json.dumps({name: value for name, value in values.items() if name != "pairs"}))
    with pytest.raises(ValueError, match="is missing or is something else \\('pairs'\\)"):
        HumanKit.load(key)


# The page


def test_the_page_is_blind():
    page = kit_of().page
    assert "secretive" not in page
    assert "covert" not in page
    pairs = data_of(page)["pairs"]
    assert all(set(pair) == {"pair", "says", "rather", "left", "right"} for pair in pairs)


def test_the_page_shows_what_was_explained():
    found = explanations()
    kit = HumanKit.build(found)
    data = data_of(kit.page)
    assert data["kit"] == kit.kit
    for pair, view in zip(kit.pairs, data["pairs"], strict=True):
        assert view["says"] == "positive"
        for side in ("left", "right"):
            (line,) = view[side]["lines"]
            assert "".join(piece[0] for piece in line) == TEXTS[pair.text]
            shown = found[getattr(pair, side)][pair.text]
            scale = max(abs(shown.scores))
            strengths = {piece[0]: piece[1] for piece in line if len(piece) == 2}
            for word in shown.words():
                strength = round(100 * word.score / scale)
                if list(shown.tokens).count(word.text) == 1 and abs(strength) > 5:
                    assert strengths[word.text] == strength


def test_nothing_but_text_comes_from_a_text():
    page = kit_of().page
    assert "</script><b>" not in page
    assert page.count("<script") == 2
    assert any("</" in piece[0] for piece in pieces(data_of(page)))


def test_the_page_loads_and_sends_nothing():
    page = kit_of().page
    assert "default-src 'none'" in page
    for word in ("http:", "https:", "fetch(", "XMLHttpRequest", "src=", "@import", "sendBeacon", "WebSocket"):
        assert word not in page, word


def test_the_page_can_be_used_without_a_mouse_or_eyes():
    page = kit_of().page
    assert '<html lang="en">' in page
    for name in ("bcosx-code", "bcosx-copy"):
        assert f'for="{name}"' in page
    assert page.count('type="radio"') == 3
    assert "<fieldset" in page
    assert "<legend>" in page
    assert 'role="status"' in page
    view = data_of(page)["pairs"][0]["left"]
    strongest = max((piece for line in view["lines"] for piece in line if len(piece) == 2), key=lambda p: abs(p[1]))
    assert strongest[0].strip() in view["spoken"]


def test_without_a_sign_only_what_speaks_for_the_target_is_shown():
    kit = HumanKit.build(explanations(), signed=False)
    strengths = [piece[1] for piece in pieces(data_of(kit.page)) if len(piece) == 2]
    assert min(strengths) > 0
    assert "orange" not in kit.page.split("<main")[1].split("<script")[0]
    assert "speaks against" not in kit.page


def test_title_and_instructions():
    kit = kit_of(title="<Two> models", instructions="First.\n\nSecond & last.")
    assert '<h1 class="bcosx-title">&lt;Two&gt; models</h1>' in kit.page
    assert '<p class="bcosx-notes">Second &amp; last.</p>' in kit.page
    assert "Which marking shows better" not in kit.page


def test_foils_and_pairs_of_texts_are_shown():
    one, two = (explanation(TEXTS[0], seed=seed, foil="negative") for seed in (0, 1))
    kit = HumanKit.build({"a": [one], "b": [two]})
    assert data_of(kit.page)["pairs"][0]["rather"] == "negative"


# Explanations by any method


def test_explain_with_any_method():
    model, tokenizer = tiny.model("bert"), tiny.tokenizer()
    (found,) = explain_with(model, tokenizer, [TEXTS[0]], get_method("attention"), target=2, foil=0)
    assert found.text == TEXTS[0]
    assert (found.target, found.foil, found.target_label) == (2, 0, "LABEL_2")
    assert [i for i, special in enumerate(found.special) if special] == [0, len(found.tokens) - 1]
    assert found.residual == pytest.approx(found.logit - 1), "attention sums to 1, not to the logit"
    assert 0 < found.probability < 1


@pytest.mark.parametrize("baseline", ["zero", "average"])
def test_explain_with_contributions_agrees_with_the_explainer(baseline):
    from bcos_peft import BcosExplainer

    model, tokenizer = get_bcos_model(tiny.model("bert"), BcosConfig(b=1.5)), tiny.tokenizer()
    explainer, method = BcosExplainer(model, tokenizer, baseline=baseline), get_method("bcos", baseline=baseline)
    texts = [TEXTS[0], (TEXTS[1], TEXTS[3])]
    for found, wanted in zip(explain_with(model, tokenizer, texts, method), explainer(texts), strict=True):
        assert found.baseline == pytest.approx(wanted.baseline, abs=1e-5)
        np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-6)
        assert found.tokens == wanted.tokens
        assert found.text == wanted.text
        assert (found.predicted, found.target) == (wanted.predicted, wanted.target)
        assert abs(found.residual) < 1e-5


def test_a_kit_from_two_methods_on_a_language_model():
    model, tokenizer = tiny.model("llama", "CausalLM"), tiny.tokenizer("bpe")
    found = {
        name: explain_with(model, tokenizer, TEXTS[:2], get_method(name)) for name in ("attention", "random")
    }  # fmt: skip
    kit = HumanKit.build(found)
    assert len(kit.pairs) == 2


def test_one_target_for_each_text():
    model, tokenizer = tiny.model("bert"), tiny.tokenizer()
    found = explain_with(model, tokenizer, TEXTS[:2], get_method("random"), target=[0, None])
    assert found[0].target == 0
    assert found[1].target == found[1].predicted
    with pytest.raises(ValueError, match="target has 1 entries for 2 texts"):
        explain_with(model, tokenizer, TEXTS[:2], get_method("random"), target=[0])
    with pytest.raises(ValueError, match=r"texts\[1\] is empty"):
        explain_with(model, tokenizer, ["Good.", " "], get_method("random"))
    with pytest.raises(TypeError, match=r"not a single text; write \['Good.'\]"):
        explain_with(model, tokenizer, "Good.", get_method("random"))
