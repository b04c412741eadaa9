"""Plausibility, completeness and parameter randomisation."""

import itertools

import pytest
import torch
from helpers import tiny
from helpers.toys import BagOfWords, Gradient, Noise, WeightOf

from bcos_peft import BcosConfig, get_bcos_model
from bcos_peft.evaluation import (
    Completeness,
    ParameterRandomization,
    Plausibility,
    Question,
    Rationale,
    Texts,
    cascading_randomization,
    completeness_gaps,
    hatexplain_rationales,
    logits,
)
from bcos_peft.evaluation.metrics.sensitivity import _randomization_stages


# ---- plausibility -------------------------------------------------------------------------------------------------


def rationales():
    words = "A gripping film , beautifully shot".split()
    return [Rationale.from_words(words, [0, 1, 0, 0, 1, 1], label="LABEL_1")]


def test_rationales():
    (one,) = rationales()
    assert [one.text[start:end] for start, end in one.spans] == ["gripping", "beautifully", "shot"]
    with pytest.raises(ValueError, match="2 marks for 1 words"):
        Rationale.from_words(["a"], [0, 1])


def test_spans_outside_the_text_are_refused():
    for span in ((-3, 2), (5, 2), (2, 2), (0, 8), (9, 12)):
        with pytest.raises(ValueError, match=r"The span \(.*\) is no part of a text of 7 characters"):
            Rationale("A film.", (span,))
    assert Rationale.from_words(["A", "", "film"], [0, 1, 1]).spans == ((3, 7),)


def test_a_rationale_without_a_label_is_named():
    rows = [Rationale("A film.", ((2, 6),), 1), Rationale("A film.", ((2, 6),))]
    with pytest.raises(ValueError, match=r"dataset\[1\] has no label; give it one"):
        Texts(tiny.model(), tiny.tokenizer(), rows, target="label")
    with pytest.raises(ValueError, match="the dataset has no labels"):
        Texts(tiny.model(), tiny.tokenizer(), rows[1:], target="label")
    assert len(Plausibility().examples(Texts(tiny.model(), tiny.tokenizer(), rows))) == 2


def test_rationales_that_cannot_be_measured_are_told():
    rows = [Rationale("A film.", ((2, 6),)), Rationale("A film.", ())]
    texts = Texts(tiny.model(), tiny.tokenizer(), rows)
    with pytest.warns(UserWarning, match="1 of 2 rationales are left out: none of the tokens that the model reads"):
        assert len(Plausibility().examples(texts)) == 1


def test_hatexplain():
    words = ["one", "two", "three"]

    def row(labels, marks):
        return {"post_tokens": words, "annotators": [{"label": label} for label in labels], "rationales": marks}

    rows = [
        row([0, 0, 2], [[1, 0, 0], [1, 1, 0], [0, 0, 1]]),
        row([1, 1, 1], []),
        row([0, 1, 2], [[1, 0, 0]]),
    ]
    assert hatexplain_rationales(rows) == [Rationale("one two three", ((0, 3),), 0)]
    with pytest.raises(ValueError, match="No row"):
        hatexplain_rationales(rows[1:])


def test_plausibility_by_hand():
    metric = Plausibility()
    texts = Texts(tiny.model(), tiny.tokenizer(), rationales(), target="label")
    (example,) = metric.examples(texts)
    (question,) = example.questions
    assert question.target == 1
    marked = example.data
    count, size = int(marked.sum()), len(marked)

    def measure(scores, metric=metric):
        whole = torch.full((len(question),), 100.0).double()
        whole[question.ranked] = scores.double()
        return metric.measure(None, [example], [[whole]], None)[0]

    assert measure(marked.double()) == {"auprc": 1.0, "token_f1": 1.0, "token_iou": 1.0}
    worst = measure(-marked.double())
    assert worst["auprc"] == pytest.approx(count / size)
    one_wrong = marked.double() + 0.5
    one_wrong[marked.nonzero()[0]] = 0
    expected = {"token_f1": (count - 1) / count, "token_iou": (count - 1) / (count + 1)}
    assert {name: measure(one_wrong)[name] for name in expected} == pytest.approx(expected)
    top = measure(marked.double(), Plausibility(top=1))
    assert top["token_f1"] == pytest.approx(2 / (1 + count))
    assert top["token_iou"] == pytest.approx(1 / count)
    assert measure(marked.double(), Plausibility(top=1.0))["token_iou"] == pytest.approx(count / size)
    for top in (1.5, 0, -0.5, float("nan"), "3", True):
        with pytest.raises(ValueError, match="top must be"):
            Plausibility(top=top)
    with pytest.raises(TypeError, match="Rationale rows"):
        metric.examples(Texts(tiny.model(), tiny.tokenizer(), ["A film."]))


def test_chance_is_the_mean_over_all_orders():
    marked = torch.tensor([True, False, False, True, False])
    for metric in (Plausibility(), Plausibility(top=1), Plausibility(top=4)):
        question = Question(torch.arange(5), 0)
        from bcos_peft.evaluation import Example

        example = Example("a", "a", (question,), marked)
        rows = [
            metric.measure(None, [example], [[torch.tensor(order).double()]], None)[0]
            for order in itertools.permutations(range(5))
        ]
        for name, value in metric._chance(marked).items():
            assert sum(row[name] for row in rows) / len(rows) == pytest.approx(value), name


# ---- completeness -------------------------------------------------------------------------------------------------


def test_completeness_by_hand():
    model = BagOfWords({10: 1.0, 11: -3.0})
    question = Question(torch.tensor([10, 11, 10]), target=1)
    exact = WeightOf()(model, question)
    off = exact + torch.tensor([0.0, 0.5, 0.0])
    assert completeness_gaps(model, [question] * 2, [exact, off]) == pytest.approx([0, 0.5])
    against = Question(question.input_ids, target=1, foil=0)
    assert completeness_gaps(model, [against], [exact]) == pytest.approx([0])


def test_completeness_metric():
    stock = tiny.model()
    model = get_bcos_model(tiny.model(), BcosConfig())
    texts = Texts(model, tiny.tokenizer(), ["A gripping film.", "Dull"])
    metric = Completeness()
    examples = metric.examples(texts)

    class Own(Gradient):
        def total(self, model, question):
            return 5.0

    for method in (Own(), Noise()):
        scores = [[method(stock, example.questions[0]).double()] for example in examples]
        for row, example, (values,) in zip(
            metric.measure(stock, examples, scores, method), examples, scores, strict=True
        ):
            question = example.questions[0]
            value, total = float(logits(stock, [question])[0, question.target]), float(values.sum())
            assert row["completeness_gap"] == pytest.approx(abs(value - total), abs=1e-5)
            assert row["completeness_gap_share"] == pytest.approx(
                abs(value - total) / (abs(value) + abs(total)), abs=1e-5
            )
            assert ("own_gap" in row) == isinstance(method, Own)
            assert row.get("own_gap", abs(5 - total)) == pytest.approx(abs(5 - total))


# ---- parameter randomisation ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "task"), [("bert", "SequenceClassification"), ("llama", "CausalLM")])
def test_cascade_randomises_all_and_restores(family, task):
    model = get_bcos_model(tiny.model(family, task), BcosConfig())
    before = {name: value.clone() for name, value in model.named_parameters()}
    stages = _randomization_stages(model)
    assert [name for name, _ in stages] == ["head", "block 1", "block 0", "embeddings"]
    assert sum(len(values) for _, values in stages) == len(before)
    with cascading_randomization(model) as steps:
        for done, (name, parameters) in zip(steps, stages, strict=True):
            assert done == name
            assert all(
                not value.equal(before[key]) for key, value in model.named_parameters() if _is_in(value, parameters)
            )
        rest = {key for key, value in model.named_parameters() if value.equal(before[key])}
    assert rest == set()
    assert all(value.equal(before[name]) for name, value in model.named_parameters())


def _is_in(value, parameters):
    return any(value is other for other in parameters)


def test_the_model_is_restored_after_an_error():
    model = tiny.model()
    before = model.classifier.weight.clone()

    def stopped():
        with cascading_randomization(model) as steps:
            next(steps)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stopped()
    assert model.classifier.weight.equal(before)


def test_draws_are_repeatable_and_keep_the_scale():
    model = tiny.model()
    found = []
    for seed in (0, 0, 1):
        with cascading_randomization(model, seed) as steps:
            next(steps)
            found.append(model.classifier.weight.clone())
    assert found[0].equal(found[1])
    assert not found[0].equal(found[2])
    assert 0.5 < float((found[0].std() / model.classifier.weight.std()).detach()) < 2


def test_a_method_that_ignores_the_model_is_caught():
    model = tiny.model()
    texts = Texts(
        model, tiny.tokenizer(), ["A gripping, beautifully shot film.", "Two hours that I shall not get back."]
    )
    metric = ParameterRandomization()
    examples = metric.examples(texts)

    class Blind:
        def __call__(self, model, question):
            return question.input_ids.float()

    class Constant:
        def __call__(self, model, question):
            return torch.zeros(len(question))

    for method, same in ((Blind(), True), (Constant(), True), (Gradient(), False)):
        scores = [[method(model, example.questions[0]).double()] for example in examples]
        for row in metric.measure(model, examples, scores, method):
            assert len(row["curve"]) == len(row["stages"]) == 4
            assert (row["randomization"] == pytest.approx(1)) == same
            assert row["randomization_cascade"] == pytest.approx(sum(map(abs, row["curve"])) / 4)
    with pytest.raises(ValueError, match="three tokens"):
        metric.examples(Texts(model, tiny.tokenizer(), ["a"]))
