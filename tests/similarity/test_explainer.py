"""`SimilarityExplainer`: the pairs of tokens sum to what the model itself says."""

import numpy as np
import pytest
import torch
from helpers import tiny
from helpers.embedders import A, B, sentence_transformer

from bcos_peft import SimilarityExplainer


pytestmark = pytest.mark.newest

sentence_transformers = pytest.importorskip("sentence_transformers")
base = pytest.importorskip("sentence_transformers.base.modules")
parts = pytest.importorskip("sentence_transformers.sentence_transformer.modules")


def pooling(mode="mean", **options):
    return parts.Pooling(tiny.config("bert").hidden_size, pooling_mode=mode, **options)


def residual(found):
    """Of a sum that is taken here."""
    return abs(found.matrix.sum() + (found.constants or 0.0) - found.similarity)


@pytest.mark.parametrize("mode", ["mean", "cls", "lasttoken", "max", "weightedmean", "mean_sqrt_len_tokens"])
@pytest.mark.parametrize("converted", [True, False])
def test_pairs_sum_to_the_similarity_of_the_model(mode, converted):
    model = sentence_transformer(pooling(mode), converted=converted)
    found = SimilarityExplainer(model)(A, B)
    wanted = model.similarity(model.encode([A]), model.encode([B]))
    assert found.similarity == pytest.approx(float(wanted), abs=1e-6)
    assert residual(found) < 1e-6
    assert found.matrix.shape == (len(found.a.tokens), len(found.b.tokens))
    assert (found.constants is None) == converted


@pytest.mark.parametrize(
    "more",
    [
        [base.Normalize()],
        [base.Dense(tiny.config("bert").hidden_size, 6)],  # tanh, and a bias
        [
            base.Dense(tiny.config("bert").hidden_size, 6, bias=False, activation_function=torch.nn.Identity()),
            base.Normalize(),
        ],
    ],
)
def test_what_comes_after_the_pooling_is_part_of_the_map(more):
    model = sentence_transformer(pooling(), *more)
    found = SimilarityExplainer(model)(A, B)
    a, b = model.encode([A, B])
    assert found.similarity == pytest.approx(float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)), abs=1e-6)
    assert residual(found) < 1e-6
    assert (found.constants is not None) == (isinstance(more[0], base.Dense) and more[0].bias)


def test_a_pair_is_the_same_alone_in_a_batch_and_of_kept_vectors():
    explainer = SimilarityExplainer(
        sentence_transformer(pooling(), base.Normalize(), dtype=torch.float64), batch_size=3
    )
    texts = [A, B, "good", "a long and good film, not at all bad, this one is good", A]
    alone = [explainer(A, text) for text in texts]
    together = explainer(A, texts)
    turned = explainer(texts, A)
    kept = explainer(explainer.embed(A), explainer.embed(texts))
    for one, other, back, again in zip(alone, together, turned, kept, strict=True):
        np.testing.assert_allclose(other.matrix, one.matrix, atol=1e-12)
        np.testing.assert_allclose(back.matrix, one.matrix.T, atol=1e-12)
        np.testing.assert_allclose(again.matrix, one.matrix, atol=1e-12)
    pairs = explainer(texts[:2], texts[2:4])
    np.testing.assert_allclose(pairs[1].matrix, explainer(B, texts[3]).matrix, atol=1e-12)


def test_token_vectors_sum_to_the_embedding():
    model = sentence_transformer(pooling(), converted=False)
    found = SimilarityExplainer(model).embed([A, B])
    for one, embedding in zip(found, model.encode([A, B]), strict=True):
        np.testing.assert_allclose(one.vectors.sum(0) + one.constants, embedding, atol=1e-5)
        assert one.residual < 1e-5


def test_by_backward_passes_where_an_embedding_is_smaller_than_the_text():
    model = sentence_transformer(pooling(), base.Dense(tiny.config("bert").hidden_size, 3), dtype=torch.float64)
    model[2].double()
    explainer = SimilarityExplainer(model, similarity="dot")
    one, other = explainer.embed(A), explainer.embed(B)
    assert len(one.tokens.tokens) > 3
    np.testing.assert_allclose(one.vectors @ other.vectors.T, explainer(A, B).matrix, atol=1e-12)
    assert one.residual < 1e-12


def test_prompts_are_read_and_left_out_of_the_pooling():
    prompts = {"query": "a good ", "document": "not "}
    model = sentence_transformer(pooling(include_prompt=False), prompts=prompts)
    found = SimilarityExplainer(model)(A, B, roles=("query", "document"))
    wanted = model.similarity(model.encode_query([A]), model.encode_document([B]))
    assert found.similarity == pytest.approx(float(wanted), abs=1e-6)
    assert (found.a.text, found.b.text) == ("a good " + A, "not " + B)
    given = SimilarityExplainer(model)(A, B, prompts=("a good ", "not "))
    np.testing.assert_allclose(given.matrix, found.matrix)


def test_sparse_encoders():
    from sentence_transformers.sparse_encoder.modules import SpladePooling

    model = sparse_encoder(SpladePooling)
    for limit in (None, 5):
        model.max_active_dims = limit
        found = SimilarityExplainer(model)(A, B)
        wanted = model.similarity(model.encode([A]), model.encode([B]))
        assert found.function == "dot"
        assert found.similarity == pytest.approx(float(wanted.to_dense()), rel=1e-5)
        assert residual(found) < 1e-5 * max(1.0, abs(found.similarity))


def sparse_encoder(pooling_class):
    import tempfile

    from sentence_transformers.sparse_encoder.modules import MLMTransformer

    from bcos_peft import BcosConfig, get_bcos_model

    with tempfile.TemporaryDirectory() as folder:
        tiny.model("bert", "MaskedLM").save_pretrained(folder)
        tiny.tokenizer("wordpiece").save_pretrained(folder)
        first = MLMTransformer(folder)
    model = sentence_transformers.SparseEncoder(modules=[first, pooling_class(pooling_strategy="max")], device="cpu")
    get_bcos_model(first.auto_model, BcosConfig(b=1.5))
    return model.eval()


@pytest.mark.parametrize("function", ["maxsim", "meanmaxsim"])
def test_late_interaction(function):
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    project = base.Dense(
        tiny.config("bert").hidden_size,
        6,
        bias=False,
        activation_function=torch.nn.Identity(),
        module_input_name="token_embeddings",
    )
    model = sentence_transformer(
        project,
        MultiVectorMask(skiplist_words=["good"]),
        cls=sentence_transformers.MultiVectorEncoder,
        similarity_fn_name=function,
    )
    explainer = SimilarityExplainer(model)
    found = explainer(A, [B, A])
    wanted = model.similarity(model.encode_query([A]), model.encode_document([B, A]))[0]
    for one, value in zip(found, wanted.tolist(), strict=True):
        assert one.similarity == pytest.approx(value, abs=1e-5)
        assert residual(one) < 1e-5
    kept = explainer(explainer.embed(A, role="query"), explainer.embed([B, A], role="document"))
    np.testing.assert_allclose(kept[0].matrix, found[0].matrix, atol=1e-6)


# ---- bad input ----------------------------------------------------------------------------------------------------


def test_what_is_no_sum_over_pairs_is_refused():
    model = sentence_transformer(pooling(), similarity_fn_name="euclidean")
    with pytest.raises(ValueError, match="'euclidean' is no sum over pairs"):
        SimilarityExplainer(model)
    assert SimilarityExplainer(model, similarity="cosine")(A, B).function == "cosine"


def test_modules_that_are_not_linear_are_refused_by_name():
    class Recurrent(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = torch.nn.GRU(tiny.config("bert").hidden_size, 8, batch_first=True)

        def forward(self, features):
            features["token_embeddings"] = self.cell(features["token_embeddings"])[0]
            return features

    model = sentence_transformer(Recurrent(), parts.Pooling(8, "mean"))
    with pytest.raises(ValueError, match="operation 'gru', called at"):
        SimilarityExplainer(model)(A, B)


@pytest.mark.parametrize(
    ("a", "b", "options", "message"),
    [
        ("", B, {}, "a is empty"),
        (A, [B, "  "], {}, r"b\[1\] is empty"),
        (A, [], {}, "b is empty"),
        ([A, A], [B], {}, "2 texts and b 1"),
        (A, "a film " * 30, {}, "b has .* tokens, but the model reads 24"),
        (A, B, {"roles": ("query", "passages")}, "none of the model's prompts"),
    ],
)
def test_bad_texts(a, b, options, message):
    with pytest.raises(ValueError, match=message):
        SimilarityExplainer(sentence_transformer(pooling()))(a, b, **options)


def test_long_texts_are_cut_when_asked_for():
    model = sentence_transformer(pooling())
    found = SimilarityExplainer(model)(A, "a film " * 30, truncation=True)
    assert len(found.b.tokens) == 24
    assert found.similarity == pytest.approx(
        float(model.similarity(model.encode([A]), model.encode(["a film " * 30]))), abs=1e-6
    )


def test_vectors_of_another_model_are_refused():
    explainer = SimilarityExplainer(sentence_transformer(pooling()))
    kept = explainer.embed(A)
    with torch.no_grad():
        next(explainer.model.parameters()).mul_(1.1)
    with pytest.raises(ValueError, match="of another model"):
        explainer(kept, B)


def test_what_a_sentence_transformer_has_itself_is_not_given():
    with pytest.raises(ValueError, match="has its own"):
        SimilarityExplainer(sentence_transformer(pooling()), pooling="mean")


def test_a_cross_encoder_is_sent_to_the_other_explainer(tmp_path):
    tiny.model("bert", num_labels=1).save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    with pytest.raises(TypeError, match="BcosExplainer"):
        SimilarityExplainer(sentence_transformers.CrossEncoder(str(tmp_path), device="cpu"))
