"""Refinement of blocks, and variations of texts."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers import tiny
from helpers.calibration import calibrated, gap, make, texts
from torch import nn

from bcos_peft import BcosConfig, get_bcos_model
from bcos_peft.calibration.refine import _Batch, _refine
from bcos_peft.calibration.texts import _gather, _variations


def batches(count: int = 4, dtype: torch.dtype = torch.float32) -> list[_Batch]:
    """A block is to give twice what it reads."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for _ in range(count):
        x = torch.randn(4, 5, 6, generator=generator).to(dtype)
        held_out = torch.zeros(4, 5, dtype=torch.bool)
        held_out[0] = True
        made.append(_Batch(((x,), {}), 2 * x, ~held_out, held_out))
    return made


def block(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)).to(dtype)


def error(model: nn.Module, found: list[_Batch]) -> float:
    with torch.no_grad():
        errors = [(model(b.call[0][0]) - b.wanted).square().sum(-1) / b.wanted.square().sum(-1) for b in found]
    return float(sum(e[b.held_out].sum() for e, b in zip(errors, found, strict=True)))


def test_the_error_on_what_was_held_out_falls_as_told():
    model, data = block(), batches()
    before = error(model, data)
    ratio = _refine(model, ["0.weight", "1.weight"], data, 30, torch.float32)
    assert ratio < 0.85
    assert error(model, data) == pytest.approx(ratio * before, rel=1e-5)


def test_only_the_named_weights_change_and_nothing_is_left_behind():
    model = block()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    _refine(model, ["0.weight"], batches(), 4, torch.float32)
    assert not torch.equal(model[0].weight, before["0.weight"])
    assert torch.equal(model[1].weight, before["1.weight"])
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_weights_that_fit_already_stay():
    model = nn.Linear(6, 6, bias=False)
    with torch.no_grad():
        model.weight.copy_(2 * torch.eye(6))
    assert _refine(model, ["weight"], batches(), 4, torch.float32) == 1
    assert torch.equal(model.weight, 2 * torch.eye(6))


def test_what_does_not_help_is_not_kept(monkeypatch):
    monkeypatch.setattr("bcos_peft.calibration.refine._RATE", 100.0)
    model = block()
    before = copy.deepcopy(model.state_dict())
    assert _refine(model, ["0.weight", "1.weight"], batches(), 3, torch.float32) == 1
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_without_tokens_to_fit_on_or_to_choose_by_nothing_changes():
    data = batches(1)[0]
    none, every = torch.zeros_like(data.fitted), torch.ones_like(data.fitted)
    for fitted, held_out in ((none, every), (every, none)):
        assert (
            _refine(block(), ["0.weight"], [_Batch(data.call, data.wanted, fitted, held_out)], 2, torch.float32) == 1
        )


def test_low_precision_is_trained_in_float32():
    model = block(torch.bfloat16)
    assert _refine(model, ["0.weight", "1.weight"], batches(dtype=torch.bfloat16), 30, torch.float32) < 0.9
    assert model[0].weight.dtype == torch.bfloat16


def hidden_error(model, stock) -> float:
    """Mean squared distance of the last hidden states on other texts, as a share of their squared length."""
    ids = torch.randint(5, tiny.VOCAB_SIZE, (8, 16), generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        found, wanted = (each.base_model(input_ids=ids).last_hidden_state for each in (model, stock))
    return float(((found - wanted).square().sum(-1) / wanted.square().sum(-1)).mean())


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra", "modernbert", "deberta-v2"])
def test_it_brings_hidden_states_of_other_texts_closer_than_the_fit_alone(family):
    stock = make(family)
    alone = calibrated(copy.deepcopy(stock), calibration_epochs=0)
    model = calibrated(copy.deepcopy(stock))
    assert "refinement" not in alone.bcos_config.calibration_report
    assert model.bcos_config.calibration_report["refinement"] < 1
    assert hidden_error(model, stock) < 0.95 * hidden_error(alone, stock)
    assert model.bcos_config.probe_residual < 1e-4


def test_classifiers_on_decoders_are_refined_too():
    model = calibrated(tiny.model("llama", "SequenceClassification"))
    assert model.bcos_config.calibration_report["refinement"] < 1


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_only_auto_refines(family):
    for changes in ({"calibration": "ridge"}, {"calibration": "rows"}, {"calibration_epochs": 0}):
        assert "refinement" not in calibrated(make(family), **changes).bcos_config.calibration_report


ROWS = [{"input_ids": [1, *range(10 * i, 10 * i + 5), 2], "token_type_ids": [0, 0, 0, 1, 1, 1, 1]} for i in (1, 2, 3)]


def test_variations_keep_the_frame_of_a_text():
    made = _variations(ROWS, tokens=200, vocabulary=100, kept={0})
    assert 200 <= sum(len(row["input_ids"]) for row in made) < 207
    for row in made:
        assert (row["input_ids"][0], row["input_ids"][-1]) == (1, 2)
        assert row["token_type_ids"] == ROWS[0]["token_type_ids"]
        assert not {0, 1, 2} & set(row["input_ids"][1:-1])
    assert len({tuple(row["input_ids"]) for row in made}) > 0.8 * len(made), "hardly one twice"
    assert made == _variations(ROWS, tokens=200, vocabulary=100, kept={0})


def test_texts_that_are_all_frame_have_no_variations():
    rows = [{"input_ids": [1, 2]}] * 3
    assert _variations(rows, tokens=5, vocabulary=3) == []
    assert _variations([{"input_ids": [1, 5, 2]}, {"input_ids": [1, 2]}], 6, 9, {0})[1] == {"input_ids": [1, 2]}


def test_variations_are_for_models_that_cannot_write():
    model = make("bert")
    found = _gather(model, [{"input_ids": text} for text in texts(50)], more=300)
    assert found.given == 50
    assert found.told == {9, 19, 29, 39, 49}
    assert found.tokens(50, len(found.rows)) == pytest.approx(300, abs=60)
    new = set(range(50, len(found.rows)))
    assert new <= set(found.fitted)
    assert 0 < len(found.chooses & new) < len(new) / 2
    assert not found.told & set(found.fitted)


def test_what_a_language_model_writes_is_not_varied():
    found = _gather(make("llama"), [{"input_ids": text} for text in texts(20)], more=20 * 128)
    lengths = {len(row["input_ids"]) for row in found.rows[20:]}
    assert len(lengths) == 1, "all as long"


def test_classifiers_are_calibrated_on_variations_and_say_so():
    stock = make("bert")
    model = calibrated(copy.deepcopy(stock), calibration_replay=600)
    report = model.bcos_config.calibration_report
    assert report["texts"] == 120
    assert report["tokens"] == sum(map(len, texts()))
    assert report["replayed_tokens"] == pytest.approx(600, abs=60)
    assert gap(model, stock) < gap(get_bcos_model(copy.deepcopy(stock), BcosConfig(b=1.5)), stock)
