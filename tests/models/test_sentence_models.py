"""Models of sentence-transformers: the transformer inside is converted, and they go on as before."""

import json

import pytest
import torch
import transformers
from helpers import tiny
from helpers.fake_hub import FakeHub
from helpers.hub_process import run

from bcos_peft import BcosConfig, BcosExplainer, get_bcos_model
from bcos_peft.calibration import calibration_rows, embedding_of
from bcos_peft.models import find_transformer


pytestmark = pytest.mark.newest

sentence_transformers = pytest.importorskip("sentence_transformers")
parts = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
sparse = pytest.importorskip("sentence_transformers.sparse_encoder.modules")


TEXTS = ["a gripping film", "the plot is thin", "bad acting and a boring film", "I like it"] * 3
QUICK = {"calibration_replay": 0, "calibration_epochs": 1}
STOCK = {
    "bert": (transformers.BertModel, "wordpiece"),
    "roberta": (transformers.RobertaModel, "bpe"),
    "modernbert": (transformers.ModernBertModel, "wordpiece"),
    "llama": (transformers.LlamaModel, "bpe"),
    "t5": (transformers.T5EncoderModel, "sentencepiece"),
}


def saved(model, folder, kind="wordpiece"):
    model.save_pretrained(folder)
    tiny.tokenizer(kind).save_pretrained(folder)
    return str(folder)


def stock_of(family):
    if family != "t5":
        return tiny.model(family, cls=STOCK[family][0])
    torch.manual_seed(0)
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "initializer_factor": 2.0}
    return transformers.T5EncoderModel(transformers.T5Config(vocab_size=tiny.VOCAB_SIZE, **sizes)).eval()


def embedder(folder, family="bert", pooling="mean", **kwargs):
    transformer = parts.Transformer(saved(stock_of(family), folder, STOCK[family][1]))
    torch.manual_seed(1)
    after = [parts.Pooling(32, pooling), parts.Dense(32, 16), parts.Normalize()]
    return sentence_transformers.SentenceTransformer(modules=[transformer, *after], device="cpu", **kwargs)


def encode(model):
    return model.encode(TEXTS[:4], convert_to_tensor=True)


@pytest.mark.parametrize(
    ("family", "pooling"),
    [("bert", "mean"), ("roberta", "cls"), ("modernbert", "mean"), ("llama", "lasttoken"), ("t5", "mean")],
)
def test_an_embedder_stays_one_and_is_loaded_as_it_was_saved(family, pooling, tmp_path):
    model = embedder(tmp_path / "stock", family, pooling)
    before, after = encode(model), [*model.children()][1:]
    assert get_bcos_model(model, BcosConfig(b=1.25, **QUICK), calibration_data=TEXTS, progress=False) is model
    assert [*model.children()][1:] == after
    inside = find_transformer(model)
    assert inside is model[0].model
    assert inside.bcos_config.calibration_report["texts"] == len(TEXTS)
    assert inside.bcos_config.probe_residual < 1e-5
    now = encode(model)
    assert not torch.equal(now, before)
    model.save_pretrained(str(tmp_path / "saved"))
    loaded = sentence_transformers.SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    assert type(loaded[0].model).__name__ == type(inside).__name__ == f"Bcos{STOCK[family][0].__name__}"
    torch.testing.assert_close(encode(loaded), now, rtol=0, atol=0)


def test_calibration_brings_embeddings_back(tmp_path):
    stock = encode(embedder(tmp_path / "stock"))
    near = [
        (encode(get_bcos_model(embedder(tmp_path / "stock"), BcosConfig(b=1.5, **QUICK), **data)) * stock)
        .sum(1)
        .mean()
        for data in ({}, {"calibration_data": TEXTS, "progress": False})
    ]
    assert near[0] < 0.9 * near[1]


def test_a_converted_embedder_is_trained(tmp_path):
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer.losses import CosineSimilarityLoss

    model = get_bcos_model(embedder(tmp_path / "stock"), BcosConfig())
    before = encode(model)
    rows = {"first": TEXTS, "second": TEXTS[::-1], "score": [0.0, 1.0] * 6}
    quiet = {"report_to": "none", "save_strategy": "no", "disable_tqdm": True, "use_cpu": True, "max_steps": 2}
    settings = SentenceTransformerTrainingArguments(str(tmp_path / "out"), learning_rate=0.01, **quiet)
    data, loss = Dataset.from_dict(rows), CosineSimilarityLoss(model)
    SentenceTransformerTrainer(model, settings, train_dataset=data, loss=loss).train()
    assert float((encode(model) * before).sum(1).mean()) < 0.999
    assert find_transformer(model).bcos_summary().probe_residual < 1e-5


def test_a_reranker_is_converted_and_explained(tmp_path):
    folder = saved(tiny.model("bert", num_labels=1), tmp_path / "stock")
    model = sentence_transformers.CrossEncoder(folder, device="cpu")
    pairs = list(zip(TEXTS, TEXTS[1:], strict=False))
    assert get_bcos_model(model, BcosConfig(**QUICK), calibration_data=pairs, progress=False) is model
    scores = model.predict(pairs[:2])
    explained = BcosExplainer(find_transformer(model), model.tokenizer)(pairs[0])
    assert float(explained.logit) == pytest.approx(float(torch.logit(torch.tensor(scores[0]))), abs=1e-4)
    model.save_pretrained(str(tmp_path / "saved"))
    loaded = sentence_transformers.CrossEncoder(str(tmp_path / "saved"), device="cpu")
    assert loaded.predict(pairs[:2]).tolist() == scores.tolist()


def test_sparse_and_late_interaction_encoders_are_converted(tmp_path):
    masked = parts.Transformer(saved(tiny.model("bert", "MaskedLM"), tmp_path / "mlm"), transformer_task="fill-mask")
    body = parts.Transformer(saved(stock_of("bert"), tmp_path / "body"))
    names = {"module_input_name": "token_embeddings", "module_output_name": "token_embeddings"}
    splade = sentence_transformers.SparseEncoder(modules=[masked, sparse.SpladePooling("max")], device="cpu")
    late = sentence_transformers.MultiVectorEncoder(modules=[body, parts.Dense(32, 16, **names)], device="cpu")
    for model in (splade, late):
        assert embedding_of(model).pool is None
        get_bcos_model(model, BcosConfig(**QUICK), calibration_data=TEXTS, progress=False)
        model.save_pretrained(str(tmp_path / type(model).__name__))
        loaded = type(model)(str(tmp_path / type(model).__name__), device="cpu")
        mine, theirs = (torch.as_tensor(one.encode(TEXTS[:1])[0]) for one in (model, loaded))
        assert type(loaded[0].model).__name__.startswith("Bcos")
        torch.testing.assert_close(theirs.to_dense(), mine.to_dense(), rtol=0, atol=0)


def test_what_has_no_transformer_or_two_is_refused(tmp_path):
    words = sentence_transformers.SentenceTransformer(modules=[parts.StaticEmbedding(tiny.tokenizer(), None, 8)])
    with pytest.raises(ValueError, match="no transformers model in this SentenceTransformer, of StaticEmbedding"):
        get_bcos_model(words, BcosConfig())
    sides = [[*embedder(tmp_path / side).children()] for side in ("a", "b")]
    router = sentence_transformers.SentenceTransformer(modules=[parts.Router.for_query_document(*sides)], device="cpu")
    before = router.encode_query(TEXTS[:4])
    with pytest.raises(ValueError, match=r"2 transformers models: '0\.sub_modules\.query\.0\.model' \(BertModel\)"):
        get_bcos_model(router, BcosConfig())
    assert type(sides[0][0].model) is transformers.BertModel
    get_bcos_model(router.get_submodule("0.sub_modules.query.0.model"), BcosConfig())  # as the error says
    assert abs(router.encode_query(TEXTS[:4]) - before).max() > 1e-3


def test_an_encoder_that_would_come_back_as_the_stock_one_is_refused(tmp_path):
    sizes = {"vocab_size": tiny.VOCAB_SIZE, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    config = transformers.T5GemmaConfig(encoder=sizes, decoder=sizes, is_encoder_decoder=False)
    stock = transformers.T5GemmaEncoderModel(config).eval()
    body = parts.Transformer(saved(stock_of("bert"), tmp_path / "body"))
    body.model = stock
    model = sentence_transformers.SentenceTransformer(modules=[body, parts.Pooling(32)], device="cpu")
    with pytest.raises(ValueError, match="loads every saved T5GemmaEncoderModel as a stock one"):
        get_bcos_model(model, BcosConfig())
    assert type(stock) is transformers.T5GemmaEncoderModel


def test_prompts_and_length_are_the_models(tmp_path):
    model = embedder(tmp_path / "stock", prompts={"query": "film: ", "passage": "plot: "})
    model.max_seq_length = 5
    embedding = embedding_of(model)
    assert set(embedding.prompts) == {"", "film: ", "plot: "}
    assert embedding.max_length == 5
    reads = find_transformer(model), 1000, embedding.max_length, embedding.prompts
    rows = calibration_rows(TEXTS, model.tokenizer, *reads)
    for text, prompt, row in zip(TEXTS, embedding.prompts, rows, strict=False):
        assert row["input_ids"] == model.tokenizer(prompt + text, truncation=True, max_length=5)["input_ids"]


def test_its_pooling_is_the_embedding(tmp_path):
    model = embedder(tmp_path / "stock")
    inputs = tiny.tokenizer()(TEXTS[:4], padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = find_transformer(model)(**inputs)[0]
        found = embedding_of(model).pool(hidden, inputs["attention_mask"].bool())
    torch.testing.assert_close(found, encode(model))


@pytest.mark.slow
def test_a_pushed_embedder_is_loaded_from_the_hub(tmp_path):
    model = get_bcos_model(embedder(tmp_path / "stock"), BcosConfig())
    model.save_pretrained(str(tmp_path / "mine"))
    code = f"""
        import bcos_peft
        from sentence_transformers import SentenceTransformer
        SentenceTransformer({str(tmp_path / "mine")!r}, device="cpu").push_to_hub("me/mine")
        print(type(SentenceTransformer("me/mine", device="cpu")[0].model).__name__)
    """
    with FakeHub() as hub:
        out = run(code, tmp_path, hub.environment(tmp_path / "home"))
    assert "BcosBertModel" in out
    assert json.loads(hub.repos["me/mine"]["main"]["config.json"])["model_type"] == "bcos_bert"
