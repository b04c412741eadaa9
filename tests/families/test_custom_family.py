"""A family that a user brings: passed in, corrected after a refusal, saved and loaded."""

import pickle
from dataclasses import replace

import pytest
import torch
from helpers import tiny
from helpers.launching import start
from helpers.paths import TESTS
from transformers import AutoModelForSequenceClassification, MPNetConfig, MPNetForSequenceClassification

from bcos_peft import BcosConfig, Family, attribute, get_bcos_model
from bcos_peft.families import families, find_family


FAMILY = Family(
    model_type="mpnet",
    architectures=("MPNetForSequenceClassification",),
    parts={"word": "embeddings.word_embeddings", "position": "embeddings.position_embeddings"},
    plain=(r"attn\.[qkv]",),
    replacements={"MPNetClassificationHead": "head"},
)


def stock():
    config = MPNetConfig(
        num_hidden_layers=2,
        hidden_size=32,
        num_attention_heads=4,
        intermediate_size=64,
        vocab_size=320,
        initializer_range=0.2,
        max_position_embeddings=66,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MPNetForSequenceClassification(config).eval()


@pytest.fixture(autouse=True)
def other_tests_do_not_know_it(monkeypatch):
    from bcos_peft.families import base

    monkeypatch.setattr(base, "_FAMILIES", dict(base._FAMILIES))


@pytest.mark.parametrize(
    "wrong",
    [{"parts": {"word": "embeddings.word_embeddings"}}],
    ids=["positions missed"],
)
def test_what_a_table_lacks_is_seen_and_can_be_mended(wrong):
    """The last table counts: not the first that was tried for a class."""
    before = {family.model_type for family in families()}
    model = stock()
    expected = model(**tiny.inputs()).logits
    with pytest.raises(ValueError, match="not linear in its input"):
        get_bcos_model(model, BcosConfig(), family=replace(FAMILY, **wrong))
    assert type(model) is MPNetForSequenceClassification
    assert {family.model_type for family in families()} == before
    torch.testing.assert_close(model(**tiny.inputs()).logits, expected)

    model = get_bcos_model(model, BcosConfig(), family=FAMILY)
    assert model.bcos_family is FAMILY
    assert find_family("mpnet") is FAMILY
    result = attribute(model, **tiny.inputs(family="roberta"), split=True)
    assert result.residual.abs().max() < 1e-4
    result = attribute(model, **tiny.inputs(family="roberta"), baseline="average")
    assert result.residual.abs().max() < 1e-4


def test_an_average_word_needs_the_word_embedding():
    parts = {"token": FAMILY.parts["word"], "position": FAMILY.parts["position"]}
    model = get_bcos_model(stock(), BcosConfig(), family=replace(FAMILY, parts=parts))
    assert attribute(model, **tiny.inputs()).residual.abs().max() < 1e-4
    with pytest.raises(ValueError, match="baseline='average' needs the word embedding, and the family of 'mpnet'"):
        attribute(model, **tiny.inputs(), baseline="average")


def test_a_failed_table_leaves_converted_models_alone(tmp_path):
    model = get_bcos_model(stock(), BcosConfig(b=1.5), family=FAMILY)
    with pytest.raises(ValueError, match="not linear"):
        get_bcos_model(stock(), BcosConfig(), family=replace(FAMILY, parts={"word": "embeddings.word_embeddings"}))
    ids = tiny.inputs(family="roberta")
    expected = model(**ids).logits
    torch.testing.assert_close(pickle.loads(pickle.dumps(model))(**ids).logits, expected)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert type(loaded) is type(model)
    torch.testing.assert_close(loaded(**ids).logits, expected)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"model_type": "bert"}, "family is for model_type 'bert'; this model's is 'mpnet'"),
        (
            {"parts": {"word": "embed"}},
            "words enter at 'embed', but the MPNetModel has no such module. It has: embeddings,",
        ),
        ({"architectures": ("MPNetForMaskedLM",)}, "not an architecture that the 'mpnet' family covers"),
    ],
)
def test_tables_that_do_not_fit(wrong, message):
    model = stock()
    with pytest.raises(ValueError, match=message):
        get_bcos_model(model, BcosConfig(), family=replace(FAMILY, **wrong))
    assert type(model) is MPNetForSequenceClassification


def test_a_new_process_loads_it_after_registration(tmp_path):
    get_bcos_model(stock(), BcosConfig(), family=FAMILY).save_pretrained(tmp_path)
    code = (
        "import sys; sys.path[:0] = [sys.argv[1], sys.argv[1] + '/families']; import test_custom_family as t\n"
        "from bcos_peft import register_family\n"
        "register_family(t.FAMILY)\n"
        "model = t.AutoModelForSequenceClassification.from_pretrained(sys.argv[2])\n"
        "print(type(model).__name__, float(t.attribute(model, **t.tiny.inputs()).residual.abs().max()) < 1e-4)"
    )
    run = start(["-c", code, TESTS, tmp_path])
    assert run.stdout.split() == ["BcosMPNetForSequenceClassification", "True"], run.stderr


def test_config_classes_of_one_name_are_kept_apart():
    from transformers import BertConfig

    from bcos_peft.models.classes import _config_class

    first = type("NamesakeConfig", (BertConfig,), {"model_type": "namesake"})
    second = type("NamesakeConfig", (BertConfig,), {"model_type": "namesake"})
    assert issubclass(_config_class(first), first)
    assert _config_class(first) is _config_class(first)
    assert issubclass(_config_class(second), second)
