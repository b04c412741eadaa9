"""get_bcos_model with tables of one's own, and the verification that catches wrong ones."""

import dataclasses
import pickle

import pytest
import torch
from helpers import tiny
from helpers.conversion import assert_refused
from helpers.opaque import Opaque
from torch import nn
from transformers import BertForSequenceClassification, BertModel, BertPreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from bcos_peft import BcosConfig, attribute, get_bcos_model
from bcos_peft.families import Family, find_family


class Squashed(BertForSequenceClassification):
    """Something non-linear in a forward, where no table and no operation shows it."""

    def forward(self, input_ids=None, attention_mask=None, **kwargs):
        pooled = self.bert(input_ids, attention_mask=attention_mask).pooler_output
        return SequenceClassifierOutput(logits=self.classifier(Opaque.apply(pooled)))


def family_for(*architectures, **changes):
    return dataclasses.replace(find_family("bert"), architectures=architectures, **changes)


@pytest.fixture
def keep_tables():
    """Conversions with a table of one's own register it; put the package's back."""
    from bcos_peft.families import base, register_family
    from bcos_peft.models.registration import _register

    before = dict(base._FAMILIES)
    yield
    base._FAMILIES.clear()
    for table in before.values():
        register_family(table)
    _register(find_family("bert"))


def test_verification_refuses_what_is_not_linear(keep_tables):
    model = tiny.model(cls=Squashed)
    match = "The converted BcosSquashed is not linear in its input.*It calls .*Opaque: an autograd.Function"
    assert_refused(model, match=match, family=family_for("Squashed"))
    assert find_family("bert").architectures != ("Squashed",)
    get_bcos_model(model, family=family_for("Squashed"), verify=False)
    result = attribute(model, **tiny.inputs())
    assert (result.residual.abs() > 1e-3 * result.logit.abs()).all(), "the residual tells"


@pytest.mark.parametrize(("dtype", "weight"), [(torch.float32, float("inf")), (torch.float16, 6e4)])
def test_weights_that_give_no_numbers_are_told_from_what_is_not_linear(dtype, weight):
    model = tiny.model("llama", "CausalLM", dtype=dtype)
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.fill_(weight)
    assert_refused(model, match=f"no finite logits on a probe in {dtype}: a weight is not")


def test_a_class_without_a_table_is_read():
    model = get_bcos_model(tiny.model(cls=MeanPooled, dtype=torch.float64))
    assert model.bcos_family.parts["word"] == "embeddings.word_embeddings"
    assert attribute(model, **tiny.inputs()).residual.abs().max() < 1e-10
    assert_refused(tiny.model(cls=Squashed), match="is not linear in its input")


def test_a_class_with_the_name_of_a_stock_one_is_itself():
    """What decides is the class, not its name: the forward that verification sees is the model's own."""
    namesake = type("BertForSequenceClassification", (Squashed,), {"__module__": __name__})
    assert_refused(tiny.model(cls=namesake), match="is not linear in its input")


class MeanPooled(BertPreTrainedModel):
    """A head of one's own on a stock encoder."""

    def __init__(self, config):
        super().__init__(config)
        self.bert = BertModel(config, add_pooling_layer=False)
        self.rank = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(self, input_ids=None, attention_mask=None):
        hidden = self.bert(input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask[..., None].to(hidden.dtype)
        return SequenceClassifierOutput(logits=self.rank((hidden * mask).sum(1) / mask.sum(1)))


def test_a_family_of_ones_own(keep_tables, tmp_path):
    model = tiny.model(cls=MeanPooled, dtype=torch.float64)
    get_bcos_model(model, BcosConfig(b=1.5), family=family_for("MeanPooled"))
    assert isinstance(model, MeanPooled)
    assert type(model).__name__ == "BcosMeanPooled"
    inputs = tiny.inputs(3, 9, "left")
    result = attribute(model, **inputs)
    assert result.residual.abs().max() < 1e-10
    twin = pickle.loads(pickle.dumps(model))
    assert torch.equal(attribute(twin, **inputs).scores, result.scores)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, dtype=torch.float64)
    assert torch.equal(attribute(loaded, **inputs).scores, result.scores)


def test_a_changed_table_for_a_stock_class_counts(keep_tables):
    table = dataclasses.replace(find_family("bert"), plain=(r"attention\.self\.query",))
    model = get_bcos_model(tiny.model(), family=table)
    assert model.bcos_family is table
    assert model.bert.encoder.layer[0].attention.self.key.b == 1.25


@pytest.mark.parametrize(
    ("family", "error", "match"),
    [
        ("bert", TypeError, "family must be a bcos_peft.families.Family, got str"),
        (find_family("roberta"), ValueError, "family is for model_type 'roberta'; this model's is 'bert'"),
        (dataclasses.replace(find_family("bert"), parts={"word": "embedings"}), ValueError, "has no such module"),
    ],
    ids=["not a table", "another architecture", "a typing error"],
)
def test_refuses_tables_that_do_not_fit(family, error, match):
    assert_refused(tiny.model(), error=error, match=match, family=family)


def test_a_table_says_where_the_input_enters():
    assert isinstance(find_family("bert"), Family)
    with pytest.raises(dataclasses.FrozenInstanceError):
        find_family("bert").parts = {}
