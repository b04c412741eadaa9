"""Whatever is refused leaves everything as it was, and says why; whatever is saved is the same when it is loaded."""

import os
import tempfile
from pathlib import Path

import pytest
import torch
from helpers import draws, tiny
from helpers.drawing import drawn
from helpers.explained import check_reason
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from bcos_peft import BcosConfig, BcosExplainer, get_bcos_model
from bcos_peft.models import BcosModel


pytestmark = pytest.mark.slow

WRONG_INPUTS = [
    5,
    [],
    "",
    None,
    {"words": "a"},
    [["a", "b", "c"]],
    ["a", 5],
    b"a",
    [[]],
    {"input_ids": []},
    [3.5],
    "\ud800",
]
WRONG_OPTIONS = [
    {"target": 10**6}, {"target": "no such"}, {"target": -1}, {"target": 1.5}, {"target": True},
    {"target": [0, 1, 2, 0, 1]},
    {"foil": 10**6}, {"target": 1, "foil": 1}, {"foil": "no such"}, {"position": -1}, {"position": 10**6},
    {"position": "0"}, {"span": (5, 2)}, {"span": "no such words"}, {"span": 3}, {"split": "no"}, {"split": 1},
    {"truncation": "only_second"}, {"truncation": None}, {"text_column": "text"}, {"target": "all", "foil": 0},
]  # fmt: skip
WRONG_CONFIGS = [
    {"b": 0.5}, {"b": float("nan")}, {"b": "2"}, {"gates": "open"}, {"pooler_activation": "tanh"},
    {"b_pattern": {"nowhere": 2.0}}, {"b_pattern": {"(": 2.0}}, {"target_modules": ["nowhere"]},
    {"exclude_modules": 3},
    {"remove_bias": False}, {"calibration": "ridges"}, {"calibration_tokens": 0}, {"align": "no"},
    {"normalize_weights": 1}, {"convert_head": None}, {"calibration_replay": -1},
]  # fmt: skip


@drawn(200)
def test_explainers_refuse(data):
    task = data.draw(st.sampled_from(tiny.TASKS), "task")
    explainer = data.draw(draws.explainers((task,), kinds=draws.KINDS))
    item = data.draw(st.tuples(draws.texts(2), draws.texts(2)) if task == "QuestionAnswering" else draws.texts(2))
    inputs, options = item, {}
    if data.draw(st.booleans(), "inputs are wrong"):
        inputs = data.draw(st.sampled_from(WRONG_INPUTS), "inputs")
    else:
        options = data.draw(st.sampled_from(WRONG_OPTIONS), "options")
    explainer.model.train(data.draw(st.booleans(), "training"))
    before = draws.state(explainer.model)
    with pytest.raises((TypeError, ValueError)) as caught:
        explainer(inputs, **options)
    check_reason(caught.value)
    assert draws.state(explainer.model) == before
    explainer.model.eval()


@drawn(100)
def test_conversions_refuse(data):
    task, family = data.draw(
        st.sampled_from([("SequenceClassification", f) for f in (*tiny.FAMILIES, *tiny.DECODERS)])
    )
    options = data.draw(st.sampled_from(WRONG_CONFIGS), "options")
    options = options | data.draw(
        st.sampled_from([{}, {"normalize_weights": True}, {"b": 1.5}]).filter(
            lambda more: not more.keys() & options.keys()
        )
    )
    stock = tiny.model(family, task)
    inputs = tiny.inputs(family=family)
    with torch.no_grad():
        logits = stock(**inputs).logits
    before = draws.state(stock)
    try:
        converted = get_bcos_model(stock, BcosConfig(**options))
    except (TypeError, ValueError) as error:
        check_reason(error)
    else:
        assert options.get("remove_bias") is False, "what is wrong is refused"  # but for a model without biases
        assert isinstance(converted, BcosModel)
        return False
    assert not isinstance(stock, BcosModel)
    assert draws.state(stock) == before
    with torch.no_grad():
        assert torch.equal(stock(**inputs).logits, logits)


@drawn(80)
def test_saving(data):
    task = data.draw(st.sampled_from(["SequenceClassification", "CausalLM"]), "task")
    families = tiny.DECODERS if task == "CausalLM" else (*tiny.FAMILIES, *tiny.DECODERS)
    explainer = data.draw(draws.explainers((task,), families, draws.KINDS))
    text = data.draw(draws.texts(), "text")
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        sizes = st.sampled_from([{}, {"max_shard_size": "30KB"}, {"remote_code": True}])
        explainer.model.save_pretrained(folder, **data.draw(sizes, "options"))
        auto = AutoModelForCausalLM if task == "CausalLM" else AutoModelForSequenceClassification
        loaded = auto.from_pretrained(folder).eval()
        assert not list(Path(folder).glob(".saving-*"))
    assert type(loaded) is type(explainer.model)
    assert loaded.bcos_config == explainer.model.bcos_config
    inputs = {"input_ids": torch.tensor([data.draw(st.lists(st.integers(10, 199), min_size=1, max_size=9))])}
    with torch.no_grad():
        # To rounding, which depends on where weights lie in memory.
        assert torch.allclose(loaded(**inputs).logits, explainer.model(**inputs).logits, rtol=1e-5, atol=1e-5)
    assert all(torch.equal(p, q) for p, q in zip(loaded.parameters(), explainer.model.parameters(), strict=True))
    try:
        found = explainer(text)
    except ValueError:
        return False
    again = BcosExplainer(loaded, explainer.tokenizer, progress=False)(text)
    kept, same = again.to_dict(), found.to_dict()
    for name in ("scores", "logit", "residual", "probability"):
        assert kept.pop(name) == pytest.approx(same.pop(name), rel=1e-4, abs=1e-4)
    assert kept == same
