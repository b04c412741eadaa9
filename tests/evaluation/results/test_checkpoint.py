"""Evaluations that are interrupted go on where they were."""

from dataclasses import replace

import pytest
import torch
from helpers import tiny
from helpers.evaluations import TEXTS, run, stock
from helpers.toys import Gradient, Noise

from bcos_peft.evaluation import Metered, PrecomputedScores, SequencePair, SequencePointingGame, Sufficiency, ask


class Flaky(Gradient):
    """Fails after some calls."""

    def __init__(self, left):
        self.left, self.calls = left, 0

    def __call__(self, model, question):
        if self.calls == self.left:
            raise KeyboardInterrupt
        self.calls += 1
        return super().__call__(model, question)


def test_an_interrupted_run_goes_on(tmp_path):
    file = tmp_path / "run.jsonl"
    many = [f"{text} {word}" for text in TEXTS for word in ("film", "music", "story")]
    whole = run(texts=many, methods=[Gradient()])
    with pytest.raises(KeyboardInterrupt):
        run(texts=many, methods=[Metered(Flaky(18), 0)], checkpoint=file)
    with open(file, "a", encoding="utf-8") as half:
        half.write('{"run": "abc')
    second = Flaky(100)
    with pytest.warns(UserWarning, match="32 records of 'gradient' are those that .* no dict of settings"):
        result = run(texts=many, methods=[Metered(second, 0)], checkpoint=file)
    assert second.calls == len(many) - 16, "both metrics had their records of the first sixteen"
    assert result.table() == whole.table()
    third = Flaky(0)
    with pytest.warns(UserWarning, match="42 records of 'gradient' are those that .* no dict of settings"):
        assert run(texts=many, methods=[Metered(third, 0)], checkpoint=file).table() == whole.table()
    assert result.costs["conventional + gradient"]["examples"] >= len(many)


def test_a_checkpoint_of_another_model_or_metric_is_not_used(tmp_path):
    file = tmp_path / "run.jsonl"
    run(checkpoint=file)
    other = stock()
    with torch.no_grad():
        other.classifier.weight *= 2
    assert run(other, checkpoint=file).table() == run(other).table()
    metrics = [Sufficiency(perturb_special=True)]
    assert run(metrics=metrics, checkpoint=file).table() == run(metrics=metrics).table()


def resumed_equals_new(tmp_path, before, after, **options):
    """Whether a run on the file of another one gives what it gives by itself."""
    file = tmp_path / "asked.jsonl"
    first = run(**options | before, checkpoint=file)
    found, expected = run(**options | after, checkpoint=file), run(**options | after)
    assert expected.to_dict()["records"] != first.to_dict()["records"], "the test would show nothing"
    return found.to_dict()["records"] == expected.to_dict()["records"]


@pytest.mark.filterwarnings("error:.*no dict of settings")
def test_a_checkpoint_of_other_questions_or_scores_is_not_used(tmp_path):
    rows = [{"text": text, "a": 0, "b": 1} for text in TEXTS]
    options = {"texts": rows, "text_column": "text", "target": "label"}
    assert resumed_equals_new(tmp_path, {"label_column": "a"}, {"label_column": "b"}, **options)
    pair = SequencePair("A gripping film.", "The story isn't good.", 1, 0)
    games = [[SequencePointingGame([one])] for one in (pair, replace(pair, first_class=2))]
    assert resumed_equals_new(tmp_path, {"metrics": games[0]}, {"metrics": games[1]}, model=tiny.model())
    questions = [ask(stock(), tiny.tokenizer(), text) for text in TEXTS]
    scores = [Noise()(None, question) for question in questions]
    mine = [PrecomputedScores("mine", questions, given) for given in (scores, [-one for one in scores])]
    assert resumed_equals_new(tmp_path, {"methods": mine[:1]}, {"methods": mine[1:]})
    cut = {"texts": ["film music story good " * 4], "metrics": ["sufficiency"]}
    tokenizers = tiny.tokenizer(), tiny.tokenizer()
    tokenizers[1].model_max_length = 10
    assert resumed_equals_new(tmp_path, *({"tokenizer": one} for one in tokenizers), **cut)


def test_a_file_of_something_else_is_no_checkpoint(tmp_path):
    file = tmp_path / "reviews.jsonl"
    for content in ('{"text": "A film.", "label": 1}\n', "text,label\n", "[]"):
        file.write_text(content)
        with pytest.raises(ValueError, match=r"line 1 of checkpoint='.*reviews\.jsonl' is none that evaluate wrote"):
            run(checkpoint=file)
        assert file.read_text() == content


def test_half_a_letter_and_separators_of_lines_in_a_checkpoint(tmp_path):
    file = tmp_path / "run.jsonl"
    options = {"methods": [Gradient()], "checkpoint": file, "label": "a\u2028b"}
    expected = run(**options)
    with open(file, "ab") as half:
        half.write('{"run": "ä'.encode()[:-1])
    with pytest.warns(UserWarning, match="14 records of 'gradient'"):
        assert run(**options).table() == expected.table()
    file.write_text('{"run": "5f", "records": [{"example": "3f"}], "row": [], "cost": {}}\n')
    assert run(checkpoint=file).table() == run().table(), "a line of an older version"


def test_costs_of_the_same_method_with_other_options_stay_apart(tmp_path):
    class Stepped(Gradient):
        def __init__(self, steps):
            self.settings = {"steps": steps}

        def __call__(self, model, question):
            return sum(super(Stepped, self).__call__(model, question) for _ in range(self.settings["steps"]))

    for steps in (2, 3, 2):
        result = run(methods=[Metered(Stepped(steps), 0)], metrics=["comprehensiveness"], checkpoint=tmp_path / "run")
        cost = result.costs["conventional + gradient"]
        assert (cost["examples"], cost["forward_rows_per_example"]) == (len(TEXTS), steps)
