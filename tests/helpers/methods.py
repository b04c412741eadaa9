"""Models and questions for attribution methods, and that methods leave models alone."""

import copy

import torch

from bcos_peft import BcosConfig, get_bcos_model
from bcos_peft.evaluation import Question, get_method
from helpers import tiny


def question(length=8, special=(0,), family="bert", target=1, foil=2):
    ids = tiny.inputs(1, length, None, family)["input_ids"][0]
    mask = torch.zeros(length, dtype=torch.bool)
    mask[list(special)] = True
    return Question(ids, target=target, foil=foil, special=mask)


def converted(family="bert", task="SequenceClassification", b=1.5):
    return get_bcos_model(tiny.model(family, task), BcosConfig(b=b))


def check_undisturbed(name, model):
    model.train()
    model.bert.pooler.eval()
    model.classifier.weight.requires_grad_(False)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    config = copy.deepcopy(model.config.to_dict())
    state = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    flags = [parameter.requires_grad for parameter in model.parameters()]
    with torch.no_grad():
        get_method(name)(model, question())
        assert not torch.is_grad_enabled()
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all((parameter.grad == 1).all() for parameter in model.parameters())
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert model.config.to_dict() == config
    for module in model.modules():
        for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
            # transformers puts hooks of its own where attention weights are asked for, once and for good.
            left = [hook for hook in getattr(module, kind).values() if not hook.__module__.startswith("transformers.")]
            assert not left, (name, kind)
        assert not hasattr(module, "input"), "captum's DeepLift keeps these while it runs"


class Bag(torch.nn.Module):
    """A model that is linear in its word embeddings: their weighted sum. Two classes."""

    def __init__(self, dimensions=4):
        super().__init__()
        torch.manual_seed(0)
        self.table = torch.nn.Embedding(tiny.VOCAB_SIZE, dimensions)
        self.weight = torch.nn.Parameter(torch.randn(64, 3, dimensions))
        self.config = tiny.config("bert")

    def get_input_embeddings(self):
        return self.table

    def forward(self, input_ids, attention_mask=None, **kwargs):
        words = self.table(input_ids)
        values = torch.einsum("bld,lcd->bc", words, self.weight[: words.shape[1]])
        return {"logits": values} if kwargs else values

    def exact(self, asked, reference):
        """The contribution of each token to the score, against a reference `(length, dimensions)`."""
        weight = self.weight[: len(asked), asked.target] - self.weight[: len(asked), asked.foil]
        return ((self.table(asked.input_ids) - reference) * weight).sum(-1).detach()
