"""Attribution methods of captum: against closed forms, and on tiny transformers."""

import sys

import pytest
import torch
from helpers import tiny
from helpers.methods import Bag, check_undisturbed, converted, question

from bcos_peft.evaluation import Metered, Question, get_method, score


pytestmark = pytest.mark.newest

GRADIENT = ["saliency", "input_x_gradient", "integrated_gradients", "deeplift"]
PERTURBATION = ["occlusion", "lime", "shapley_sampling", "kernel_shap"]
WITH_BASELINE = ["integrated_gradients", "deeplift", *PERTURBATION]
SUMS = ["integrated_gradients", "shapley_sampling", "kernel_shap"]


def reference(model, asked, baseline, token=None):
    """Word embeddings of the text without its words; special tokens stay."""
    found = model.table(asked.input_ids).detach().clone()
    found[~asked.special] = 0 if baseline == "zero" else model.table.weight[token].detach()
    return found


@pytest.mark.parametrize(("baseline", "token"), [("zero", None), ("mask", 5), ("pad", 7)])
@pytest.mark.parametrize("name", [name for name in WITH_BASELINE if name != "lime"])
def test_every_method_is_exact_on_a_linear_model(name, baseline, token):
    model, asked = Bag(), question(special=(0, 7))
    method = get_method(name, baseline=baseline, baseline_id=token)
    scores = method(model, asked)
    torch.testing.assert_close(
        scores, model.exact(asked, reference(model, asked, baseline, token)), rtol=1e-3, atol=2e-4
    )
    assert scores[0] == scores[7] == 0, "special tokens are never perturbed"
    assert scores[1:7].abs().min() > 1e-3
    if (residual := method.residual(model, asked, scores)) is not None:
        assert abs(residual) < 1e-3


def test_gradients_of_a_linear_model():
    model, asked = Bag(), question()
    weight = (model.weight[:8, 1] - model.weight[:8, 2]).detach()
    torch.testing.assert_close(get_method("saliency")(model, asked), weight.norm(dim=-1))
    torch.testing.assert_close(get_method("input_x_gradient")(model, asked), model.exact(asked, 0.0))


def test_lime_is_a_ridge_regression():
    """With many samples the coefficients shrink little, and rank as the contributions do."""
    model, asked = Bag(), question(special=(0, 7))
    exact = model.exact(asked, reference(model, asked, "zero"))
    scores = get_method("lime", samples=2000)(model, asked)
    torch.testing.assert_close(scores, exact, rtol=0.1, atol=0.1)
    assert scores.argsort().tolist() == exact.argsort().tolist()


def test_occlusion_by_hand():
    """A score is the fall of the logit where the mask token stands for the word."""
    model, asked = tiny.model(), question()
    scores = get_method("occlusion", baseline="mask", baseline_id=4)(model, asked)
    ids = asked.input_ids.clone()
    ids[3] = 4
    fall = score(model, asked) - score(model, Question(ids, asked.target, asked.foil))
    torch.testing.assert_close(scores[3], fall.detach(), rtol=1e-4, atol=1e-6)
    assert scores[0] == 0


def test_occlusion_of_neighbours():
    model, asked = Bag(), question(length=4, special=())
    exact = model.exact(asked, 0.0)
    pairs = torch.stack([exact[i] + exact[i + 1] for i in range(3)])
    means = torch.stack([pairs[0], (pairs[0] + pairs[1]) / 2, (pairs[1] + pairs[2]) / 2, pairs[2]])
    torch.testing.assert_close(get_method("occlusion", window=2)(model, asked), means, rtol=1e-4, atol=1e-5)
    whole = get_method("occlusion", window=99)(model, asked)
    torch.testing.assert_close(whole, exact.sum().expand(4), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["roberta", "xlm-roberta"])
def test_padding_as_a_baseline_moves_no_position(family):
    """RoBERTa counts positions from the ids that are no padding; perturbed words keep their places."""
    model, asked = tiny.model(family), question(family=family)
    scores = get_method("occlusion", baseline="pad")(model, asked)
    table = model.get_input_embeddings().weight
    saved = table[asked.input_ids[2]].clone()
    assert (asked.input_ids == asked.input_ids[2]).sum() == 1
    with torch.no_grad():
        before = score(model, asked)
        table[asked.input_ids[2]] = table[model.config.pad_token_id]
        after = score(model, asked)
        table[asked.input_ids[2]] = saved
    torch.testing.assert_close(scores[2], (before - after).detach(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("bcos", [False, True], ids=["stock", "bcos"])
@pytest.mark.parametrize(
    ("family", "task"),
    [("bert", "SequenceClassification"), ("gpt2", "SequenceClassification"), ("gpt2", "CausalLM")],
)
@pytest.mark.parametrize("name", [*GRADIENT, *PERTURBATION])
def test_transformers(name, family, task, bcos):
    model = converted(family, task) if bcos else tiny.model(family, task)
    asked = question(family=family)
    options = {"steps": 300} if name == "integrated_gradients" else {}
    method = get_method(name, **options)
    scores = method(model, asked)
    assert scores.shape == (8,)
    assert scores.dtype == torch.float32
    assert scores.isfinite().all()
    assert (scores[1:] != 0).all()
    assert torch.equal(scores, method(model, asked)), "the same call gives the same scores"
    if name in WITH_BASELINE:
        assert scores[0] == 0
    if name in SUMS:
        total = method.total(model, asked)
        assert abs(total) > 1e-3
        assert abs(method.residual(model, asked, scores)) < 0.02 * abs(total) + 1e-4


@pytest.mark.parametrize("name", [*GRADIENT, *PERTURBATION])
def test_the_foil_is_subtracted(name):
    model, asked = tiny.model(), question()
    method = get_method(name)
    alone, other = question(foil=None), question(target=2, foil=None)
    if name == "saliency":  # norms do not subtract
        assert not torch.allclose(method(model, asked), method(model, alone))
    else:
        difference = method(model, alone) - method(model, other)
        torch.testing.assert_close(method(model, asked), difference, rtol=1e-2, atol=1e-4)


def test_more_steps_come_nearer():
    model, asked = tiny.model("gpt2", "CausalLM"), question(family="gpt2")
    few, many = (get_method("integrated_gradients", steps=steps) for steps in (2, 100))
    gaps = [abs(method.residual(model, asked, method(model, asked))) for method in (few, many)]
    assert gaps[1] < 0.1 * gaps[0]


def test_batches_change_nothing():
    model, asked = tiny.model(), question()
    for name in ("integrated_gradients", *PERTURBATION):
        one, two = (get_method(name, batch_size=size)(model, asked) for size in (3, 64))
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-5)


def test_deeplift_misses_its_sum_on_transformers_and_says_so():
    """captum puts the rescale rule on no GELU, no softmax and no norm: the docstring promises nothing else."""
    model, asked = tiny.model(), question()
    method = get_method("deeplift")
    scores = method(model, asked)
    total = method.total(model, asked)
    residual = method.residual(model, asked, scores)
    assert residual == pytest.approx(total - scores.sum().item())
    assert abs(residual) > 0.05 * abs(total)
    assert "do not sum" in " ".join(type(method).__doc__.split())


def test_deeplift_rescales_the_activations_that_captum_knows():
    class Net(Bag):
        def __init__(self):
            super().__init__()
            self.act = torch.nn.Tanh()

        def forward(self, input_ids, attention_mask=None, **kwargs):
            return self.act(super().forward(input_ids) * 0.3)

    model, asked = Net(), question(foil=None)
    method = get_method("deeplift")
    scores = method(model, asked)
    assert abs(method.residual(model, asked, scores)) < 1e-4
    plain = get_method("input_x_gradient")
    assert abs(float(plain(model, asked)[1:].sum()) - method.total(model, asked)) > 1e-2


@pytest.mark.parametrize("name", [*GRADIENT, *PERTURBATION])
def test_the_model_comes_back_as_it_was(name):
    check_undisturbed(name, converted())


@pytest.mark.parametrize("name", PERTURBATION)
@pytest.mark.parametrize("length", [2, 3])
def test_few_words(name, length):
    model = tiny.model()
    special = (0,) if length == 2 else (0, 1, 2)
    scores = get_method(name)(model, question(length, special))
    assert scores[0] == 0
    assert (scores[1] != 0) == (length == 2)


def test_samples_are_drawn_by_the_seed():
    model, asked = tiny.model(), question()
    for name in ("lime", "shapley_sampling", "kernel_shap"):
        first, same, other = (get_method(name, seed=seed, samples=20)(model, asked) for seed in (0, 0, 1))
        assert torch.equal(first, same)
        assert not torch.equal(first, other)


def test_half_precision():
    model = tiny.model(dtype=torch.bfloat16)
    scores = get_method("integrated_gradients")(model, question())
    assert scores.dtype == torch.float32
    assert scores.isfinite().all()


def test_costs_are_counted():
    model, asked = tiny.model(), question()  # seven words
    wanted = {
        "saliency": (1, 1),
        "integrated_gradients": (50, 50),
        "deeplift": (2, 2),
        "occlusion": (8, 0),
        "lime": (200, 0),
        "shapley_sampling": (1 + 25 * 7, 0),
        "kernel_shap": (200, 0),
    }
    for name, counts in wanted.items():
        method = Metered(get_method(name))
        method(model, asked)
        assert (method.cost.forward_rows, method.cost.backward_rows) == counts, name
        assert method.cost.peak_memory > 0


def test_integrated_gradients_need_more_memory_in_larger_batches():
    model, asked = tiny.model(), question()
    small, large = (Metered(get_method("integrated_gradients", batch_size=size)) for size in (5, 50))
    small(model, asked)
    large(model, asked)
    assert large.cost.peak_memory > 5 * small.cost.peak_memory


def test_the_tokenizer_tells_the_baseline():
    tokenizer = tiny.tokenizer()
    method = get_method("occlusion", tokenizer)
    assert (method.baseline, method.baseline_id) == ("mask", tokenizer.mask_token_id)
    assert get_method("occlusion", tokenizer, baseline="pad").baseline_id == tokenizer.pad_token_id
    assert get_method("occlusion", tokenizer, baseline="zero").baseline_id is None
    assert get_method("occlusion").baseline == "zero"
    tokenizer.mask_token = None
    assert get_method("occlusion", tokenizer).baseline == "zero"


def test_refusals():
    with pytest.raises(ValueError, match="baseline='mask' needs the mask token: pass tokenizer"):
        get_method("lime", baseline="mask")
    with pytest.raises(ValueError, match="baseline='noise' is unknown; there are: mask, pad, zero"):
        get_method("lime", baseline="noise")
    with pytest.raises(ValueError, match="samples must be at least 1, got 0"):
        get_method("shapley_sampling", samples=0)
    for name, least in {"lime": 2, "kernel_shap": 3}.items():
        with pytest.raises(ValueError, match=f"samples must be at least {least}, got {least - 1}"):
            get_method(name, samples=least - 1)
        assert get_method(name, samples=least)(tiny.model(), question()).any()
    for options in ({"steps": "50"}, {"batch_size": 2.5}):
        (name,) = options
        with pytest.raises(TypeError, match=f"{name} must be a whole number, got {options[name]!r}"):
            get_method("integrated_gradients", **options)
    with pytest.raises(ValueError, match="window must be at least 1, got 0"):
        get_method("occlusion", window=0)
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        get_method("integrated_gradients", steps=0)
    model = tiny.model()
    model.config.pad_token_id = None
    with pytest.raises(ValueError, match="the model has no padding token"):
        get_method("occlusion", baseline="pad")(model, question())
    with pytest.raises(ValueError, match="no single row of logits"):
        get_method("saliency")(tiny.model(task="TokenClassification"), question())
    with pytest.raises(ValueError, match="no get_input_embeddings"):
        get_method("saliency")(torch.nn.Linear(2, 2), question())


def test_a_missing_package_is_told_before_anything_runs(monkeypatch):
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(ImportError, match=r'needs captum: pip install "bcos-peft\[evaluation\]"'):
        get_method("occlusion")
