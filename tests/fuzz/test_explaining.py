"""Whatever is explained: contributions sum to the logit, alone as in a batch, and words are parts of the text."""

import pytest
import torch
from helpers import draws, tiny
from helpers.drawing import drawn
from helpers.explained import check_kept, check_reason, check_same, check_sum, check_words, close
from hypothesis import event
from hypothesis import strategies as st

from bcos_peft import Alternatives, attribute


pytestmark = pytest.mark.slow

LABELS = ["bad", "fair", "good"]


def outcome(call):
    try:
        return call()
    except (TypeError, ValueError) as error:
        event(f"refused: {str(error)[:40]}")
        check_reason(error)
        return None


@st.composite
def choices(draw, explainer, task, count):
    """A target, a foil and a position that exist."""
    options = {}
    pick = draw(st.sampled_from(["none", "none", "target", "foil", "all", "position", "each"]))
    names = {"SequenceClassification": LABELS, "QuestionAnswering": ["start", "end"]}.get(task)
    if task == "MaskedLM":
        wanted = st.integers(10, 200)
    elif names is None:
        wanted = st.integers(0, 2)
    else:
        wanted = st.sampled_from(names) | st.integers(0, len(names) - 1)
    if pick in ("target", "foil", "position"):
        options["target"] = draw(wanted)
    if pick == "each":
        options["target"] = draw(st.lists(wanted | st.none(), min_size=count, max_size=count))
    if pick == "foil" and task != "QuestionAnswering":
        options["foil"] = draw(wanted)
    if pick == "position" and task != "SequenceClassification":
        options["position"] = draw(st.integers(0, 3))
    if pick == "all" and task != "MaskedLM":
        options["target"] = "all"
    return options


@drawn(900)
def test_predictions(data):
    task = data.draw(st.sampled_from(tiny.TASKS), "task")
    families = list(tiny.FAMILIES)
    families += list(tiny.DECODERS) if task == "SequenceClassification" else []
    baseline = data.draw(st.sampled_from(["zero", "zero", "zero", "average"]), "baseline")
    explainer = data.draw(draws.explainers((task,), families, draws.KINDS, baseline=baseline))
    pairs = task == "QuestionAnswering" or data.draw(st.integers(0, 3), "pairs") == 0
    one = st.tuples(draws.texts(3), draws.texts(3)) if pairs else draws.texts()
    items = data.draw(st.lists(one, min_size=1, max_size=3), "items")
    options = data.draw(choices(explainer, task, len(items)), "options")
    options["split"] = data.draw(st.booleans(), "split")
    form, whole = draws.passed_as(data.draw, explainer.tokenizer, items)
    before = draws.state(explainer.model)
    together = outcome(lambda: explainer(items, **options))
    alone = []
    for i, item in enumerate(items):
        own = options | ({"target": options["target"][i]} if isinstance(options.get("target"), list) else {})
        alone.append(outcome(lambda item=item, own=own: explainer(item, **own)))
    again = outcome(lambda: explainer(form, **options))
    assert draws.state(explainer.model) == before
    if together is None:
        assert any(found is None for found in alone)
        return False
    assert all(found is not None for found in alone)
    assert again is not None or not whole
    rows = [row if isinstance(row, list) else [row] for row in together]
    for row, single, other in zip(rows, alone, again or [None] * len(rows), strict=True):
        single = single if isinstance(single, list) else [single]
        other = other if isinstance(other, list) else [other] * len(row)
        for found, lonely, formed in zip(row, single, other, strict=True):
            check_sum(found)
            check_words(found)
            check_kept(found)
            check_same(found, lonely)
            if formed is not None and whole is not None and found.token_ids == formed.token_ids:
                check_same(found, formed, text=whole)
                check_words(formed)


@drawn(400)
def test_continuations(data):
    families = list(tiny.DECODERS)
    explainer = data.draw(draws.explainers(("CausalLM",), families, draws.KINDS))
    known = explainer.tokenizer
    prompts = data.draw(st.lists(draws.texts(3), min_size=1, max_size=3), "prompts")
    wanted = st.none() | st.integers(10, 200) | draws.texts(1, special=False) | st.sampled_from([" film", "a", "4"])
    several = st.tuples(st.integers(10, 90), st.integers(91, 200)).map(lambda ids: Alternatives(*ids))
    target = data.draw(wanted | several, "target")
    foil = data.draw(st.none() | st.none() | st.integers(201, 300), "foil")
    options = {"target": target, "foil": foil, "contrast": data.draw(st.sampled_from(["runner_up", None]), "contrast")}
    before = draws.state(explainer.model)
    together = outcome(lambda: explainer.explain(prompts, **options))
    alone = [outcome(lambda prompt=prompt: explainer.explain(prompt, **options)) for prompt in prompts]
    assert draws.state(explainer.model) == before
    if together is None:
        assert None in alone
        return False
    for found, lonely, prompt in zip(together, alone, prompts, strict=True):
        check_sum(found)
        check_words(found)
        check_kept(found)
        check_same(found, lonely)
        ids = found.token_ids
        single = found.target_ids is None and found.position in (None, len(ids) - 1)
        if single and found.baseline is None:
            with torch.no_grad():
                logits = explainer.model(input_ids=torch.tensor([ids])).logits[0, -1].double()
            value = logits[found.target]
            if found.foil_ids:
                value = value - logits[found.foil_ids].mean()
            elif found.foil is not None:
                value = value - logits[found.foil]
            assert close(float(value), found.logit, float(logits.abs().max())), "the logit is the model's"
        if isinstance(target, str) and single and isinstance(prompt, str):
            said = known.decode([*ids, found.target], skip_special_tokens=True)
            assert said.endswith(target), (said, target)


@drawn(150)
def test_chats(data):
    explainer = data.draw(draws.explainers(("CausalLM",), ("llama", "gpt2", "qwen2", "gemma"), draws.KINDS))
    turns = data.draw(st.lists(draws.texts(2, special=False), min_size=1, max_size=3), "turns")
    messages = [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]
    found = outcome(lambda: explainer.explain(messages=messages))
    first = outcome(lambda: explainer.explain(messages))
    if found is None:
        assert first is None
        return False
    check_sum(found)
    check_words(found)
    check_kept(found)
    check_same(found, first)
    assert sum(found.by_segment().values()) == pytest.approx(found.total, abs=1e-5)
    assert len(found.segments) == len(messages)
    parts = [{"role": one["role"], "content": [{"type": "text", "text": one["content"]}]} for one in messages]
    check_same(found, explainer.explain(messages=parts))
    ids = explainer.explain(found.token_ids)
    check_same(found, ids, text=False)
    assert ids.special == found.special


@drawn(250)
def test_tensors(data):
    task = data.draw(st.sampled_from([*tiny.TASKS, "CausalLM"]), "task")
    families = {"CausalLM": tiny.DECODERS, "SequenceClassification": (*tiny.FAMILIES, *tiny.DECODERS)}
    explainer = data.draw(draws.explainers((task,), families.get(task, tiny.FAMILIES)))
    model = explainer.model
    pad = model.config.pad_token_id
    lengths = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=4), "lengths")
    left = data.draw(st.lists(st.booleans(), min_size=len(lengths), max_size=len(lengths)), "left")
    # Of like tokens more than one may be the best to explain, and rounding chooses.
    rows = [data.draw(st.lists(st.integers(10, 199), min_size=n, max_size=n, unique=True)) for n in lengths]
    width = max(lengths) + data.draw(st.integers(0, 2), "more")
    ids, mask = torch.full((len(rows), width), pad), torch.zeros(len(rows), width, dtype=torch.long)
    places = []
    for i, row in enumerate(rows):
        place = slice(width - len(row), width) if left[i] else slice(0, len(row))
        ids[i, place], mask[i, place] = torch.tensor(row), 1
        places.append(place)
    classes = {"QuestionAnswering": 2, "SequenceClassification": 3, "TokenClassification": 3}.get(task, 200)
    target = data.draw(st.none() | st.integers(0, classes - 1) | st.just("all" if classes < 9 else None), "target")
    options = {"target": target, "split": data.draw(st.booleans(), "split")}
    if classes > 2 and target != "all":
        options["foil"] = data.draw(st.none() | st.integers(0, classes - 1).filter(lambda foil: foil != target))
    if task == "TokenClassification" and data.draw(st.booleans()):
        options["position"] = torch.tensor([place.start for place in places])
    model.train(data.draw(st.booleans(), "training"))
    before = draws.state(model)
    found = outcome(lambda: attribute(model, ids, mask, **options))
    assert draws.state(model) == before
    model.eval()
    if found is None:
        return False
    scale = found.scores.abs().sum(-1)
    assert ((found.scores.sum(-1) - found.logit).abs() <= 1e-4 * scale + 1e-5).all()
    assert (found.scores * (1 - (mask[:, None] if found.scores.dim() == 3 else mask)) == 0).all(), "none for padding"
    if found.parts:
        assert ((sum(found.parts.values()) - found.scores).abs() <= 1e-4 * scale[..., None] + 1e-5).all()
    for i, row in enumerate(rows):
        own = options | ({"position": torch.tensor([0])} if "position" in options else {})
        if target is None:  # two outputs may be as good
            own["target"] = found.target[i : i + 1]
        if target is None and found.position is not None and task != "CausalLM":
            own["position"] = found.position[i : i + 1] - places[i].start
        one = attribute(model, torch.tensor([row]), **own)
        gap = (one.scores[0] - found.scores[i][..., places[i]]).abs().max()
        assert gap <= 1e-4 * float(scale[i].max()) + 1e-5
        assert torch.equal(one.target[0], found.target[i])
