"""The loss: BCE over classes for every kind of label, and what it refuses."""

import functools
import math

import pytest
import torch
from transformers.modeling_outputs import CausalLMOutputWithPast, SequenceClassifierOutput, TokenClassifierOutput

from bcos_peft import bcos_bce_loss


bce = torch.nn.functional.binary_cross_entropy_with_logits


def test_one_class_per_row_is_torchs_bce_on_one_hot_labels():
    logits = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 2, 1, 1, 0])
    expected = bce(logits, torch.nn.functional.one_hot(labels, 3).double())
    torch.testing.assert_close(bcos_bce_loss(SequenceClassifierOutput(logits=logits), labels), expected)
    torch.testing.assert_close(bcos_bce_loss((logits,), labels.unsqueeze(1)), expected)
    total = bcos_bce_loss({"logits": logits}, labels, class_reduction="sum")
    torch.testing.assert_close(total, 3 * expected)
    (gradient,) = torch.autograd.grad(expected, logits)
    (ours,) = torch.autograd.grad(bcos_bce_loss(logits, labels), logits)
    torch.testing.assert_close(ours, gradient)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.long, torch.bool])
def test_several_classes_per_row_are_used_as_they_are(dtype):
    logits = torch.randn(4, 3)
    labels = torch.tensor([[0, 1, 1], [0, 0, 0], [1, 1, 1], [1, 0, 0]])
    torch.testing.assert_close(bcos_bce_loss(logits, labels.to(dtype)), bce(logits, labels.float()))
    torch.testing.assert_close(
        bcos_bce_loss(logits, labels.to(dtype), class_reduction="sum"), 3 * bce(logits, labels.float())
    )


def test_soft_labels_and_ignored_entries_of_several_classes():
    logits = torch.randn(2, 3, requires_grad=True)
    labels = torch.tensor([[0.25, 1.0, -100.0], [-100.0, -100.0, 0.0]])
    counted = labels != -100
    loss = bcos_bce_loss(logits, labels)
    torch.testing.assert_close(loss, bce(logits[counted], labels[counted]))
    loss.backward()
    assert torch.equal(logits.grad != 0, counted)


def test_ignored_tokens_train_nothing():
    logits = torch.randn(2, 4, 5, requires_grad=True)
    labels = torch.tensor([[-100, 0, 3, -100], [4, -100, -100, -100]])
    kept = torch.stack([logits[0, 1], logits[0, 2], logits[1, 0]])
    expected = bce(kept, torch.nn.functional.one_hot(torch.tensor([0, 3, 4]), 5).float())
    loss = bcos_bce_loss(TokenClassifierOutput(logits=logits), labels)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert torch.equal(logits.grad.abs().sum(-1) != 0, labels != -100)


@pytest.mark.parametrize("items", [None, 0, 7, torch.tensor(0), torch.tensor(7)])
@pytest.mark.parametrize("labels", [torch.full((2, 4), -100), torch.full((2, 4, 5), -100.0)])
def test_a_batch_of_ignored_labels_gives_zero(labels, items):
    logits = torch.randn(2, 4, 5, requires_grad=True)
    loss = bcos_bce_loss(logits, labels, items)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("class_reduction", ["mean", "sum"])
def test_parts_add_up_to_the_whole_batch(several, class_reduction):
    """With -100 spread unevenly, and counted as the Trainer counts."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(8, 4, 3, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 2, (8, 4, 3) if several else (8, 4), generator=generator)
    labels[:2], labels[2:4, 1:], labels[5, 0] = -100, -100, -100
    labels = labels.double() if several else labels
    items = labels.ne(-100).sum()
    loss = functools.partial(bcos_bce_loss, class_reduction=class_reduction)
    parts = [loss(logits[i : i + 2], labels[i : i + 2], items) for i in range(0, 8, 2)]
    torch.testing.assert_close(sum(parts), loss(logits, labels))
    torch.testing.assert_close(sum(parts), loss(logits, labels, int(items)))


def test_the_count_that_data_parallel_repeats():
    """Over two devices the Trainer gives the count twice, and multiplies the mean of the loss by two."""
    logits, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    repeated = torch.tensor(4).unsqueeze(0).expand(2, -1)
    torch.testing.assert_close(2 * bcos_bce_loss(logits, labels, repeated).mean(), bcos_bce_loss(logits, labels))


def test_confident_mistakes_keep_their_gradient():
    logits = torch.tensor([[-200.0, 200.0]], requires_grad=True)
    loss = bcos_bce_loss(logits, torch.tensor([0]))
    loss.backward()
    assert loss.item() == 200
    torch.testing.assert_close(logits.grad, torch.tensor([[-0.5, 0.5]]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_give_a_float32_loss(dtype):
    logits = torch.randn(64, 3).to(dtype)
    labels = torch.arange(64) % 3
    loss = bcos_bce_loss(logits, labels)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, bce(logits.float(), torch.nn.functional.one_hot(labels, 3).float()))


def test_label_smoothing():
    logits, labels = torch.randn(2, 4), torch.tensor([3, 1])
    targets = torch.tensor([[0.025, 0.025, 0.025, 0.925], [0.025, 0.925, 0.025, 0.025]])
    torch.testing.assert_close(bcos_bce_loss(logits, labels, label_smoothing=0.1), bce(logits, targets))


def test_causal_language_models_are_shifted():
    logits, labels = torch.randn(2, 5, 7), torch.randint(0, 7, (2, 5))
    labels[0, 3] = -100
    expected = bcos_bce_loss(logits[:, :-1], labels[:, 1:])
    torch.testing.assert_close(bcos_bce_loss(CausalLMOutputWithPast(logits=logits), labels), expected)


TWO, ONE = torch.zeros(2, 3), torch.zeros(2, 1)


@pytest.mark.parametrize(
    ("outputs", "labels", "options", "match"),
    [
        (TWO, torch.tensor([0, 3]), {}, r"from 0 to 2: the model has 3 classes; got 3\. .*-100"),
        (TWO, torch.tensor([0, -1]), {}, "got -1"),
        (TWO, torch.tensor([0.0, 1.0]), {}, r"integers of shape \(2,\) .*numbers of shape \(2, 3\).*float32"),
        (TWO, torch.tensor([0, 1, 2]), {}, r"int64 of shape \(3,\)"),
        (TWO, torch.full((2, 3), 1.5), {}, "numbers from 0 to 1; got 1.5"),
        (TWO, torch.full((2, 3), math.nan), {}, "got nan"),
        (TWO, None, {}, "start_positions and end_positions.*leave compute_loss_func out"),
        (ONE, torch.tensor([0.3, 2.0]), {}, "num_labels=1.*leave compute_loss_func out.*num_labels=2"),
        (ONE, torch.tensor([[1.0], [0.0]]), {}, "num_labels=1"),
        ((torch.tensor(0.5), TWO), torch.tensor([0, 1]), {}, r"got \(\)\. .*without labels"),
        ({"start_logits": TWO}, torch.tensor([0, 1]), {}, "must have logits.*NoneType"),
        (TWO, torch.tensor([0, 1]), {"label_smoothing": 1.0}, "label_smoothing must be.*got 1.0"),
        (TWO, torch.tensor([0, 1]), {"class_reduction": "max"}, "class_reduction must be.*'max'"),
        (TWO, torch.zeros(2, 3), {"label_smoothing": 0.1}, "smooth the labels themselves"),
    ],
)
def test_what_does_not_fit_is_refused(outputs, labels, options, match):
    with pytest.raises(ValueError, match=match):
        bcos_bce_loss(outputs, labels, **options)


def test_labels_must_be_a_tensor():
    with pytest.raises(TypeError, match="labels must be a tensor, got list"):
        bcos_bce_loss(TWO, [0, 1])
