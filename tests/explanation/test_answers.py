"""Outputs of tokens: the answer to a question by its start and end, an entity by all of its tokens, and where to look
when nobody says."""

import inspect
import itertools

import numpy as np
import pytest
import torch
from helpers import tiny

from bcos_peft import BcosConfig, BcosExplainer, Explanation, attribute, get_bcos_model


PAIRS = [("Who made this?", "We loved the direction and the music."), ("Who?", "Nobody."), ("What is it?", "A film!")]
TEXT = "We loved the wonderful acting, the direction and the music."


def make(family="bert", task="QuestionAnswering", **changes):
    model = get_bcos_model(tiny.model(family, task, dtype=torch.float64, **changes), BcosConfig())
    return BcosExplainer(model, tiny.tokenizer(tiny.KIND_OF.get(family, "bpe")))


def outputs(explainer, explanation):
    """What the model gives for the text of an explanation."""
    encoded = explainer.tokenizer(*explanation.texts, return_tensors="pt")
    taken = inspect.signature(type(explainer.model).forward).parameters
    with torch.no_grad():
        return explainer.model(**{name: value for name, value in encoded.items() if name in taken})


def assert_same(one, two):
    np.testing.assert_allclose(one.scores, two.scores, atol=1e-9)
    assert (one.text, one.target_label, one.positions) == (two.text, two.target_label, two.positions)


def best_span(start, end, inside):
    spans = [(s, e) for s, e in itertools.product(inside, inside) if s <= e]
    return max(spans, key=lambda span: float(start[span[0]] + end[span[1]]))


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta", "distilbert", "modernbert"])
def test_the_answer_is_explained(family):
    explainer = make(family)
    for batch_size in (1, 4):
        explainer.batch_size = batch_size
        for pair, found in zip(PAIRS, explainer(PAIRS), strict=True):
            output = outputs(explainer, found)
            start, end = output.start_logits[0], output.end_logits[0]
            context = [i for i, sequence in enumerate(found.sequence_ids) if sequence == 1]
            first, last = best_span(start, end, context)
            assert found.positions == [first, last]
            assert found.position == first
            assert found.logit == pytest.approx(float(start[first] + end[last]), abs=1e-6)
            assert abs(found.residual) < 1e-9
            assert found.target_ids == [0, 1]
            assert found.target_label == found.predicted_label
            assert found.target_label in pair[1]
            expected = start.softmax(-1)[first] * end.softmax(-1)[last]
            assert found.probability == pytest.approx(float(expected), abs=1e-9)
            ends = [explainer(pair, target=name, position=at) for name, at in (("start", first), ("end", last))]
            np.testing.assert_allclose(found.scores, ends[0].scores + ends[1].scores, atol=1e-9)


def test_the_answer_does_not_end_before_it_starts_and_is_none_of_the_question():
    """The best start and the best end of their own are neither here: the case that the search is for."""
    explainer, crossed = make(), 0
    texts = [(first, second) for first, _ in PAIRS for second in (TEXT, "The film was awful, dull and too long.")]
    for found in explainer(texts):
        output = outputs(explainer, found)
        context = [i for i, sequence in enumerate(found.sequence_ids) if sequence == 1]
        assert found.positions[0] <= found.positions[1]
        assert set(found.positions) <= set(context)
        crossed += found.positions != [int(output.start_logits[0].argmax()), int(output.end_logits[0].argmax())]
    assert crossed


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_ids_of_a_pair_have_a_question_too(family):
    explainer = make(family)
    for pair in PAIRS:
        ids = explainer.tokenizer(*pair)["input_ids"]
        found = explainer({"input_ids": ids})
        context = [i for i, sequence in enumerate(explainer(pair).sequence_ids) if sequence == 1]
        assert set(found.positions) <= set(context)


def test_start_and_end_have_their_own_tokens():
    explainer = make()
    for pair, both in zip(PAIRS, explainer(PAIRS, target="all", split=True), strict=True):
        output = outputs(explainer, both[0])
        assert [one.target_label for one in both] == ["start", "end"]
        for one, logits in zip(both, (output.start_logits[0], output.end_logits[0]), strict=True):
            assert one.position == int(logits.argmax())
            assert one.logit == pytest.approx(float(logits.max()), abs=1e-9)
            assert one.predicted == one.target
            assert one.positions is None
            np.testing.assert_allclose(sum(one.parts.values()), one.scores, atol=1e-9)
            np.testing.assert_allclose(one.scores, explainer(pair, target=one.target_label).scores, atol=1e-9)
    first, last = explainer(PAIRS[0], target="all", position=4)
    assert first.position == last.position == 4


def test_another_answer():
    explainer = make()
    pair = PAIRS[0]
    by_text = explainer(pair, span="direction and")
    start = pair[1].index("direction")
    by_place = explainer(PAIRS, span=[(start, start + len("direction and")), None, "A film"])
    assert_same(by_text, by_place[0])
    assert_same(by_place[1], explainer(PAIRS[1]))
    assert by_text.target_label == "direction and"
    assert by_text.predicted_label == explainer(pair).target_label != "direction and"
    output = outputs(explainer, by_text)
    first, last = by_text.positions
    assert by_text.logit == pytest.approx(float(output.start_logits[0, first] + output.end_logits[0, last]), abs=1e-9)
    assert Explanation.from_dict(by_text.to_dict()) == by_text


def test_one_text_is_its_own_context():
    found = make()("A film.")
    assert not any(found.special[i] for i in found.positions)


def test_what_goes_with_no_answer():
    explainer = make()
    with pytest.raises(ValueError, match=r"foil given for inputs.*target='start'"):
        explainer(PAIRS[0], foil="end")
    with pytest.raises(ValueError, match="target given for inputs beside span"):
        explainer(PAIRS[0], target="start", span="music")
    with pytest.raises(ValueError, match=r"position and span given for inputs\[1\]"):
        explainer(PAIRS, position=[None, 2, None], span=(0, 2))
    with pytest.raises(ValueError, match=r"span of inputs\[0\]: 'the' occurs 2 times"):
        explainer(PAIRS[:1], span="the")
    with pytest.raises(ValueError, match="inputs has a question and no context"):
        explainer(("Who made this?", " "))
    with pytest.raises(ValueError, match="neither labels tokens nor answers questions"):
        make(task="SequenceClassification")("A film.", span="film")
    with pytest.raises(TypeError, match="span must be characters"):
        explainer(PAIRS[0], span=[3])
    with pytest.raises(ValueError, match=r"span of inputs: span \(0, 99\)"):
        explainer(PAIRS[0], span=(0, 99))


# ---- labels of tokens ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta", "modernbert", "gpt2"])
def test_no_special_token_is_chosen_by_itself(family):
    """Whatever the model says at a special token is no label of a word."""
    explainer, elsewhere = make(family, "TokenClassification"), 0
    texts = [TEXT, "Dull!", "A gripping film.", "An awful movie.", PAIRS[0]]
    for target in (None, 0, 1, 2):
        for text, found in zip(texts, explainer(texts, target=target), strict=True):
            assert found.text == text
            logits = outputs(explainer, found).logits[0]
            wanted = logits.amax(-1) if target is None else logits[:, target]
            plain = [i for i, special in enumerate(found.special) if not special]
            assert found.position == max(plain, key=lambda i, wanted=wanted: float(wanted[i]))
            elsewhere += found.position != int(wanted.argmax())
    assert elsewhere or family == "gpt2"  # which has no special tokens here


def test_special_tokens_that_are_written_in_a_text_are_not_chosen_either():
    explainer = make(task="TokenClassification")
    for target in (0, 1, 2):
        found = explainer("good [SEP] film [CLS] [PAD] was", target=target)
        assert found.tokens[found.position] not in ("[SEP]", "[CLS]", "[PAD]")


def test_a_masked_model_without_a_mask_looks_at_words():
    explainer = make(task="MaskedLM")
    for target in range(20, 60):
        found = explainer("A gripping film", target=target)
        assert not found.special[found.position]


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2"])
def test_an_entity_is_explained_at_once(family):
    explainer = make(family, "TokenClassification")
    start = TEXT.index("wonderful")
    texts = [TEXT, "A wonderful acting, friend."]
    for found in (*explainer(texts, span="wonderful acting"), explainer(TEXT, span=(start, start + 16))):
        assert TEXT[start : start + 16] == "wonderful acting"
        places = found.positions
        assert places == list(range(places[0], places[-1] + 1))
        single = [explainer(found.text, position=i, target=found.target) for i in places]
        np.testing.assert_allclose(found.scores, sum(one.scores for one in single), atol=1e-9)
        assert found.logit == pytest.approx(sum(one.logit for one in single), abs=1e-9)
        assert found.probability == pytest.approx(np.prod([one.probability for one in single]), abs=1e-9)
        assert abs(found.residual) < 1e-9
        assert found.target == found.predicted
        every = explainer(found.text, span="wonderful acting", target="all")
        assert max(every, key=lambda one: one.logit).target == found.target
        other = explainer(found.text, span="wonderful acting", target=1, foil=0)
        np.testing.assert_allclose(other.scores, every[1].scores - every[0].scores, atol=1e-9)


def test_a_word_of_one_token_is_its_position():
    explainer = make(task="TokenClassification")
    one = explainer(TEXT, span="music")
    assert one.positions is None
    assert one == explainer(TEXT, position=one.position)


def test_views_name_the_tokens():
    explainer = make(task="TokenClassification")
    page = explainer(TEXT, span="the direction").to_html()
    assert "the direction" in page
    assert "at tokens" in page
    assert page.count("bcosx-explained") == 2 + 1  # both words, and the style
    page = make()(PAIRS[0], span="direction").to_html()
    assert "at token" in page
    assert "predicted" in page


# ---- tensors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["right", "left"])
def test_answers_and_spans_of_tensors(side):
    model = make("roberta").model
    inputs = tiny.inputs(3, 9, side, "roberta")
    result = attribute(model, **inputs, target="answer")
    with torch.no_grad():
        output = model(**tiny.inputs(3, 9, "right", "roberta")) if side == "right" else None
    torch.testing.assert_close(result.scores.sum(1), result.logit, rtol=0, atol=1e-9)
    torch.testing.assert_close(result.logits.sum(1), result.logit)
    assert torch.equal(result.span, result.best_span)
    assert (result.span[:, 0] < result.span[:, 1]).all()
    for row, (first, stop) in enumerate(result.span.tolist()):
        assert inputs["attention_mask"][row, first:stop].all()
        ends = [
            attribute(model, **inputs, target=t, position=torch.full((3,), at))
            for t, at in ((0, first), (1, stop - 1))
            if inputs["attention_mask"][:, at].all()
        ]
        if len(ends) == 2:
            torch.testing.assert_close(result.scores[row], ends[0].scores[row] + ends[1].scores[row])
        if output is not None:
            inside = inputs["attention_mask"][row].nonzero().flatten().tolist()
            assert best_span(output.start_logits[row], output.end_logits[row], inside) == (first, stop - 1)
    among = torch.zeros_like(inputs["input_ids"])
    among[:, 4:6] = inputs["attention_mask"][:, 4:6]
    among[-1] = inputs["attention_mask"][-1]
    chosen = attribute(model, **inputs, target="answer", among=among)
    assert chosen.span[:2].amin() >= 4
    assert chosen.span[:2].amax() <= 6
    assert (attribute(model, **inputs, target=1, among=among).position[:2] // 2 == 2).all()
    spans = torch.stack([among.argmax(1), among.argmax(1) + 1], 1)
    assert torch.equal(attribute(model, **inputs, target="answer", span=spans).span, spans)


@pytest.mark.parametrize(
    ("task", "arguments", "message"),
    [
        ("SequenceClassification", {"target": "answer"}, "target='answer' is for question answering"),
        ("SequenceClassification", {"span": (1, 2)}, "it is for models that label tokens or answer questions"),
        ("TokenClassification", {"span": (1, 2), "position": 1}, "either position=... for one token or span"),
        ("TokenClassification", {"span": (3, 3)}, "holds no token"),
        ("TokenClassification", {"span": (3, 99)}, r"span\[1\] - 1 must be between 0 and"),
        ("TokenClassification", {"span": (1, 2, 3)}, "got shape"),
        ("TokenClassification", {"span": (1, 9)}, "holds padding"),
        ("TokenClassification", {"among": torch.zeros(3, 9)}, "among leaves no token in row 0"),
        ("TokenClassification", {"among": torch.zeros(9)}, "among must be a tensor of the shape of input_ids"),
        ("QuestionAnswering", {"target": "answer", "position": 1}, "position cannot go with target='answer'"),
        ("QuestionAnswering", {"target": "answer", "foil": 1}, "foil cannot go with target='answer'"),
        ("QuestionAnswering", {"target": 0, "span": (1, 2)}, "span goes with target='answer'"),
    ],
)
def test_refusals_of_tensors(task, arguments, message):
    model = make(task=task).model
    with pytest.raises(ValueError, match=message):
        attribute(model, **tiny.inputs(3, 9), **arguments)
