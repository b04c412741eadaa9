"""Contributions sum to the output: models without a table or a head, encoder-decoders, stock models."""

import copy

import pytest
import torch
from helpers import tiny, untabled
from transformers import AutoModel, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification

from bcos_peft import BcosConfig, attribute, get_bcos_model
from bcos_peft.attribution import attribute_answer, attribute_sequence


pytestmark = pytest.mark.newest  # some architectures are newer than the oldest transformers


def direction(found):
    states = found[0]
    return (states * torch.linspace(-1, 1, states.shape[-1], dtype=states.dtype)).sum(-1).mean(1)


def options(name):
    return {"output": direction} if name in ("MPNetModel", "BertModel") else {}


def total(result):
    terms = [result.scores, result.prefix_scores]
    found = sum(term.sum(-1) for term in terms if term is not None)
    return found if result.constants is None else found + result.constants


@pytest.mark.parametrize("name", untabled.MODELS)
def test_a_converted_model_is_exact(name):
    model = get_bcos_model(untabled.stock(name), BcosConfig(b=1.5))
    assert model.bcos_config.family["parts"]["word"]
    result = attribute(model, **untabled.inputs(name), **options(name), split=True)
    classifier = name == "BartForSequenceClassification"
    assert (result.constants is not None) == classifier, "the token that starts the decoder of a classifier"
    torch.testing.assert_close(total(result), result.logit, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(sum(result.parts.values()), result.scores)
    assert (result.prefix_scores is not None) == (name in untabled.SEQ2SEQ)
    padding = untabled.inputs(name)["attention_mask"] == 0
    assert options(name) or not result.scores[padding].any(), "padding has none, but where its own states are read"


def test_a_classifier_with_a_decoder_reads_its_text_twice():
    """The decoder's is the text again, one place later; each token has what it gives in both."""
    model = get_bcos_model(untabled.stock("BartForSequenceClassification"), BcosConfig(b=1.5))
    inputs = untabled.inputs("BartForSequenceClassification")
    found = attribute(model, **inputs)
    again = torch.cat([torch.full((2, 1), 2), inputs["input_ids"][:, :-1]], 1)
    apart = attribute(model, **inputs, decoder_input_ids=again)
    later = torch.nn.functional.pad(apart.prefix_scores[:, 1:], (0, 1))
    torch.testing.assert_close(found.scores, apart.scores + later)
    torch.testing.assert_close(found.constant_parts["decoder_start"], apart.prefix_scores[:, 0])
    assert apart.constants is None


@pytest.mark.parametrize("name", untabled.MODELS)
def test_alone_and_in_a_batch(name):
    model, inputs = get_bcos_model(untabled.stock(name), BcosConfig(b=1.5)), untabled.inputs(name)
    together = attribute(model, **inputs, **options(name))
    if name in ("MPNetModel", "BertModel"):
        return  # the mean is over padding too
    length = int(inputs["attention_mask"][1].sum())
    row = {key: value[1:, :length] if "decoder" not in key else value[1:] for key, value in inputs.items()}
    alone = attribute(model, **row, target=together.target[1:])
    torch.testing.assert_close(alone.scores, together.scores[1:, :length], atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("name", untabled.MODELS)
def test_a_stock_model_is_exact_with_its_constants(name):
    model = untabled.stock(name)
    before = copy.deepcopy(model.state_dict())
    inputs = untabled.inputs(name)
    result = attribute(model, **inputs, **options(name))
    torch.testing.assert_close(total(result), result.logit, atol=1e-9, rtol=1e-9)
    assert result.constants.shape == result.logit.shape
    with torch.no_grad():
        output = model(**inputs)
    expected = direction(output) if options(name) else output.logits.reshape(2, -1, output.logits.shape[-1])
    if not options(name):
        expected = expected[:, -1].gather(1, result.target[:, None])[:, 0]
    torch.testing.assert_close(result.logit, expected, atol=1e-6, rtol=1e-6, check_dtype=False)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("family", ["bert", "llama", "gpt2"])
def test_stock_models_with_a_table(family):
    task = "SequenceClassification" if family == "bert" else "CausalLM"
    model = tiny.model(family, task, dtype=torch.float64)
    result = attribute(model, **tiny.inputs(3, 9, "left", family))
    torch.testing.assert_close(total(result), result.logit, atol=1e-9, rtol=1e-9)
    assert (result.constants.abs() > 1e-6).any() or family == "llama"
    if family != "bert":
        ids = tiny.inputs(1, 9, "right", family)["input_ids"][0]
        found = attribute_sequence(model, ids, positions=[3, 5], targets=[[7], [8]])
        torch.testing.assert_close(found.scores.sum(1) + found.constants, found.logit, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("name", [*untabled.SEQ2SEQ, "MPNetForSequenceClassification", "MPNetModel"])
def test_it_is_saved_and_loaded(name, tmp_path):
    model, inputs = get_bcos_model(untabled.stock(name, torch.float32), BcosConfig(b=1.5)), untabled.inputs(name)
    model.save_pretrained(tmp_path)
    auto = AutoModelForSeq2SeqLM if name in untabled.SEQ2SEQ else AutoModelForSequenceClassification
    loaded = (AutoModel if name == "MPNetModel" else auto).from_pretrained(tmp_path)
    assert type(loaded) is type(model)
    assert loaded.bcos_family == model.bcos_family
    expected, found = (attribute(one, **inputs, **options(name)) for one in (model, loaded))
    torch.testing.assert_close(found.scores, expected.scores)
    torch.testing.assert_close(found.logits, expected.logits)


def test_an_answer_token_by_token():
    model = get_bcos_model(untabled.stock("T5ForConditionalGeneration"), BcosConfig(b=1.5))
    source, prefix = torch.arange(10, 17), torch.tensor([0, 21, 22])
    found = attribute_answer(model, source, prefix, [[21], [22], [23]], foils=None)
    for i in range(3):
        one = attribute(model, source[None], decoder_input_ids=prefix[None, : i + 1], target=21 + i)
        torch.testing.assert_close(found.scores[i, :7], one.scores[0], atol=1e-7, rtol=1e-6)
        torch.testing.assert_close(found.scores[i, 7 : 8 + i], one.prefix_scores[0], atol=1e-7, rtol=1e-6)
    assert found.residual.abs().max() < 1e-10


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "T5ForConditionalGeneration",
            {"decoder_input_ids": None},
            "is an encoder-decoder: pass input_ids, the source",
        ),
        ("BartForConditionalGeneration", {"decoder_input_ids": torch.ones(1, 3).long()}, r"with 2 rows"),
        ("BertModel", {"output": None}, "has no logits to explain"),
        ("BertModel", {"output": lambda found: found[0].sum()}, "output must be a function of the model's output"),
        ("BertModel", {"output": lambda found: torch.ones(2)}, "output must be a function of the model's output"),
    ],
)
def test_refusals(name, change, message):
    model = get_bcos_model(untabled.stock(name), BcosConfig(b=1.5))
    with pytest.raises(ValueError, match=message):
        attribute(model, **{**untabled.inputs(name), **options(name), **change})


@pytest.mark.parametrize("name", ["T5ForConditionalGeneration", "MPNetModel", "BartForSequenceClassification"])
def test_they_are_calibrated(name):
    """What is calibrated is nearer to the original."""
    rows = torch.randint(5, 110, (30, 8), generator=torch.Generator().manual_seed(0))
    rows[:, -1] = 2
    model, inputs = untabled.stock(name, torch.float32), untabled.inputs(name, rows=1)
    with torch.no_grad():
        expected = model(**inputs)[0]
        plain = get_bcos_model(copy.deepcopy(model), BcosConfig(b=1.5)).eval()(**inputs)[0]
        config = BcosConfig(b=1.5, calibration_replay=0, calibration_epochs=1)
        fitted = get_bcos_model(model, config, calibration_data=rows.tolist(), progress=False).eval()
        assert (fitted(**inputs)[0] - expected).norm() < 0.8 * (plain - expected).norm()
    assert fitted.bcos_config.calibration_report["texts"] == 30
