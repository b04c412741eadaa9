"""Models for embeddings: calibration fits the pooled hidden states too, without labels."""

import copy

import pytest
import torch
import transformers
from helpers import tiny
from helpers.calibration import calibrated, texts

from bcos_peft import BcosConfig, get_bcos_model
from bcos_peft.attribution import attribute
from bcos_peft.calibration import pooling_of
from bcos_peft.calibration.embeddings import _Embeddings, _Modules, _Pooled
from bcos_peft.models import family_of


STOCK = {
    "bert": transformers.BertModel,
    "roberta": transformers.RobertaModel,
    "modernbert": transformers.ModernBertModel,
    "llama": transformers.LlamaModel,
    "gpt2": transformers.GPT2Model,
}


def make(family, **kwargs):
    return tiny.model(family, cls=STOCK[family], **kwargs)


def far(model, stock):
    """1 − cosine of the embeddings of other texts, and the root mean squared error of their similarities."""
    ids = torch.randint(5, tiny.VOCAB_SIZE, (24, 12), generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        mask = torch.ones_like(ids).bool()
        mine, wanted = (
            torch.nn.functional.normalize(_Pooled("mean")(one(input_ids=ids)[0], mask).double(), dim=-1)
            for one in (model, stock)
        )
    apart = float(1 - (mine * wanted).sum(1).mean())
    return apart, float((mine @ mine.t() - wanted @ wanted.t()).square().mean().sqrt())


@pytest.mark.parametrize("padding", ["left", "right"])
def test_poolings_by_hand(padding):
    hidden = torch.tensor([[[1.0, 5.0], [3.0, 7.0], [8.0, 9.0]]] * 2)
    mask = torch.tensor([[1, 1, 1], [0, 1, 1] if padding == "left" else [1, 1, 0]]).bool()
    short = hidden[1][mask[1]]
    for how, wanted in (("mean", short.mean(0)), ("cls", short[0]), ("last", short[-1])):
        assert torch.equal(_Pooled(how)(hidden, mask)[1], wanted)
    assert torch.equal(_Pooled("cls")(hidden, mask)[0], hidden[0, 0])
    assert torch.equal(_Pooled("last")(hidden, mask)[0], hidden[0, 2])


def test_the_default_is_the_mean_or_the_last_token():
    for family, how in (("bert", "mean"), ("llama", "last")):
        model = make(family)
        assert pooling_of(model, family_of(model), BcosConfig())._how == how
        assert pooling_of(model, family_of(model), BcosConfig(calibration_pooling="cls"))._how == "cls"


def test_a_pooling_of_a_model_with_a_head_is_refused():
    stock = tiny.model("bert")
    before = {name: value.clone() for name, value in stock.state_dict().items()}
    with pytest.raises(ValueError, match="calibration_pooling='cls' is for models without a head.*Leave it out"):
        calibrated(stock, calibration_pooling="cls")
    assert type(stock) is transformers.BertForSequenceClassification
    assert all(torch.equal(value, before[name]) for name, value in stock.state_dict().items())


@pytest.mark.parametrize("family", STOCK)
def test_embeddings_of_other_texts_come_closer_than_by_blocks_alone(family):
    stock = make(family)
    how = pooling_of(stock, family_of(stock), BcosConfig())._how
    options = {"data": texts(200, seed=1), "b": 2.0, "calibration_epochs": 4}
    model = calibrated(copy.deepcopy(stock), **options)
    alone = calibrated(copy.deepcopy(stock), calibration_pooling="none", **options)
    report = model.bcos_config.calibration_report
    assert report["distillation"] < 1
    assert "embedding_cosine" not in alone.bcos_config.calibration_report
    if how == "mean":  # last tokens come closer on the texts held out, which the ratio is of, and hardly on others
        assert all(mine < theirs for mine, theirs in zip(far(model, stock), far(alone, stock), strict=True))
    assert model.bcos_config.probe_residual < 1e-4
    assert str(model) == str(alone)  # no corrections are left beside the weights


def test_the_certificate_holds_and_it_is_deterministic():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    one, two = (calibrated(make("bert", dtype=torch.float64), calibration_epochs=1) for _ in range(2))
    assert torch.equal(state, torch.get_rng_state())
    for left, right in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(left, right)
        assert left.requires_grad
    ids = torch.randint(5, tiny.VOCAB_SIZE, (1, 12), generator=torch.Generator().manual_seed(1))
    result = attribute(one, ids, output=lambda hidden: hidden[0].mean(1).sum(-1))
    assert float(result.residual.abs().max()) <= 1e-10 * float(result.scores.abs().sum())


def test_what_comes_after_the_transformer_stays():
    """Dense layers after the pooling take part, and are neither trained nor left in another mode."""

    class Dense(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.dropout = torch.nn.Linear(32, 8), torch.nn.Dropout(0.5)

        def forward(self, features):
            hidden, mask = features["token_embeddings"], features["attention_mask"]
            mean = _Pooled("mean")(hidden, mask.bool())
            return features | {"sentence_embedding": self.linear(self.dropout(mean))}

    after = Dense().train()
    before, pool = copy.deepcopy(after.state_dict()), _Modules([after])
    hidden, mask = torch.randn(2, 3, 32, requires_grad=True), torch.ones(2, 3).bool()
    found = pool(hidden, mask)
    torch.testing.assert_close(found, after.linear(hidden.mean(1)))
    found.sum().backward()
    assert hidden.grad.any()
    assert after.linear.weight.grad is None
    assert after.linear.weight.requires_grad
    assert after.dropout.training
    assert all(torch.equal(value, before[name]) for name, value in after.state_dict().items())


def test_what_does_not_help_is_not_kept(monkeypatch):
    stock = make("bert")
    monkeypatch.setattr("bcos_peft.calibration.embeddings._RATE", 100.0)
    model = calibrated(copy.deepcopy(stock), calibration_epochs=1)
    alone = calibrated(copy.deepcopy(stock), calibration_epochs=1, calibration_pooling="none")
    assert model.bcos_config.calibration_report["distillation"] == 1
    for left, right in zip(model.parameters(), alone.parameters(), strict=True):
        assert torch.equal(left, right)


def test_a_failure_while_learning_leaves_the_stock_model(monkeypatch):
    stock = make("bert")
    reference, calls, original = copy.deepcopy(stock), [], _Embeddings._error

    def fail(self, members):
        calls.append(members)
        if len(calls) > 4:
            raise RuntimeError("no memory left")
        return original(self, members)

    monkeypatch.setattr(_Embeddings, "_error", fail)
    with pytest.raises(RuntimeError, match="no memory left"):
        calibrated(stock, calibration_epochs=2)
    assert type(stock) is transformers.BertModel
    for (name, left), right in zip(stock.named_parameters(), reference.parameters(), strict=True):
        assert torch.equal(left, right), name
        assert left.requires_grad


def test_no_epochs_and_other_ways_leave_it_out():
    for changes in ({"calibration_epochs": 0}, {"calibration": "ridge"}):
        report = calibrated(make("bert"), **changes).bcos_config.calibration_report
        assert "distillation" not in report
        assert 0 < report["embedding_cosine"] <= 1
    model = get_bcos_model(make("bert"), BcosConfig())
    assert model.bcos_config.calibration_report is None


def test_a_model_in_low_precision_is_learnt_too():
    model = calibrated(make("bert", dtype=torch.bfloat16), calibration_epochs=1)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.bcos_config.calibration_report["distillation"] <= 1
