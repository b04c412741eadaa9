"""What a B-cos adapter lies on: models that were converted or calibrated before, quantised ones, other ones."""

import copy

import pytest
import torch
from helpers.adapters import distance, logits, residual
from helpers.calibration import texts
from helpers.peft_method import from_disk, learnt, made, state, stock
from helpers.quantised import both, checkpoint, quantisation
from peft import PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, BertConfig, BertForSequenceClassification

import bcos_peft
from bcos_peft import BcosConfig, get_bcos_model


def test_converted_before(tmp_path):
    config = BcosConfig(b=1.5, task_type="SEQ_CLS")
    converted = get_bcos_model(from_disk(tmp_path / "base"), config)
    alone = logits(converted, "bert")
    model = learnt(get_peft_model(converted, config))
    with model.disable_adapter():
        assert torch.equal(logits(model, "bert"), alone)
    model.save_pretrained(tmp_path / "adapter")
    for base in (from_disk(tmp_path / "base"), get_bcos_model(from_disk(tmp_path / "base"), BcosConfig(b=1.5))):
        loaded = PeftModel.from_pretrained(base, tmp_path / "adapter")
        assert torch.equal(logits(loaded, "bert"), logits(model, "bert"))
    before = state(model)
    with pytest.raises(ValueError, match="it was converted before it got the adapter"):
        model.unload()
    assert state(model) == before
    assert type(model.merge_and_unload()).__name__ == "BcosBertForSequenceClassification"


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """The folder of a plain base, an adapter and a calibrated base, and the adapter's logits."""
    folder = tmp_path_factory.mktemp("calibrated")
    config = BcosConfig(b=1.5, calibration="ridge", calibration_replay=0, task_type="SEQ_CLS")
    model = get_bcos_model(from_disk(folder / "base"), config, calibration_data=texts(40), progress=False)
    model.save_pretrained(folder / "bcos")
    model = learnt(get_peft_model(model, config))
    model.save_pretrained(folder / "adapter")
    return folder, logits(model, "bert")


def test_an_adapter_of_a_calibrated_model_is_refused_by_the_stock_one(calibrated):
    folder, _ = calibrated
    base = from_disk(folder / "base")
    before = state(base)
    with pytest.raises(ValueError, match="Calibration changed the weights of the base.*model was not changed"):
        PeftModel.from_pretrained(base, folder / "adapter")
    assert state(base) == before
    with pytest.raises(ValueError, match="cannot be loaded alone. Calibration changed the weights"):
        bcos_peft.load(folder / "adapter")


def test_and_goes_on_the_calibrated_one(calibrated):
    folder, after = calibrated
    model = bcos_peft.load(folder / "adapter", base=str(folder / "bcos"))
    assert torch.equal(logits(model, "bert"), after)
    assert residual(model, "bert") < 1e-5


def test_an_adapter_on_a_saved_bcos_model_travels_alone(calibrated, tmp_path):
    folder, _ = calibrated
    base = bcos_peft.models.BcosBertForSequenceClassification.from_pretrained(folder / "bcos")
    model = learnt(get_peft_model(base, base.bcos_config))
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(bcos_peft.load(tmp_path), "bert"), logits(model, "bert"))


def test_another_base_is_refused_and_left_as_it_was(tmp_path):
    made(stock()).save_pretrained(tmp_path)
    others = [stock(), stock()]
    others[0].bert.encoder.layer[0].output.dense.weight.data *= 1.1
    others[1].bert.embeddings.word_embeddings.weight.data[:, :9] += 0.1
    for base in others:
        before, numbers = state(base), logits(base, "bert")
        with pytest.raises(ValueError, match="does not give the logits of before saving"):
            PeftModel.from_pretrained(base, tmp_path)
        assert state(base) == before
        assert torch.equal(logits(base, "bert"), numbers)


def test_a_base_of_another_class_is_refused(tmp_path):
    made(stock()).save_pretrained(tmp_path)
    base = stock("roberta")
    before = state(base)
    with pytest.raises(ValueError, match="is of a BertForSequenceClassification, and this is a RobertaFor"):
        PeftModel.from_pretrained(base, tmp_path)
    assert state(base) == before


def test_a_head_of_its_own_needs_no_head_below(tmp_path):
    """As when a classifier is trained on a model that had none: the base gets a new random one each time."""
    model = made(from_disk(tmp_path / "base"))
    model.save_pretrained(tmp_path / "adapter")
    base = from_disk(tmp_path / "base")
    base.classifier.weight.data.normal_()
    loaded = PeftModel.from_pretrained(base, tmp_path / "adapter")
    assert torch.equal(logits(loaded, "bert"), logits(model, "bert"))


@pytest.mark.newest
@both
def test_quantised(bits, tmp_path):
    checkpoint(tmp_path / "base")

    def base():
        load = AutoModelForCausalLM.from_pretrained
        return load(tmp_path / "base", quantization_config=quantisation(bits), dtype=torch.float32).eval()

    model = base()
    numbers = logits(model)
    adapted = made(model, "llama")
    after = logits(adapted)
    assert residual(adapted) < 1e-4
    with adapted.disable_adapter():
        assert torch.equal(logits(adapted), numbers)
    adapted.save_pretrained(tmp_path / "adapter")
    assert distance(logits(PeftModel.from_pretrained(base(), tmp_path / "adapter")), after) < 1e-5
    assert distance(logits(bcos_peft.load(tmp_path / "adapter")), after) < 1e-5
    assert torch.equal(logits(adapted.unload()), numbers)
    merged = made(model, "llama").merge_and_unload()
    assert distance(logits(merged), after) < 1e-5


def test_normalised_rows_keep_their_gains(tmp_path):
    model = made(stock(), normalize_weights=True)
    before = logits(model, "bert")
    merged = model.merge_and_unload()
    assert any("gain" in name for name, _ in merged.named_parameters())
    merged.save_pretrained(tmp_path)
    loaded = type(merged).from_pretrained(tmp_path)
    assert distance(logits(loaded.eval(), "bert"), before) < 1e-6


def test_modules_in_two_places():
    """A block that is used twice has one norm, and one copy of it."""
    small = BertConfig(num_hidden_layers=2, hidden_size=32, num_attention_heads=2, vocab_size=320)
    torch.manual_seed(0)
    model = BertForSequenceClassification(small).eval()
    model.bert.encoder.layer[1] = model.bert.encoder.layer[0]
    before = state(model)
    adapted = made(copy.deepcopy(model))
    first, second = adapted.base_model.model.bert.encoder.layer
    assert first is second
    assert residual(adapted, "bert") < 1e-5
    assert state(adapted.unload()) == before
