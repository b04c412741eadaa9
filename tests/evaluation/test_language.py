"""Metrics of language models: contrastive evidence and passages."""

import math

import pytest
import torch
from helpers import tiny
from helpers.toys import Gradient

from bcos_peft.evaluation import (
    ContrastiveEvidence,
    MinimalPair,
    PassageAttribution,
    PlantedAnswer,
    Texts,
    blimp_pairs,
    ioi_pairs,
    load_minimal_pairs,
    planted_answers,
    probabilities,
)
from bcos_peft.evaluation.metrics.contrastive import _next_word


def texts(items=("unused",), kind="bpe"):
    return Texts(tiny.model("llama", "CausalLM"), tiny.tokenizer(kind), list(items))


def test_csv(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text(
        'prefix,good,bad,evidence\n"A man, who",is,are,man\nKarla saw,herself,himself,NA\nThe the,a,b,The\n'
    )
    with pytest.warns(UserWarning, match="1 of 3 rows"):
        pairs = load_minimal_pairs(path)
    assert pairs == [MinimalPair("A man, who", "is", "are", "man"), MinimalPair("The the", "a", "b", "The")]
    assert pairs[1].places == ((0, 3),), "as it is written"
    path.write_text("prefix,good,bad\na,b,c\n")
    with pytest.raises(ValueError, match="no column 'evidence'"):
        load_minimal_pairs(path)


def test_white_space_and_the_mark_of_spreadsheets_are_no_part_of_a_pair(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("prefix,good,bad,evidence\na gripping , film,ending ,gripping\n", encoding="utf-8-sig")
    pairs = load_minimal_pairs(path)
    assert pairs == [MinimalPair("a gripping", "film", "ending", "gripping")]
    assert len(ContrastiveEvidence().examples(texts(pairs))) == 1
    for wrong in (("a gripping ", "film"), ("a gripping", " film")):
        with pytest.raises(ValueError, match="must not begin or end with white space"):
            MinimalPair(*wrong, "ending", "gripping")


def test_evidence_is_a_whole_word():
    assert MinimalPair("this thistle and this", "a", "b", "this").places == ((0, 4), (17, 21))


def row(good, bad, uid):
    return {"sentence_good": good, "sentence_bad": bad, "UID": uid}


def test_blimp():
    rows = [
        row(
            "Craig explored that grocery store.", "Craig explored that grocery stores.", "determiner_noun_agreement_1"
        ),
        row("Some dancer has visited herself.", "Some dancer has visited himself.", "anaphor_gender_agreement"),
        row("Even Suzanne has really joked.", "Even Suzanne has ever joked.", "npi_present_1"),
    ]
    assert blimp_pairs(rows) == [
        MinimalPair("Craig explored that grocery", "store", "stores", "that"),
        MinimalPair("Some dancer has visited", "herself", "himself", "Some dancer"),
        MinimalPair("Even Suzanne has", "really", "ever", "Even"),
    ]
    assert len(blimp_pairs(rows, count=2)) == 2
    other = row("Who should Derek hug?", "Who should Derek hugs?", "wh_question")
    with pytest.raises(ValueError, match="pass evidence="):
        blimp_pairs([other])
    assert blimp_pairs([other], evidence=lambda prefix: "Derek")[0].good == "hug"


def test_indirect_objects():
    pairs = ioi_pairs(50)
    assert ioi_pairs(50) == pairs != ioi_pairs(50, seed=1)
    for pair in pairs:
        assert pair.prefix.split().count(pair.bad) == 2
        assert len(pair.places) == 1
        assert pair.good == pair.evidence != pair.bad


@pytest.mark.parametrize("kind", ["bpe", "sentencepiece"])
def test_next_word(kind):
    one = texts(kind=kind)
    tokenizer = one.tokenizer
    question = _next_word(one, "A gripping", "film", "ending")
    assert tokenizer.decode(question.input_ids, skip_special_tokens=True).strip() == "A gripping"
    for word, token in (("film", question.target), ("ending", question.foil)):
        ids = one.tokenize(f"A gripping {word}").input_ids
        assert ids[len(question)] == token
    # What both words begin with belongs to the text, and one may not be the beginning of the other.
    ids = {word: one.tokenize(f"A {word}").input_ids[:-1] for word in ("film gripping", "film ending")}
    shared = _next_word(one, "A", "film gripping", "film ending")
    assert shared.input_ids.tolist() == ids["film gripping"][: len(shared)] == ids["film ending"][: len(shared)]
    assert _next_word(one, "A", "film", "film ending") is None


def test_special_tokens_that_a_text_is_written_with_are_not_ranked():
    one = texts()
    written, plain = (_next_word(one, f"{first}A gripping", "film", "ending") for first in ("</s>", ""))
    (place,) = (written.input_ids == one.tokenizer.eos_token_id).nonzero().flatten().tolist()
    assert place not in written.ranked
    assert written.input_ids[written.ranked].tolist() == plain.input_ids[plain.ranked].tolist()


def test_evidence_rank_by_hand():
    one = texts([MinimalPair("not a gripping", "film", "ending", "not")])
    metric = ContrastiveEvidence()
    (example,) = metric.examples(one)
    (question,) = example.questions
    relevant = int(example.data.sum())
    assert relevant >= 1
    assert not question.special[question.ranked].any()
    places = question.ranked[example.data]
    tokens = len(question.ranked)

    def rank(scores, metric=metric):
        (row,) = metric.measure(one.model, [example], [[scores]], None)
        return row["evidence_mrr"]

    scores = torch.zeros(len(question)).double()
    assert rank(scores) == pytest.approx(example.chance["evidence_mrr"]), "zeros are worth what chance is"
    scores[places] = 1.0
    assert rank(scores) == 1
    assert rank(-scores) == pytest.approx(1 / (tokens - relevant + 1))
    assert rank(-scores, ContrastiveEvidence(by="absolute")) == 1
    scores[question.special] = 9.0
    assert rank(scores) == 1, "special tokens are not ranked"
    (row,) = metric.measure(one.model, [example], [[scores]], None)
    likely = probabilities(one.model, [question])[0]
    assert row["probability_gap"] == pytest.approx(float(likely[question.target] - likely[question.foil]))
    assert row["good_preferred"] == (row["probability_gap"] > 0)


def test_pairs_that_cannot_be_asked_are_told():
    pairs = [MinimalPair("a gripping", "film", "ending", "gripping"), MinimalPair("a", "film", "film ending", "a")]
    with pytest.warns(UserWarning, match="1 of 2 minimal pairs"):
        assert len(ContrastiveEvidence().examples(texts(pairs))) == 1
    with pytest.raises(TypeError, match="dataset\\[0\\] is a str"):
        ContrastiveEvidence().examples(texts(["A film."]))
    with pytest.raises(ValueError, match="by must be"):
        ContrastiveEvidence(by="size")


def test_planted_answers():
    found = planted_answers(30, passages=5, filler=2)
    assert planted_answers(30, passages=5, filler=2) == found
    assert len({example.gold for example in found}) == 5
    for example in found:
        holds = [example.answer in example.prompt[start:end] for start, end in example.passages]
        assert holds.index(True) == example.gold
        assert sum(holds) == 1
        assert example.foil in example.prompt
        assert example.prompt.endswith(" lives in")
    with pytest.raises(ValueError, match="passages must be between"):
        planted_answers(passages=1)
    with pytest.raises(ValueError, match="outside the prompt"):
        PlantedAnswer("abc", ((0, 9),), 0, "d")
    with pytest.raises(ValueError, match="gold=2"):
        PlantedAnswer("abc", ((0, 1),), 2, "d")


def test_passages_by_hand():
    rows = [PlantedAnswer.from_passages(["A film.", "Dull hours.", "Bad."], "It is", "good", gold=1)]
    one = texts(rows)
    metric = PassageAttribution()
    (example,) = metric.examples(one)
    weights, gold = example.data
    assert gold == 1
    assert example.chance == {"passage_hit": 1 / 3, "passage_mrr": pytest.approx((1 + 1 / 2 + 1 / 3) / 3)}

    def measure(scores):
        return metric.measure(one.model, [example], [[scores]], None)[0]

    scores = weights.T @ torch.tensor([3.0, 5.0, 4.0]).double()  # each token of passage i has the score of i
    sums = [3 * weights[0].sum(), 5 * weights[1].sum(), 4 * weights[2].sum()]
    row = measure(scores)
    assert row["contributions"] == pytest.approx([float(value) for value in sums])
    order = sorted(range(3), key=lambda i: -sums[i])
    assert row["passage_mrr"] == 1 / (1 + order.index(1))
    even = weights.T @ (torch.tensor([2.0, 2.0, 1.0]) / weights.sum(1))
    assert measure(even) == {**measure(even), "passage_hit": 0.5, "passage_mrr": 0.75}
    assert measure(weights[0])["passage_mrr"] == pytest.approx((1 / 2 + 1 / 3) / 2)
    zero = measure(torch.zeros(len(scores)).double())
    assert zero["passage_hit"] == pytest.approx(1 / 3)
    assert zero["passage_mrr"] == pytest.approx(example.chance["passage_mrr"])
    question = example.questions[0]
    assert row["answer_given"] == (int(probabilities(one.model, [question])[0].argmax()) == question.target)


def test_passages_with_a_method_and_a_foil():
    one = texts([PlantedAnswer.from_passages(["A film.", "Dull hours."], "It is", "good", gold=1, foil="bad")])
    (example,) = PassageAttribution(contrast=True).examples(one)
    (question,) = example.questions
    assert question.foil is not None
    (row,) = PassageAttribution().measure(one.model, [example], [[Gradient()(one.model, question).double()]], None)
    assert math.isfinite(sum(row["contributions"]))
    with pytest.raises(ValueError, match="reads 64"):
        Texts(one.model, one.tokenizer, ["x"], truncation=False).tokenize("film " * 100)
    with pytest.raises(TypeError, match="PlantedAnswer"):
        PassageAttribution().examples(texts(["A film."]))


def test_a_prompt_that_is_too_long_is_refused_for_that():
    short = PlantedAnswer.from_passages(["A film.", "Dull hours."], "It is", "good", gold=1)
    long = PlantedAnswer.from_passages(["A film.", "Dull hours. " * 20], "It is", "good", gold=1)
    for truncation in (True, False):
        one = texts([short, long])
        one.truncation = truncation
        with pytest.raises(ValueError, match=r"dataset\[1\] has \d+ tokens, but the model reads 64. Shorten it"):
            PassageAttribution().examples(one)
    long = "dull" + " dull" * 70
    pairs = [MinimalPair("a gripping", "film", "ending", "gripping"), MinimalPair(long, "a", "b", "dull")]
    with pytest.warns(UserWarning, match="1 of 2 minimal pairs cannot be asked: 1 have more tokens than the model"):
        assert len(ContrastiveEvidence().examples(texts(pairs))) == 1
    with pytest.raises(ValueError, match="No minimal pair can be asked: 1 have more tokens than the model reads.$"):
        ContrastiveEvidence().examples(texts(pairs[1:]))


@pytest.mark.parametrize("task", ["SequenceClassification", "MaskedLM"])
def test_language_metrics_refuse_other_models(task):
    model, tokenizer = tiny.model("bert", task), tiny.tokenizer()
    with pytest.raises(ValueError, match=f"contrastive_evidence needs a causal language model .* BertFor{task}"):
        ContrastiveEvidence().examples(Texts(model, tokenizer, [MinimalPair("a gripping", "film", "end", "a")]))
    rows = [PlantedAnswer.from_passages(["A film.", "Dull hours."], "It is", "good", gold=1)]
    with pytest.raises(ValueError, match=f"passage_attribution needs a causal language model .* BertFor{task}"):
        PassageAttribution().examples(Texts(model, tokenizer, rows))
