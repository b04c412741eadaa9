"""The sequence pointing game: pairs of any dataset, and shares by hand."""

import warnings

import pytest
import torch
from helpers import tiny
from helpers.toys import Noise

from bcos_peft.evaluation import SequencePair, SequencePointingGame, Texts, build_pairs, load_pairs, logits, save_pairs
from bcos_peft.evaluation.metrics.pointing import _positive_share


TEXTS = [
    "A gripping, beautifully shot film.", "Two hours that I shall not get back.", "We loved the music.",
    "The story isn't good.", "Who made this boring thing?", "An awful movie.", "Don't miss it!", "Nobody cares.",
    "It is not bad.", "The café was worth it.", "great great great", "dull", "ending", "the second half is better",
]  # fmt: skip


def texts(items=TEXTS, labels=None, seed=0, shown=None):
    """With a model that is sure, and takes half of the texts, or of what is shown of them, for each class."""
    model = tiny.model(seed=seed, num_labels=2)
    one = Texts(model, tiny.tokenizer(), items, labels)
    values = logits(model, [one.ask(one.tokenize(text)) for text in shown or items])
    with torch.no_grad():
        model.classifier.weight *= 30
        model.classifier.bias.mul_(30)[1] -= 30 * (values[:, 1] - values[:, 0]).quantile(0.5)
    return one


def quietly(*args, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return build_pairs(*args, **options)


def predicted(one, text):
    return one.ask(one.tokenize(text)).target


def test_shares_by_hand():
    scores = torch.tensor([1.0, 2.0, -4.0, 3.0, 9.0])
    first, second = torch.tensor([0.0, 1, 1, 0, 0]), torch.tensor([0.0, 0, 0, 1, 0])
    assert _positive_share(scores, first, first + second) == pytest.approx(2 / 5)
    assert _positive_share(scores, second, first + second) == pytest.approx(3 / 5)
    assert _positive_share(-scores.abs(), first, first + second) == 0
    assert _positive_share(7 * scores, first, first + second) == pytest.approx(2 / 5)


def test_pairs_are_confident_and_of_different_classes():
    one = texts()
    pairs = quietly(one, confidence=0.6)
    assert len(pairs) >= 2
    used = [text for pair in pairs for text in (pair.first, pair.second)]
    assert len(used) == len(set(used)), "no text is used twice"
    for pair in pairs:
        assert pair.first_class != pair.second_class
        assert predicted(one, pair.first) == pair.first_class
        assert predicted(one, pair.second) == pair.second_class
    assert quietly(one, confidence=0.6) == pairs
    assert quietly(one, confidence=0.6, seed=1) != pairs
    assert len(quietly(one, count=1, confidence=0.6)) == 1
    with pytest.warns(UserWarning, match="instead of 200"):
        build_pairs(one, confidence=0.6)
    with pytest.raises(ValueError, match="confidence"):
        build_pairs(one, confidence=1.0)


def test_which_class_comes_first_is_drawn():
    many = [f"{text} {word}" for text in TEXTS for word in ("film", "music", "story")]
    pairs = quietly(texts(many), confidence=0.5)
    order = torch.randperm(len(many), generator=torch.Generator().manual_seed(0)).tolist()
    places = [(many.index(pair.first), many.index(pair.second)) for pair in pairs]
    drawn_later = [order.index(a) > order.index(b) for a, b in places]
    assert set(drawn_later) == {True, False}
    assert {pair.first_class for pair in pairs} == {0, 1}
    assert drawn_later != [bool((a + b) % 2) for a, b in places], "where texts stand in the dataset does not decide"


def test_refused_options():
    for make in (lambda **options: build_pairs(texts(), **options), SequencePointingGame):
        with pytest.raises(ValueError, match="confidence must be a probability, 0 to 1, got 90; 90 % is 0.9"):
            make(confidence=90)
        with pytest.raises(ValueError, match="count must be at least 1, got 0"):
            make(count=0)


def test_labels_must_be_right_and_all_models_sure():
    one = texts()
    wrong = [f"LABEL_{1 - predicted(one, text)}" for text in TEXTS]
    with pytest.raises(ValueError, match="No two texts"):
        build_pairs(texts(labels=wrong), confidence=0.5)
    both = quietly([one, texts(seed=3)], confidence=0.5)
    for pair in both:
        assert predicted(texts(seed=3), pair.first) == predicted(one, pair.first) == pair.first_class


def test_long_texts_are_cut_so_that_both_fit():
    words = "gripping film dull awful great " * 20
    items = [f"{text} {words}" for text in TEXTS]
    one = texts(items)
    pairs = quietly(one, confidence=0.5)
    for pair in pairs:
        assert len(one.tokenize(f"{pair.first} {pair.second}").input_ids) <= tiny.MAX_LENGTH
    game = SequencePointingGame(pairs)
    for example in game.examples(one):
        assert example.data.sum() == len(example.questions[0].ranked), "every token lies in one of the texts"
    short = quietly(texts(items, shown=TEXTS), confidence=0.5, max_tokens=5)
    assert len(one.tokenize(short[0].first).input_ids) <= 7


def test_saved_pairs(tmp_path):
    pairs = [SequencePair("Naïve.", "Bad.", 1, 0)]
    save_pairs(pairs, tmp_path / "pairs.json")
    assert load_pairs(tmp_path / "pairs.json") == pairs
    (tmp_path / "pairs.json").write_text("{}")
    with pytest.raises(ValueError, match="cannot load pairs"):
        load_pairs(tmp_path / "pairs.json")


def test_the_metric():
    one = texts()
    game = SequencePointingGame([SequencePair("A gripping film", "dull", 1, 0)])
    (example,) = game.examples(one)
    first, second = example.questions
    assert (first.target, second.target) == (1, 0)
    sides = example.data
    right = [sides[0] - sides[1], sides[1] - sides[0]]
    assert game.measure(None, [example], [right], None)[0]["seqpg"] == 1
    assert game.measure(None, [example], [right[::-1]], None)[0]["seqpg"] == 0
    blind = [torch.ones(len(first)).double()] * 2  # the same for both classes
    assert game.measure(None, [example], [blind], None)[0]["seqpg"] == pytest.approx(0.5)
    tokens = sides.sum(1)
    shares = game.measure(None, [example], [blind], None)[0]["shares"]
    assert shares == pytest.approx([float(tokens[0] / tokens.sum()), float(tokens[1] / tokens.sum())])
    foils = SequencePointingGame([SequencePair("A gripping film", "dull", 1, 0)], contrast=True).examples(one)
    assert [question.foil for question in foils[0].questions] == [0, 1]


def test_special_tokens_of_the_texts_belong_to_no_half():
    (example,) = SequencePointingGame([SequencePair("A gripping [SEP] film", "dull", 1, 0)]).examples(texts())
    assert example.data[:, example.questions[0].special].sum() == 0
    assert example.data.sum() == len(example.questions[0].ranked)


def test_random_order_has_its_chance():
    one = texts()
    pairs = [SequencePair(a, b, 1, 0) for a in TEXTS for b in TEXTS if a != b]
    game = SequencePointingGame(pairs)
    examples = game.examples(one)
    noise = Noise()
    scores = [[noise(None, question).double() for question in example.questions] for example in examples]
    found = [row["seqpg"] for row in game.measure(None, examples, scores, None)]
    assert sum(found) / len(found) == pytest.approx(examples[0].chance["seqpg"], abs=0.05)


def test_pairs_that_do_not_fit_are_named():
    one = texts()
    pairs = [SequencePair("Good film.", "dull " * 80, 1, 0), SequencePair("Good.", "Bad.", 1, 0)]
    with pytest.warns(UserWarning, match="1 of 2 pairs are longer than the 64 tokens that the model reads"):
        SequencePointingGame(pairs).examples(one)
    one.truncation = False
    with pytest.raises(ValueError, match=r"pairs\[0\] has"):
        SequencePointingGame(pairs).examples(one)
    one.truncation = True
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exact = SequencePair("dull", " ".join(["dull"] * (tiny.MAX_LENGTH - 3)), 1, 0)
        (example,) = SequencePointingGame([exact]).examples(one)
        assert len(example.questions[0]) == tiny.MAX_LENGTH


def test_pairs_of_one_class_are_refused(tmp_path):
    with pytest.raises(ValueError, match="first_class and second_class are both 1"):
        SequencePair("Good.", "Bad.", 1, 1)
    save_pairs([SequencePair("Good.", "Bad.", 1, 0)], tmp_path / "pairs.json")
    (tmp_path / "pairs.json").write_text((tmp_path / "pairs.json").read_text().replace(": 0", ": 1"))
    with pytest.raises(ValueError, match="cannot load pairs.*both 1"):
        load_pairs(tmp_path / "pairs.json")
    (tmp_path / "pairs.json").write_text((tmp_path / "pairs.json").read_text().replace('"pairs":', '"pears":'))
    with pytest.raises(ValueError, match="cannot load pairs.*'pairs'"):
        load_pairs(tmp_path / "pairs.json")


def test_what_chance_is_on_short_pairs():
    """Any order of scores of which one is positive has one half; scores of random signs may have none."""
    (example,) = SequencePointingGame([SequencePair("dull", "great", 1, 0)]).examples(texts())
    where = example.questions[0].ranked
    assert len(where) == 2
    values = []
    for signs in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        scores = torch.zeros(len(example.questions[0]), dtype=torch.float64)
        scores[where] = torch.tensor(signs, dtype=torch.float64)
        values.append(SequencePointingGame().measure(None, [example], [[scores, scores]], None)[0]["seqpg"])
    assert values == [0.5, 0.5, 0.5, 0.0]
    assert sum(values) / 4 == 3 / 8


def test_pairs_of_texts_are_refused():
    with pytest.raises(ValueError, match="joins single texts"):
        build_pairs(texts([("A film.", "Dull.")]))
