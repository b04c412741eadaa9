"""Methods over pairs of texts: what each says, by its own equation."""

import numpy as np
import pytest
import torch
from helpers import tiny
from helpers.similarity import PAIR, model, reader

from bcos_peft import SimilarityExplainer
from bcos_peft.evaluation.similarity import PairScores, WordReader, get_similarity_method


def cosine(one, a, b):
    left, right = one.embeddings([a, b])
    return float(left @ right)


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_contributions_are_those_of_the_explainer(pooling):
    one = reader(pooling=pooling)
    found = get_similarity_method("bcos")(one, *PAIR)
    explained = SimilarityExplainer(one.model, one.tokenizer, pooling)(*PAIR)
    for values, text, scores in (
        (found.a, explained.a, explained.a_scores),
        (found.b, explained.b, explained.b_scores),
    ):
        wanted = [unit.score for unit in text.units("word", scores) if not unit.special]
        assert values == pytest.approx(wanted, abs=1e-6)
    special = explained.a_scores[np.array(explained.a.special)].sum()
    assert found.a.sum() + special == pytest.approx(cosine(one, *map(one.encoding, PAIR)), abs=1e-5)


def test_a_table_has_the_same_sums():
    one = reader()
    sums, table = (get_similarity_method("bcos", matrix=matrix)(one, *PAIR) for matrix in (False, True))
    assert table.matrix.shape == (len(sums.a), len(sums.b))
    assert table.a == pytest.approx(sums.a, abs=1e-6)
    assert table.b == pytest.approx(sums.b, abs=1e-6)
    words = SimilarityExplainer(one.model, one.tokenizer, "mean")(*PAIR).table("word")
    kept = [[i for i, unit in enumerate(side) if not unit.special] for side in (words.a, words.b)]
    assert table.matrix == pytest.approx(words.matrix[np.ix_(*kept)], abs=1e-9)


def test_of_a_stock_model_they_are_called_otherwise():
    one = reader(converted=False)
    with pytest.raises(ValueError, match="is not a B-cos model"):
        get_similarity_method("bcos")(one, *PAIR)
    found = get_similarity_method("detached")(one, *PAIR)
    assert abs(found.a.sum() - cosine(one, *map(one.encoding, PAIR))) > 1e-3, "biases have a share"


@pytest.mark.parametrize("way", ["mask", "delete"])
def test_occlusion_hides_a_word_at_a_time(way):
    one = reader(converted=False)
    found = get_similarity_method("occlusion", perturbation=way)(one, *PAIR)
    whole = cosine(one, *map(one.encoding, PAIR))
    places = list(one.words(PAIR[0])[2].token_indices)
    assert len(places) > 1, "a word of several tokens"
    ids = list(one.encoding(PAIR[0]).input_ids)
    expected = [one.tokenizer.mask_token_id if i in places else token for i, token in enumerate(ids)]
    if way == "delete":
        expected = [token for i, token in enumerate(ids) if i not in places]
    hidden = one.hidden(PAIR[0], [2], way)
    assert hidden.input_ids == expected
    assert found.a[2] == pytest.approx(whole - cosine(one, hidden, one.encoding(PAIR[1])), abs=1e-5)
    last = len(one.words(PAIR[1])) - 1
    wanted = whole - cosine(one, one.encoding(PAIR[0]), one.hidden(PAIR[1], [last], way))
    assert found.b[last] == pytest.approx(wanted, abs=1e-5)


def test_input_x_gradient_is_a_derivative():
    """Scaling a word's embedding by 1 + h changes the cosine by h times its score."""
    one = reader(converted=False)
    one.model.double()
    found, step = get_similarity_method("input_x_gradient")(one, *PAIR), 1e-5
    texts = list(map(one.encoding, PAIR))
    with one.running():
        words = one.word_embeddings(texts[0])
        scaled = []
        for sign in (1, -1):
            moved = words.clone()
            moved[list(one.words(PAIR[0])[3].token_indices)] *= 1 + sign * step
            left = one.embed_words(texts[0], moved[None])[0]
            scaled.append(float(left @ one.embeddings([texts[1]])[0]))
    assert found.a[3] == pytest.approx((scaled[0] - scaled[1]) / (2 * step), abs=1e-7)


@pytest.mark.parametrize("converted", [True, False])
def test_integrated_jacobians_sum_to_what_their_reference_leaves(converted):
    one = reader(converted)
    found = get_similarity_method("integrated_jacobians", steps=300)(one, *PAIR)
    a, b = map(one.encoding, PAIR)
    r, s = (one.hidden(text, range(len(one.words(text))), "mask") for text in PAIR)
    for side, text in ((r, a), (s, b)):
        ids = [
            one.tokenizer.pad_token_id if token == one.tokenizer.mask_token_id else token for token in side.input_ids
        ]
        side.input_ids[:] = ids
        assert [token for token, special in zip(ids, text.special, strict=True) if special] == ids[:1] + ids[-1:]
    wanted = cosine(one, a, b) - cosine(one, a, s) - cosine(one, r, b) + cosine(one, r, s)
    assert found.a.sum() == pytest.approx(wanted, abs=2e-3)
    assert found.b.sum() == pytest.approx(wanted, abs=2e-3)
    assert abs(wanted) > 5e-3, "there is something to find"


def test_integrated_jacobians_as_a_table_have_the_sums_of_all_steps():
    one = reader(converted=False)
    options = {"steps": 6, "batch_size": 4}
    table = get_similarity_method("integrated_jacobians", matrix=True, **options)(one, *PAIR)
    passes = one.cost.backward_rows
    assert passes == 2 * 6 * one.model.config.hidden_size
    sums = get_similarity_method("integrated_jacobians", **options)(one, *PAIR)
    assert one.cost.backward_rows - passes == 2 * 6
    assert table.matrix.sum(1) == pytest.approx(table.a)
    # Of so few steps either differs from the whole line, and the sums take the other side's whole change.
    many = get_similarity_method("integrated_jacobians", steps=50)(one, *PAIR)
    exact = get_similarity_method("integrated_jacobians", steps=50, matrix=True)(one, *PAIR)
    assert exact.a == pytest.approx(many.a, abs=1e-3)
    assert exact.b == pytest.approx(many.b, abs=1e-3)
    assert np.abs(sums.a - many.a).max() < 0.05


def test_token_matching_finds_the_nearest():
    one = reader(converted=False)
    found = get_similarity_method("token_matching")(one, PAIR[0], PAIR[0])
    assert found.a == pytest.approx(np.ones(len(found.a))), "each word is there"
    found = get_similarity_method("token_matching")(one, *PAIR)
    assert found.matrix.max(1).tolist() == found.a.tolist()
    output = one.model(torch.tensor([one.encoding(PAIR[1]).input_ids])).last_hidden_state[0].detach().double()
    rows = [output[list(word.token_indices)].mean(0) for word in one.words(PAIR[1])]
    other = get_similarity_method("token_matching")(one, PAIR[1], PAIR[1]).matrix
    wanted = torch.nn.functional.cosine_similarity(rows[0], rows[1], dim=0)
    assert other[0, 1] == pytest.approx(float(wanted), abs=1e-5)


def test_chance_depends_on_the_texts_and_the_seed():
    one = reader(converted=False)
    draws = [
        get_similarity_method("random", seed=seed)(one, *pair).a[0] for seed in (0, 1) for pair in (PAIR, PAIR[::-1])
    ]
    assert len(set(draws)) == 4
    assert get_similarity_method("random")(one, *PAIR).a[0] == draws[0]
    assert one.cost.forward_rows == 0


def test_a_model_is_left_as_it_was():
    one = reader()
    one.model.train()
    before = {name: value.clone() for name, value in one.model.state_dict().items()}
    for name in ("bcos", "occlusion", "input_x_gradient", "token_matching"):
        get_similarity_method(name)(one, *PAIR)
    get_similarity_method("integrated_jacobians", steps=2)(one, *PAIR)
    assert one.model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in one.model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in one.model.state_dict().items())
    assert not one.model.get_input_embeddings()._forward_hooks


def test_passes_are_counted():
    one = reader()
    words = len(one.words(PAIR[0])) + len(one.words(PAIR[1]))
    for name, forward, backward in (("bcos", 2, 2), ("occlusion", 2 + words, 0), ("input_x_gradient", 2, 2)):
        one.cost = type(one.cost)()
        get_similarity_method(name)(one, *PAIR)
        assert (one.cost.forward_rows, one.cost.backward_rows) == (forward, backward), name


@pytest.mark.newest
def test_a_sentence_transformer_is_read_as_a_model_without_a_head(tmp_path):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    plain = model(converted=False)
    plain.save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    first = Transformer(str(tmp_path))
    pooling = Pooling(plain.config.hidden_size, pooling_mode="mean")
    whole = SentenceTransformer(modules=[first, pooling, Normalize()], device="cpu")
    one, other = WordReader(whole), reader(converted=False)
    for name in ("detached", "occlusion", "input_x_gradient", "token_matching"):
        mine, theirs = (get_similarity_method(name)(each, *PAIR) for each in (one, other))
        assert mine.a == pytest.approx(theirs.a, abs=1e-5), name
        assert mine.b == pytest.approx(theirs.b, abs=1e-5), name


def test_what_is_wrong_is_said():
    with pytest.raises(ValueError, match="There is no method 'lime'; there are: bcos"):
        get_similarity_method("lime")
    with pytest.raises(TypeError, match="'random' has no option 'steps'; it has: seed"):
        get_similarity_method("random", steps=2)
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        get_similarity_method("integrated_jacobians", steps=0)
    with pytest.raises(ValueError, match="scores of b have a number that is not finite"):
        PairScores([0.0], [float("nan")])
    one = reader()
    with pytest.raises(ValueError, match="perturbation must be 'mask' or 'delete', got 'pad'"):
        get_similarity_method("occlusion", perturbation="pad")(one, *PAIR)
    one.tokenizer.mask_token = None
    with pytest.raises(ValueError, match="needs a mask token"):
        get_similarity_method("occlusion", perturbation="mask")(one, *PAIR)
