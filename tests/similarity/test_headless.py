"""`SimilarityExplainer` of models without a head, with a tokenizer and a way to pool."""

import pytest
import torch
from helpers import tiny
from helpers.embedders import A, B, plain

from bcos_peft import SimilarityExplainer


def residual(found):
    """Of a sum that is taken here."""
    return abs(found.matrix.sum() + (found.constants or 0.0) - found.similarity)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "modernbert"])
@pytest.mark.parametrize("how", ["mean", "cls", "last"])
def test_models_without_a_head(family, how):
    model = plain(family, torch.float64)
    kind = "bpe" if family == "roberta" else "wordpiece"
    found = SimilarityExplainer(model, tiny.tokenizer(kind), pooling=how, similarity="dot")(A, B)
    embeddings = []
    for text in (A, B):
        ids = tiny.tokenizer(kind)(text, return_tensors="pt")
        ids.pop("token_type_ids", None)
        with torch.no_grad():
            hidden = model(**ids).last_hidden_state[0]
        embeddings.append({"mean": hidden.mean(0), "cls": hidden[0], "last": hidden[-1]}[how])
    assert found.similarity == pytest.approx(float(embeddings[0] @ embeddings[1]), rel=1e-6)
    assert residual(found) < 1e-9 * max(1.0, abs(found.similarity))


def test_many_texts_and_kept_vectors():
    explainer = SimilarityExplainer(plain(dtype=torch.float64), tiny.tokenizer(), pooling="mean")
    alone, kept = explainer(A, B), explainer(explainer.embed(A), explainer.embed([B, A]))
    assert abs(alone.matrix - kept[0].matrix).max() < 1e-12
    assert kept[1].similarity == pytest.approx(1.0)


def test_arguments():
    model = plain()
    with pytest.raises(ValueError, match="pooling must be"):
        SimilarityExplainer(model, tiny.tokenizer())
    with pytest.raises(TypeError, match="tokenizer must be"):
        SimilarityExplainer(model, pooling="mean")
    with pytest.raises(TypeError, match="must be a text"):
        SimilarityExplainer(model, tiny.tokenizer(), pooling="mean")(A, [3])
    with pytest.raises(ValueError, match="prompts by name"):
        SimilarityExplainer(model, tiny.tokenizer(), pooling="mean")(A, B, roles=("query", "document"))
