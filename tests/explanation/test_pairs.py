"""What is read off the explanations of pairs: by text, by passage, and one document against another."""

import pytest
from helpers import tiny

from bcos_peft import BcosConfig, BcosExplainer, get_bcos_model
from bcos_peft.explanation import pair_difference


QUERY, NEAR, FAR = "not a bad film?", "a good film. it is long", "this and that"


@pytest.fixture(scope="module", params=["wordpiece", "bpe"])
def explained(request):
    family = "bert" if request.param == "wordpiece" else "roberta"
    model = get_bcos_model(tiny.model(family, num_labels=1), BcosConfig(b=1.5))
    explainer = BcosExplainer(model, tiny.tokenizer(request.param), baseline="average")
    return explainer([(QUERY, NEAR), (QUERY, FAR)])


def test_the_texts_of_a_pair_are_its_segments(explained):
    found = explained[0].by_segment()
    assert list(found) == ["first", "second", "rest", "baseline"]
    assert sum(found.values()) == pytest.approx(explained[0].total, abs=1e-9)
    words = explained[0].words()
    for name, sequence in (("first", 0), ("second", 1)):
        assert found[name] == pytest.approx(
            sum(word.score for word in words if word.sequence_id == sequence), abs=1e-9
        )
    assert found["rest"] == pytest.approx(explained[0].special_score, abs=1e-9)


def test_passages_of_a_pair(explained):
    found = explained[0].by_segment(
        {"sentence": "it is long", "bad": (6, 9), "film": (len(QUERY) + 1 + 7, len(QUERY) + 1 + 11)}
    )
    wanted = (
        explained[0].spans(["it is long"], sequence_id=1)
        + explained[0].spans([(6, 9)])
        + explained[0].spans([(7, 11)], sequence_id=1)
    )
    assert [found[name] for name in ("sentence", "bad", "film")] == pytest.approx([one.score for one in wanted])
    with pytest.raises(ValueError, match="occurs 2 times"):
        explained[0].by_segment({"film": "film"})


def test_one_document_against_another(explained):
    found = pair_difference(*explained)
    total = sum(word.score for word in found.query) + found.first - found.second + found.rest
    assert found.logit == pytest.approx(explained[0].logit - explained[1].logit)
    assert total + found.residual == pytest.approx(found.logit, abs=1e-9)
    assert abs(found.residual) < 1e-5
    assert [word.text for word in found.query] == ["not", "a", "bad", "film", "?"]


def test_what_cannot_be_compared(explained):
    model = get_bcos_model(tiny.model(num_labels=1), BcosConfig())
    one, turned, alone = BcosExplainer(model, tiny.tokenizer())([(QUERY, NEAR), (NEAR, QUERY), QUERY])
    with pytest.raises(ValueError, match="first texts differ"):
        pair_difference(one, turned)
    with pytest.raises(ValueError, match="stands alone"):
        pair_difference(alone, one)
