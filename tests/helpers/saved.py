"""Models and what saving must keep of them."""

import torch

from bcos_peft import BcosConfig, get_bcos_model
from helpers import tiny


def converted(family="bert", task="SequenceClassification", config=None, **changes):
    return get_bcos_model(tiny.model(family, task, **changes), config or BcosConfig(b=1.5), verify=False)


def outputs(model, family="bert"):
    with torch.no_grad():
        values = model.eval()(**tiny.inputs(family=family), output_hidden_states=True)
    return [value for value in values.to_tuple() if isinstance(value, torch.Tensor)] + list(values.hidden_states)


def assert_same(one, other, family="bert"):
    pairs = list(zip(outputs(one, family), outputs(other, family), strict=True))
    assert len(pairs) >= 2
    assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)
