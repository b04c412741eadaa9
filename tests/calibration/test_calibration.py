"""Calibrated conversion on tiny models: closer to the stock model, exact, undone if it fails, kept when saved."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers import tiny
from helpers.calibration import calibrated, divergence, gap, make, texts
from transformers import AutoModelForCausalLM

from bcos_peft import BcosConfig, get_bcos_model
from bcos_peft.attribution import attribute
from bcos_peft.calibration.least_squares import _fit_layers, _importance_of, _Layer


@pytest.mark.parametrize("family", [*tiny.FAMILIES, *tiny.DECODERS])
def test_every_family_comes_closer_to_its_stock_model_and_stays_exact(family):
    stock = make(family)
    plain = get_bcos_model(copy.deepcopy(stock), BcosConfig(b=1.5))
    model = calibrated(copy.deepcopy(stock))
    assert gap(model, stock) < 0.95 * gap(plain, stock)
    assert model.bcos_config.probe_residual < 1e-4
    names = dict(stock.named_parameters())
    assert {name: p.shape for name, p in model.named_parameters()} == {
        name: names[name].shape for name, _ in plain.named_parameters()
    }


@pytest.mark.parametrize("family", ["bert", "llama", "gpt2", "gemma2", "phi3"])
def test_the_certificate_holds_in_float64(family):
    model = calibrated(make(family, dtype=torch.float64), data=texts(60))
    ids = torch.randint(5, tiny.VOCAB_SIZE, (1, 12), generator=torch.Generator().manual_seed(1))
    result = attribute(model, ids)
    assert float(result.residual.abs().max()) <= 1e-10 * float(result.scores.abs().sum())


def test_one_without_distortion_gives_back_the_stock_model():
    # At B = 1 and without biases there is nothing to repair.
    stock = tiny.model("mistral", "CausalLM", dtype=torch.float64)
    model = calibrated(copy.deepcopy(stock), b=1.0)
    assert gap(model, stock) < 1e-6


@pytest.mark.parametrize("method", ["rows", "ridge", "auto"])
def test_methods(method):
    stock = make("bert")
    model = calibrated(copy.deepcopy(stock), calibration=method)
    report = model.bcos_config.calibration_report
    assert report["method"] == model.bcos_config.calibration == method
    assert set(report["ridges"]) <= {"rows": {"none"}, "ridge": {"0.01"}}.get(method, set(report["ridges"]))
    assert gap(model, stock) < gap(get_bcos_model(copy.deepcopy(stock), BcosConfig(b=1.5)), stock)
    if method == "rows":  # directions stay: only the lengths of rows have changed
        before, after = stock.classifier.weight, model.classifier.weight
        cosines = torch.nn.functional.cosine_similarity(before, after)
        torch.testing.assert_close(cosines.abs(), torch.ones_like(cosines))


def test_it_is_deterministic_and_leaves_the_random_state_alone():
    state = torch.get_rng_state()
    first = calibrated(make("llama"), calibration_replay=600)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    second = calibrated(make("llama"), calibration_replay=600)
    for (name, left), right in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(left, right), name


def test_tied_embeddings_are_not_touched():
    stock = make("llama")
    before = stock.model.embed_tokens.weight.clone()
    model = calibrated(stock)
    assert torch.equal(model.model.embed_tokens.weight, before)
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize("family", ["bert", "llama", "gpt2"])
def test_a_saved_model_comes_back_bit_for_bit(family, tmp_path):
    model = calibrated(make(family))
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert again.bcos_config == model.bcos_config
    for (name, left), right in zip(model.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(left, right), name


def test_the_report_tells_what_happened():
    model = calibrated(make("llama"), calibration_replay=600)
    report = model.bcos_config.calibration_report
    assert report["texts"] == 120
    assert report["tokens"] == sum(len(text) for text in texts())
    assert 0 < report["replayed_tokens"] <= 600
    assert 0 <= report["agreement"] <= 1
    assert report["loss_after"] > 0
    assert sum(report["ridges"].values()) == 14, "seven linear layers in each of two blocks"
    assert "calibration" in str(model.bcos_summary())
    assert get_bcos_model(make("llama"), BcosConfig()).bcos_config.calibration_report is None


def test_the_loss_of_the_report_is_the_models_own_on_texts_held_out():
    stock, data = make("llama"), texts()
    told = [data[i] for i in range(9, len(data), 10)]

    def loss(model) -> float:
        total, count = 0.0, 0
        for text in told:
            ids = torch.tensor([text])
            with torch.no_grad():
                total += float(model(input_ids=ids, labels=ids).loss) * (len(text) - 1)
            count += len(text) - 1
        return total / count

    before = loss(stock)
    model = calibrated(stock, data)
    report = model.bcos_config.calibration_report
    assert report["loss_before"] == pytest.approx(before, rel=1e-5)
    assert report["loss_after"] == pytest.approx(loss(model), rel=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gemma", "phi3"])
def test_predictions_are_as_sure_as_the_originals(family):
    stock = make(family)
    model = calibrated(copy.deepcopy(stock), b=1.5)
    factor = model.bcos_config.calibration_report["prediction_scale"]
    assert abs(factor - 1) > 0.05, "noise makes a model too sure, and shrunken fits too unsure"
    best = divergence(stock, model)
    assert best < divergence(stock, model, 1 / factor)
    assert best <= min(divergence(stock, model, other) for other in (0.98, 1.02))
    assert model.bcos_config.probe_residual < 1e-4


def test_without_a_last_norm_no_predictions_are_scaled():
    model = calibrated(make("opt"))  # a projection comes between its last norm and its head
    assert "prediction_scale" not in model.bcos_config.calibration_report


def test_low_precision_is_fitted_in_float32():
    stock = make("llama")
    model = calibrated(copy.deepcopy(stock).bfloat16())
    assert model.dtype == torch.bfloat16
    assert gap(model.float(), stock) < 0.95 * gap(get_bcos_model(copy.deepcopy(stock), BcosConfig(b=1.5)), stock)


def test_training_mode_and_gradients_are_as_before():
    stock = make("bert").train()
    stock.bert.embeddings.requires_grad_(False)
    model = calibrated(stock)
    assert all(module.training for module in model.modules())
    assert all(p.requires_grad == ("embeddings" not in name) for name, p in model.named_parameters())


@pytest.mark.parametrize(
    ("where", "family"),
    [
        ("convert", "bert"),
        ("convert_heads", "bert"),
        ("_fit_outside", "bert"),
        ("_refine", "bert"),
        ("_fit_scale", "llama"),
        ("_told_predictions", "llama"),
    ],
)
def test_a_failure_leaves_the_stock_model(where, family, monkeypatch):
    from bcos_peft.calibration import Calibration
    from bcos_peft.calibration.block_fit import _BlockFit

    stock = make(family)
    reference = copy.deepcopy(stock)
    owner = _BlockFit if where in ("convert", "_refine") else Calibration
    original, calls = getattr(owner, where), []

    def fail(self, *args, **kwargs):
        calls.append(where)
        result = original(self, *args, **kwargs)
        if len(calls) == 2 or where in ("convert_heads", "_fit_scale"):
            if where == "convert":
                result()  # the caller never gets it
            raise RuntimeError("stopped")
        return result

    monkeypatch.setattr(owner, where, fail)
    with pytest.raises(RuntimeError, match="stopped"):
        calibrated(stock)
    assert type(stock) is type(reference)
    assert str(stock) == str(reference)
    for (name, left), (other, right) in zip(stock.named_parameters(), reference.named_parameters(), strict=True):
        assert name == other
        assert torch.equal(left, right), name


class Columns(list):
    """What is needed of a `datasets.Dataset`."""

    column_names = ("text", "label")


@pytest.mark.parametrize("kind", ["texts", "pairs", "dicts", "batches", "dataset", "generator"])
def test_kinds_of_data(kind):
    tokenizer = tiny.tokenizer("wordpiece")
    sentences = ["the film is good and long", "a bad film", "it is what it is", "nothing more"] * 4
    data = {
        "texts": sentences,
        "pairs": [(text, "so they say") for text in sentences],
        "dicts": [{"text": text} for text in sentences],
        "batches": [tokenizer(sentences[i : i + 4], padding=True, return_tensors="pt") for i in range(0, 16, 4)],
        "dataset": Columns({"text": text, "label": 0} for text in sentences),
        "generator": (text for text in sentences),
    }[kind]
    config = BcosConfig(calibration_replay=0)
    model = get_bcos_model(make("bert"), config, calibration_data=data, tokenizer=tokenizer, progress=False)
    report = model.bcos_config.calibration_report
    assert report["texts"] == 16
    if kind != "pairs":
        assert report["tokens"] == sum(len(tokenizer(text)["input_ids"]) for text in sentences)


@pytest.mark.parametrize(
    ("data", "changes", "error", "message"),
    [
        (texts(5), {}, ValueError, "calibration_data has 5 texts; at least 8"),
        ("one text", {}, TypeError, "calibration_data must be an iterable"),
        (17, {}, TypeError, "calibration_data must be an iterable"),
        (["a text"] * 9, {}, TypeError, "tokenizer="),
        (texts(), {"normalize_weights": True}, ValueError, "normalize_weights=True"),
        (texts(), {"calibration": None}, ValueError, "calibration=None"),
        ([{"label": 1}] * 9, {}, ValueError, "neither 'input_ids' nor 'text'"),
    ],
)
def test_what_cannot_be_used_is_refused(data, changes, error, message):
    stock = make("bert")
    before = copy.deepcopy(stock.state_dict())
    with pytest.raises(error, match=message):
        get_bcos_model(stock, BcosConfig(**changes), calibration_data=data)
    assert type(stock).__name__ == "BertForSequenceClassification"
    assert all(torch.equal(value, before[name]) for name, value in stock.state_dict().items())


def test_weights_that_are_not_there_are_refused():
    with torch.device("meta"):
        stock = AutoModelForCausalLM.from_config(tiny.config("llama"))
    with pytest.raises(ValueError, match="meta device"):
        calibrated(stock)


def test_reading_stops_at_the_given_number_of_tokens():
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield [7] * 10

    model = calibrated(make("bert"), data=endless(), calibration_tokens=200)
    assert model.bcos_config.calibration_report["tokens"] == 200
    assert len(taken) == 21


def test_a_row_that_is_never_heard_keeps_a_finite_length():
    x = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
    weight[1] = 0
    fit = _fit_layers(x, [_Layer(weight, 2.0, x @ weight.t())], torch.arange(200) % 5 == 0)[0]
    assert torch.isfinite(fit.weight).all()
    assert fit.error < fit.error_before


@pytest.mark.parametrize(
    ("family", "value", "reader"),
    [
        ("llama", "model.layers.0.self_attn.v_proj", "model.layers.0.self_attn.o_proj"),
        ("bert", "bert.encoder.layer.0.attention.self.value", "bert.encoder.layer.0.attention.output.dense"),
    ],
)
def test_a_layer_that_was_pruned_stays_so_and_what_reads_it_is_left_alone(family, value, reader):
    stock = make(family)
    for parameter in stock.get_submodule(value).parameters():
        parameter.data.zero_()
    plain = get_bcos_model(copy.deepcopy(stock), BcosConfig(b=1.5))
    model = calibrated(copy.deepcopy(stock), calibration_epochs=0)
    assert not model.get_submodule(value).weight.any()
    assert torch.equal(model.get_submodule(reader).weight, stock.get_submodule(reader).weight)
    assert gap(model, stock) < gap(plain, stock)


def test_a_token_whose_embedding_is_zero_does_not_drown_the_others():
    stock = make("llama")
    stock.model.embed_tokens.weight.data[7] = 0
    plain = get_bcos_model(copy.deepcopy(stock), BcosConfig(b=1.5))
    model = calibrated(copy.deepcopy(stock), data=[[7, *ids] for ids in texts()])
    assert gap(model, stock) < 0.95 * gap(plain, stock)


def test_importance_is_relative_to_the_stream_unless_that_is_near_zero():
    stream = torch.diag(torch.tensor([1.0, 2.0, 0.5, 100.0, 0.0, 1e-30]))
    found = _importance_of(stream)
    assert torch.allclose(found[1:4] / found[0], torch.tensor([0.25, 4.0, 1e-4]))
    assert found[4] == found[5] <= 1e5 * found[0]
    assert torch.equal(_importance_of(torch.zeros(3, 2)), torch.ones(3))


def test_the_ridge_is_chosen_by_what_was_held_out():
    # Targets that are noise: nothing but the weight as it was may come out.
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(60, 40, generator=generator), torch.randn(3, 40, generator=generator)
    noise = x @ weight.t() + 30 * torch.randn(60, 3, generator=generator)
    fit = _fit_layers(x, [_Layer(weight, None, noise)], torch.arange(60) % 5 == 0)[0]
    assert fit.ridge is None or fit.ridge >= 1
    assert fit.error <= fit.error_before
