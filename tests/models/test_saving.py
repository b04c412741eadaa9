"""Saving and loading converted models: what comes back."""

import copy
import io
import json
import logging
import os
import pickle

import accelerate
import pytest
import torch
import transformers
from helpers import tiny
from helpers.saved import assert_same, converted, outputs
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer, pipeline

from bcos_peft import BcosConfig, attribute, explanation_mode, models
from bcos_peft.families import find_family
from bcos_peft.nn import BcosLayer, BcosLinear


def auto(task):
    return getattr(transformers, f"AutoModelFor{task}")


@pytest.fixture
def notices():
    """Messages that transformers logs at the level of a warning or above."""
    messages = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


# ---- What comes back ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", tiny.TASKS)
@pytest.mark.parametrize("family", [family for family in tiny.FAMILIES if not find_family(family).causal])
def test_a_model_comes_back_as_it_was(family, task, tmp_path, notices):
    model = converted(family, task, BcosConfig(b=1.5, b_pattern={r"layer\.0\..*": 1.1} if family == "bert" else {}))
    model.save_pretrained(tmp_path)
    back, info = auto(task).from_pretrained(tmp_path, output_loading_info=True)
    assert type(back) is type(model)
    assert not any(info.values()), info
    assert not notices
    assert_same(model, back, family)
    assert back.bcos_config == model.bcos_config
    assert [m.b for m in back.modules() if isinstance(m, BcosLayer)] == [
        m.b for m in model.modules() if isinstance(m, BcosLayer)
    ]
    assert {name for name, _ in back.named_parameters()} == {name for name, _ in model.named_parameters()}
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["architectures"] == [type(model).__name__]
    assert saved["model_type"] == f"bcos_{family}"
    assert saved["bcos"]["b"] == 1.5
    assert "auto_map" not in saved
    assert sorted(os.listdir(tmp_path)) == ["README.md", "config.json", "model.safetensors"]


def test_patterns_that_name_a_head_do_not_keep_another_from_loading(tmp_path):
    model = converted("bert", "MaskedLM", BcosConfig(b=1.5, b_pattern={"predictions.transform.dense": 1.0}))
    model.save_pretrained(tmp_path / "words")
    other = AutoModelForSequenceClassification.from_pretrained(tmp_path / "words")
    assert {module.b for module in other.modules() if isinstance(module, BcosLayer)} - {None} == {1.5}
    model = converted(config=BcosConfig(b=1.5, exclude_modules=["pooler.dense"]))
    model.classifier.b = 1.0
    model.save_pretrained(tmp_path / "classes")
    other = auto("MaskedLM").from_pretrained(tmp_path / "classes")
    other.save_pretrained(tmp_path / "words again")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "words again")
    assert again.classifier.b == 1.0, "the pattern is kept for the head that it names"
    assert not isinstance(again.bert.pooler.dense, BcosLinear)


@pytest.mark.parametrize("family", [family for family in tiny.FAMILIES if not find_family(family).causal])
def test_its_encoder_comes_back_alone(family, tmp_path):
    config = BcosConfig(
        b=1.5, b_pattern={r"classifier|out_proj": 1.0, rf"\A{tiny.model(family).base_model_prefix}\..*0.*": 2}
    )
    model = converted(family, config=config)
    model.save_pretrained(tmp_path)
    encoder, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert type(encoder).__name__ == f"Bcos{type(model.base_model).__name__}"
    stock = AutoModel.from_config(tiny.config(family))
    lacking = {name for name, _ in stock.named_parameters()} - {
        name for name, _ in model.base_model.named_parameters()
    }
    lacking = {name for name in lacking if not name.endswith("bias")}
    assert info["missing_keys"] == lacking <= {"pooler.dense.weight"}, "as with a stock model"
    for b in (1.5, 1.25):
        model.set_b(b)
        encoder.set_b(b)
        states = zip(outputs(model, family)[-3:], outputs(encoder, family)[-3:], strict=True)
        assert all(torch.equal(one, other) for one, other in states)
    encoder.save_pretrained(tmp_path / "encoder")
    assert_same(encoder, AutoModel.from_pretrained(tmp_path / "encoder"), family)
    with pytest.raises(ValueError, match="has no logits"):
        attribute(encoder, **tiny.inputs(family=family))


def test_tied_embeddings_are_saved_once_and_stay_tied(tmp_path):
    model = converted("bert", "MaskedLM")
    model.save_pretrained(tmp_path)
    back = auto("MaskedLM").from_pretrained(tmp_path)
    assert back.get_output_embeddings().weight is back.get_input_embeddings().weight
    untied = converted("bert", "MaskedLM", tie_word_embeddings=False)
    untied.save_pretrained(tmp_path)
    back = auto("MaskedLM").from_pretrained(tmp_path)
    assert back.get_output_embeddings().weight is not back.get_input_embeddings().weight
    assert_same(untied, back)


@pytest.mark.parametrize(
    "options",
    [
        {"low_cpu_mem_usage": True},
        {"device_map": "cpu"},
        {"device_map": {"": "cpu"}},
        {"attn_implementation": "eager"},
        {"trust_remote_code": True},
        {"dtype": torch.float32},
        {"dtype": "auto"},
    ],
    ids=str,
)
def test_ways_of_loading(options, tmp_path):
    model = converted()
    model.save_pretrained(tmp_path)
    back = AutoModelForSequenceClassification.from_pretrained(tmp_path, **options)
    if options.get("attn_implementation"):
        assert back.config._attn_implementation == "eager"
        model.set_attn_implementation("eager")
    assert_same(model, back)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_precision(dtype, tmp_path):
    model = converted()
    model.save_pretrained(tmp_path)
    back = AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype=dtype)
    assert back.dtype == dtype
    back.save_pretrained(tmp_path / "again")
    assert_same(back, AutoModelForSequenceClassification.from_pretrained(tmp_path / "again"))


def test_accelerate_fills_an_empty_model(tmp_path):
    model = converted()
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    with accelerate.init_empty_weights():
        empty = AutoModelForSequenceClassification.from_config(AutoConfig.from_pretrained(tmp_path))
    assert all(parameter.is_meta for parameter in empty.parameters())
    back = accelerate.load_checkpoint_and_dispatch(empty, tmp_path, device_map={"": "cpu"})
    assert_same(model, back)


@pytest.mark.parametrize("family", ["bert", "modernbert", "distilbert"])
def test_attention_implementations_can_be_changed_to_and_fro(family, tmp_path):
    model, stock = converted(family), tiny.model(family)
    before = outputs(model, family)[0]
    for name in ("eager", "sdpa"):
        for one in (model, stock):
            one.set_attn_implementation(name)
        assert model.config._attn_implementation == stock.config._attn_implementation
        assert stock.config._attn_implementation == name or family != "bert"
        assert torch.allclose(outputs(model, family)[0], before, atol=1e-5)
    model.save_pretrained(tmp_path)
    assert "attn_implementation" not in (tmp_path / "config.json").read_text()


def test_copies_and_pickles():
    model = converted("roberta")
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(stream, weights_only=False)):
        assert type(twin) is models.BcosRobertaForSequenceClassification
        assert_same(model, twin, "roberta")
        twin.set_b(2.0)
        assert model.bcos_config.b == 1.5, "the config is its own"
        assert model.classifier.dense.b == 1.5


@pytest.mark.parametrize("convert_head", [False, True])
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra", "modernbert", "deberta-v2"])
def test_the_vocabulary_can_grow(family, convert_head, tmp_path):
    model = converted(family, "MaskedLM", BcosConfig(b=1.5, convert_head=convert_head))
    head = model.get_output_embeddings()
    before = outputs(model, family)[0]
    model.resize_token_embeddings(tiny.VOCAB_SIZE + 8, mean_resizing=False)
    assert type(model.get_output_embeddings()) is type(head)
    assert outputs(model, family)[0].shape[-1] == tiny.VOCAB_SIZE + 8
    assert torch.allclose(outputs(model, family)[0][..., : tiny.VOCAB_SIZE], before, atol=1e-5)
    model.save_pretrained(tmp_path)
    assert_same(model, auto("MaskedLM").from_pretrained(tmp_path), family)


@pytest.mark.parametrize("kept_by", ["set_b", "layers", "one layer", "align=False"])
def test_the_b_of_the_layers_is_what_is_saved(kept_by, tmp_path):
    config = BcosConfig(align=False) if kept_by == "align=False" else BcosConfig(b=1.5, b_pattern={"pooler.*": 1.25})
    model = converted(config=config)
    layers = [module for module in model.modules() if isinstance(module, BcosLinear)]
    if kept_by == "set_b":
        model.set_b(1.75)
        assert {layer.b for layer in layers} == {1.75, 1.25}
    elif kept_by == "layers":
        for layer in layers:
            layer.b = 1.75 if layer.b == 1.5 else layer.b
    else:
        model.classifier.b = 3.0
    model.save_pretrained(tmp_path)
    back = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert [m.b for m in back.modules() if isinstance(m, BcosLinear)] == [layer.b for layer in layers]
    assert_same(model, back)
    assert model.bcos_config == back.bcos_config
    if kept_by in ("set_b", "layers"):
        assert back.bcos_config == BcosConfig(b=1.75, b_pattern={"pooler.*": 1.25}, **_filled_in(back.bcos_config))


def _filled_in(config):
    return {name: getattr(config, name) for name in ("base_model_name_or_path", "probe_residual", "bcos_version")}


def test_a_b_that_no_layer_can_have_is_refused_and_nothing_is_written(tmp_path):
    model = converted()
    model.classifier.b = 0.5
    with pytest.raises(ValueError, match="must be a finite number of at least 1, got 0.5"):
        model.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_saving_while_explaining_saves_the_same(tmp_path):
    model = converted()
    model.save_pretrained(tmp_path / "one")
    with explanation_mode(model):
        model.save_pretrained(tmp_path / "two")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


# ---- Pipelines ------------------------------------------------------------------------------------------------------

TEXT = "A gripping, beautifully shot film."


def scores(result):
    return [entry["score"] for entry in result]


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta", "distilbert", "modernbert", "deberta-v2"])
@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("text-classification", "SequenceClassification"),
        ("token-classification", "TokenClassification"),
        ("fill-mask", "MaskedLM"),
        ("feature-extraction", "SequenceClassification"),
    ],
)
def test_pipelines_accept_the_model(name, task, family, tmp_path, notices):
    tokenizer = tiny.tokenizer(tiny.KIND_OF[family])
    model = converted(family, task)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    text = TEXT + f" It is {tokenizer.mask_token}." if name == "fill-mask" else TEXT
    loaded = pipeline(name, model=str(tmp_path), device="cpu")
    result = loaded(text)
    assert result
    notices = [notice for notice in notices if "LOAD REPORT" not in notice]  # of an encoder loaded without its head
    assert not notices
    if name != "feature-extraction":
        held = pipeline(name, model=model, tokenizer=tokenizer, device="cpu")(text)
        # To rounding: short texts can take other kernels where loaded weights are not aligned, stock models' too.
        assert scores(held) == pytest.approx(scores(result), rel=1e-5)
    assert AutoTokenizer.from_pretrained(tmp_path)(text)["input_ids"] == tokenizer(text)["input_ids"]
