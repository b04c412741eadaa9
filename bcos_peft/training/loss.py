"""The loss that B-cos models are trained with, for the stock `Trainer`."""

from __future__ import annotations

import sys

import torch
from torch import Tensor


_IGNORED = -100  # the label that transformers gives to what is not to be learned


def bcos_bce_loss(
    outputs,
    labels: Tensor,
    num_items_in_batch: Tensor | int | None = None,
    *,
    label_smoothing: float = 0.0,
    class_reduction: str = "mean",
) -> Tensor:
    r"""One-hot binary cross entropy on logits, for `Trainer(compute_loss_func=bcos_bce_loss)`.

    Every class is a yes/no question: its logit is pushed up where the label says yes and down where it says no. Cross
    entropy sees only differences between logits; this asks for large ones, which a B-cos model gives only where its
    weights align with the input, and that alignment is what its explanations show.

    Labels of -100 are left out. The loss is taken from the logits in float32 at least, never through a sigmoid, so
    that confident mistakes keep their gradient. With `num_items_in_batch`, which the Trainer gives, it is the share of
    these labels in the mean over the whole optimisation step: 4 accumulated batches of 2 train as one of 8, and the
    sum that the Trainer logs is that mean.

    Args:
        outputs (`ModelOutput`, `tuple` or `torch.Tensor`):
            What the model returned when it was called without labels, or its logits: `(batch, classes)` or
            `(batch, sequence, classes)`. Outputs of a causal language model are shifted against the labels.
        labels (`torch.Tensor`):
            One class each: integers `(batch,)` or `(batch, sequence)`, -100 to leave one out. Several labels per text:
            numbers from 0 to 1 in the shape of the logits, used as they are.
        num_items_in_batch (`torch.Tensor` or `int`, *optional*):
            What to divide by, counted over accumulated batches and processes as the Trainer counts: entries of
            `labels` that are not -100. Default: those of these `labels`.
        label_smoothing (`float`, defaults to 0.0):
            ε in `target = (1 − ε)·one_hot + ε/classes`, as `TrainingArguments.label_smoothing_factor` has it. The
            Trainer keeps that argument from a loss function, so it is refused; use
            `compute_loss_func=functools.partial(bcos_bce_loss, label_smoothing=0.1)`.
        class_reduction (`"mean"` or `"sum"`, defaults to `"mean"`):
            Over the classes of one label. The mean is that of the published code and of
            `torch.nn.BCEWithLogitsLoss`. Over a vocabulary it makes gradients so small that the epsilon of Adam
            matters: use `"sum"` for masked language modelling.

    Returns:
        `torch.Tensor`: a scalar; 0, with zero gradients, when every label is -100.

    Raises:
        ValueError: no labels (question answering has none: leave the loss to the model), a single output (a
            regression), labels whose shape or values do not fit the logits, an argument out of range, or
            `TrainingArguments(label_smoothing_factor=...)`.
        TypeError: `labels` is not a tensor.

    Example:
        >>> import torch
        >>> from bcos_peft.training import bcos_bce_loss
        >>> logits = torch.tensor([[2.0, -1.0], [0.5, 0.0]])
        >>> bcos_bce_loss(logits, torch.tensor([0, -100]))  # (log(1 + exp(-2)) + log(1 + exp(-1))) / 2
        tensor(0.2201)

    Source: B-cos LM (arXiv 2502.12992), section on training; B-cos networks (arXiv 2205.10268), section 3.
    """
    _check_options(label_smoothing, class_reduction)
    # The Trainer drops its label_smoothing_factor when it has a loss function, and gives that no other way to know.
    _refuse_dropped_smoothing(sys._getframe(1).f_locals.get("self"), label_smoothing)
    if labels is None:
        raise ValueError(
            "bcos_bce_loss got no labels. Question answering has start_positions and end_positions instead, which the "
            "Trainer gives to the model only: leave compute_loss_func out, and the model's own cross entropy over the "
            "positions trains it. For other tasks the data set needs a column 'labels' (or 'label')."
        )
    logits = _logits(outputs)
    labels = _check_labels(logits, labels)
    if "CausalLM" in type(outputs).__name__:
        logits, labels = logits[..., :-1, :], labels[..., 1:]
    counted, classes = labels != _IGNORED, logits.shape[-1]
    logits, targets = logits[counted], labels[counted]
    if not labels.is_floating_point():
        targets = torch.zeros_like(logits).scatter_(-1, targets.unsqueeze(-1), 1.0)
        targets = targets * (1 - label_smoothing) + label_smoothing / classes
    elif label_smoothing:
        raise ValueError("label_smoothing is for one class per label; with several, smooth the labels themselves.")
    total = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
    items = counted.sum() if num_items_in_batch is None else torch.as_tensor(num_items_in_batch, device=total.device)
    items = items.sum()  # under DataParallel the Trainer repeats the count for each device, and multiplies the loss
    loss = total / torch.where(items > 0, items, 1)
    # An item is a label of its own for each class, or one label for all of them.
    over_items = "mean" if labels.is_floating_point() else "sum"
    if class_reduction == over_items:
        return loss
    return loss / classes if class_reduction == "mean" else loss * classes


def _check_options(label_smoothing: float, class_reduction: str) -> None:
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing must be at least 0 and below 1, got {label_smoothing!r}.")
    if class_reduction not in ("mean", "sum"):
        raise ValueError(f"class_reduction must be 'mean' or 'sum', got {class_reduction!r}.")


def _refuse_dropped_smoothing(caller, label_smoothing: float) -> None:
    factor = getattr(getattr(caller, "args", None), "label_smoothing_factor", 0)
    if factor and factor != label_smoothing:
        raise ValueError(
            f"TrainingArguments(label_smoothing_factor={factor}) has no effect beside compute_loss_func: the Trainer "
            "ignores it. Leave it out and smooth in the loss: "
            f"compute_loss_func=functools.partial(bcos_bce_loss, label_smoothing={factor})."
        )


def _logits(outputs) -> Tensor:
    if isinstance(outputs, Tensor):
        logits = outputs
    else:
        logits = outputs.get("logits") if hasattr(outputs, "keys") else outputs[0]
    if not isinstance(logits, Tensor) or logits.dim() not in (2, 3):
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(
            f"outputs must have logits (batch, classes) or (batch, sequence, classes), got {shape}. Give what the "
            "model returns without labels: with them, the first of its outputs is a loss of its own."
        )
    if logits.shape[-1] == 1:
        raise ValueError(
            "The model has a single output (num_labels=1), which transformers takes for a regression; binary cross "
            "entropy does not fit it. For a regression leave compute_loss_func out; for yes or no use num_labels=2."
        )
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _check_labels(logits: Tensor, labels: Tensor) -> Tensor:
    """Labels on the device of the logits: floats of the shape of the logits, or integers with a dimension less."""
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels must be a tensor, got {type(labels).__name__}.")
    classes, expected = logits.shape[-1], tuple(logits.shape[:-1])
    labels = labels.to(logits.device)
    if labels.shape == (*expected, 1):
        labels = labels.squeeze(-1)
    if labels.shape == logits.shape:
        labels, high, allowed = labels.to(logits.dtype), 1, "numbers from 0 to 1"
    elif labels.is_floating_point() or labels.dtype == torch.bool or labels.shape != expected:
        raise ValueError(
            f"labels must be integers of shape {expected} (one class each) or numbers of shape {tuple(logits.shape)} "
            f"(several), got {labels.dtype} of shape {tuple(labels.shape)}."
        )
    else:
        labels, high, allowed = labels.long(), classes - 1, f"from 0 to {classes - 1}: the model has {classes} classes"
    wrong = (labels != _IGNORED) & ~((labels >= 0) & (labels <= high))  # so that NaN is wrong too
    if bool(wrong.any()):
        raise ValueError(
            f"labels must be {allowed}; got {labels[wrong][0].item():g}. To leave one out use {_IGNORED}."
        )
    return labels
