"""What a converted language model learns from its own earlier predictions."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers import tiny
from helpers.calibration import calibrated, divergence, make, texts
from torch import nn

from bcos_peft.attribution import attribute
from bcos_peft.calibration.distill import _RANK, _Correction, _corrections, _Distillation, _Head
from bcos_peft.nn import BcosConv1D


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox"])
def test_the_divergence_is_that_of_the_logits(family):
    """In parts of 256 tokens, with soft caps, and with its gradient."""
    model = make(family, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    theirs, mine = torch.randn(2, 600, model.config.hidden_size, generator=generator, dtype=torch.float64)
    mine.requires_grad_()
    head, cap = model.get_output_embeddings(), getattr(model.config, "final_logit_softcapping", None)

    def log_probabilities(hidden):
        logits = head(hidden)
        return (cap * torch.tanh(logits / cap) if cap else logits).log_softmax(-1)

    wanted, found = log_probabilities(theirs).detach(), log_probabilities(mine)
    expected = (wanted.exp() * (wanted - found)).sum()
    (gradient,) = torch.autograd.grad(expected, mine)
    result = _Head(model).divergence(theirs, mine)
    # Logits are compared in float32.
    assert float(result.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    torch.testing.assert_close(torch.autograd.grad(result, mine)[0], gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("transposed", [False, True])
def test_a_correction_is_of_low_rank_with_a_factor_for_each_row(transposed):
    weight = torch.randn(50, 40, generator=torch.Generator().manual_seed(0))
    correction = _Correction(weight.t() if transposed else weight, transposed, torch.Generator().manual_seed(1))
    with torch.no_grad():
        correction.rows.normal_(generator=torch.Generator().manual_seed(2))
        changed = correction(weight.t() if transposed else weight)
        changed = changed.t() if transposed else changed
        assert torch.linalg.matrix_rank(changed - weight) == _RANK < 40  # and not more
        correction.rows.zero_()
        correction.factors[3] = 1
        scaled = correction(weight.t() if transposed else weight)
        scaled = scaled.t() if transposed else scaled
    torch.testing.assert_close(scaled[3], 2 * weight[3])
    assert torch.equal(scaled[:3], weight[:3])


def two_layers() -> nn.ModuleList:
    torch.manual_seed(0)
    transposed = BcosConv1D(4, 6)
    transposed.b, transposed.bias = None, None
    return nn.ModuleList([nn.Linear(6, 4, bias=False), transposed, nn.Linear(4, 4, bias=False)])


def state(model: nn.Module) -> list:
    return [
        (name, id(parameter), parameter.requires_grad, parameter.detach().clone())
        for name, parameter in model.named_parameters()
    ]


def test_corrections_become_part_of_the_weights_and_leave_nothing_behind():
    model = two_layers()
    model[2].weight.requires_grad_(False)
    before, text = state(model), str(model)
    with _corrections(model, list(model)[:2]) as made:
        assert all(
            p.requires_grad == ("parametrizations" in n and "original" not in n) for n, p in model.named_parameters()
        )
        with torch.no_grad():
            for correction in made:
                correction.factors.fill_(0.5)
    assert str(model) == text
    for (name, identity, needed, value), (other, same, flag, now) in zip(before, state(model), strict=True):
        assert (name, identity, needed) == (other, same, flag)
        torch.testing.assert_close(now, 1.5 * value if name in ("0.weight", "1.weight") else value)


def test_after_a_failure_the_weights_are_what_they_were():
    model = two_layers()
    before, text = state(model), str(model)
    with pytest.raises(RuntimeError, match="shape"), torch.no_grad(), _corrections(model, list(model)) as made:
        made[0].factors.fill_(0.5).reshape(99)
    assert str(model) == text
    for (name, identity, needed, value), (other, same, flag, now) in zip(before, state(model), strict=True):
        assert (name, identity, needed) == (other, same, flag)
        assert torch.equal(value, now)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "gpt_neox", "opt", "phi3", "mixtral"])
def test_predictions_on_other_texts_come_closer_than_by_the_fit_alone(family):
    """On texts that nothing was fitted on, for decoders of every kind; contributions still sum."""
    stock = make(family)
    alone = calibrated(copy.deepcopy(stock), texts(400, seed=1), calibration_epochs=0)
    model = calibrated(copy.deepcopy(stock), texts(400, seed=1), calibration_epochs=4)
    assert model.bcos_config.calibration_report["refinement"] < 1
    assert divergence(stock, model) < divergence(stock, alone)
    assert model.bcos_config.probe_residual < 1e-4
    assert str(model) == str(alone)


def test_the_certificate_holds_in_float64():
    model = calibrated(make("llama", dtype=torch.float64))
    assert model.bcos_config.calibration_report["refinement"] < 1
    ids = torch.randint(5, tiny.VOCAB_SIZE, (1, 12), generator=torch.Generator().manual_seed(1))
    result = attribute(model, ids)
    assert float(result.residual.abs().max()) <= 1e-10 * float(result.scores.abs().sum())


def test_what_does_not_help_is_not_kept(monkeypatch):
    alone = calibrated(make("llama"), calibration_epochs=0)
    monkeypatch.setattr("bcos_peft.calibration.distill._RATE", 100.0)
    model = calibrated(make("llama"))
    assert model.bcos_config.calibration_report["refinement"] == 1
    for (name, left), right in zip(model.named_parameters(), alone.parameters(), strict=True):
        assert torch.equal(left, right), name


def test_a_model_in_low_precision_learns_too():
    model = calibrated(make("llama", dtype=torch.bfloat16), calibration_epochs=2)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.bcos_config.calibration_report["refinement"] < 1


def test_a_failure_while_learning_leaves_the_stock_model(monkeypatch):
    stock = make("llama")
    reference, calls, original = copy.deepcopy(stock), [], _Distillation._divergence

    def fail(self, members):
        calls.append(members)
        if len(calls) == 20:
            raise RuntimeError("stopped")
        return original(self, members)

    monkeypatch.setattr(_Distillation, "_divergence", fail)
    with pytest.raises(RuntimeError, match="stopped"):
        calibrated(stock, texts(300), calibration_epochs=5)
    assert str(stock) == str(reference)
    for (name, left), (other, right) in zip(stock.named_parameters(), reference.named_parameters(), strict=True):
        assert (name, left.requires_grad) == (other, right.requires_grad)
        assert torch.equal(left, right), name


def test_gradients_are_asked_for_as_before():
    stock = make("llama").train()
    stock.model.embed_tokens.requires_grad_(False)
    model = calibrated(stock)
    assert all(module.training for module in model.modules())
    assert all(p.requires_grad == ("embed_tokens" not in name) for name, p in model.named_parameters())
    assert all(p.grad is None for p in model.parameters())
