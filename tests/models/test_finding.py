"""Which model is explained, when what is passed holds one, or more than one."""

import pytest
import torch
from helpers import tiny
from torch import nn

from bcos_peft import BcosConfig, BcosExplainer, attribute, explanation_mode, get_bcos_model
from bcos_peft.models import find_bcos_model


def converted(seed=0, **options):
    return get_bcos_model(tiny.model("bert", seed=seed, **options), BcosConfig())


class Two(nn.Module):
    """Two models whose logits are added."""

    def __init__(self, first, second):
        super().__init__()
        self.first, self.second = first, second

    def forward(self, **inputs):
        output = self.first(**inputs)
        output.logits = output.logits + self.second(**inputs).logits
        return output


def test_a_module_with_two_converted_models_is_refused():
    two = Two(converted(), converted(seed=1))
    for call in (
        lambda: attribute(two, **tiny.inputs()),
        lambda: BcosExplainer(two, tiny.tokenizer()),
        lambda: explanation_mode(two).__enter__(),
        lambda: find_bcos_model(nn.ModuleList([two.second, two.first])),
    ):
        with pytest.raises(ValueError, match=r"holds 2 converted models: .*pass one of them, such as model\."):
            call()
    assert not any(getattr(module, "explaining", False) for module in two.modules())


def test_one_model_in_two_places_is_one():
    model = converted()
    holder = Two(model, model)
    assert find_bcos_model(holder) is model
    with pytest.raises(ValueError, match="not a B-cos model"):
        find_bcos_model(Two(tiny.model("bert"), tiny.model("bert")))


@pytest.mark.newest
@pytest.mark.parametrize("labels", [1, 3])
@pytest.mark.parametrize("saved", [True, False], ids=["loaded", "converted inside"])
def test_a_cross_encoder_is_explained_by_its_logits(tmp_path, labels, saved):
    from sentence_transformers import CrossEncoder

    model, tokenizer = tiny.model("bert", num_labels=labels), tiny.tokenizer()
    (get_bcos_model(model, BcosConfig()) if saved else model).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    encoder = CrossEncoder(str(tmp_path))
    if not saved:
        get_bcos_model(encoder.model, BcosConfig())
    pair = ("a good film", "was it")
    expected = torch.tensor(encoder.predict([pair], activation_fn=nn.Identity())).flatten()
    for target in range(labels):
        found = BcosExplainer(encoder, tokenizer)(pair, target=target)
        alone = BcosExplainer(encoder.model, tokenizer)(pair, target=target)
        assert found.logit == pytest.approx(float(expected[target]), abs=1e-6)
        assert abs(found.residual) < 1e-5
        assert found.scores.tolist() == alone.scores.tolist()
    if labels == 1:
        assert found.probability == pytest.approx(float(encoder.predict([pair])[0]), abs=1e-6)


@pytest.mark.newest
def test_what_sentence_transformers_computes_beyond_logits_is_refused(tmp_path):
    converted().save_pretrained(tmp_path)
    tokenizer = tiny.tokenizer()
    tokenizer.save_pretrained(tmp_path)
    from sentence_transformers import SentenceTransformer

    embedder = SentenceTransformer(str(tmp_path))
    with pytest.raises(ValueError, match=r"SentenceTransformer of Transformer and Pooling .*CrossEncoder\(\.\.\.\)"):
        BcosExplainer(embedder, tokenizer)
