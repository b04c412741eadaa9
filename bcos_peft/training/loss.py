"""Fine-tuning with the stock `Trainer`: the loss that B-cos models are trained with, and a schedule for B."""

from __future__ import annotations

import math
import sys
import weakref
from dataclasses import replace

import torch
from torch import Tensor
from transformers.trainer_callback import ExportableState, TrainerCallback
from transformers.utils import logging

from bcos_peft._utils.arguments import checked_arguments
from bcos_peft.models import find_bcos_model
from bcos_peft.nn import BcosLayer


_logger = logging.get_logger(__name__)

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


class BcosScheduleCallback(TrainerCallback, ExportableState):
    """Raises B to its target during the first part of a training: `Trainer(callbacks=[BcosScheduleCallback()])`.

    With B = 1 a converted model is close to the pre-trained one (only its biases are gone); raising B little by little
    lets the weights follow. B grows linearly with the finished optimisation steps and then stays at the target.
    It depends on nothing else, so a resumed training goes on where it was; and it stands in the model's config, so
    every evaluation runs, and every checkpoint loads, with the B of its step.

    Layers with an entry in `BcosConfig.b_pattern` keep that B throughout. Metrics at different B do not compare, so
    the record of the best checkpoint starts anew when B reaches its target: `load_best_model_at_end` chooses among
    checkpoints with the final B. A training that stops before keeps the B of its last step, or of the best checkpoint
    if that is loaded, and a warning says so.

    Args:
        target (`float`, *optional*):
            The final B, at least 1. Default: the config's B when training begins. A resumed training has that of the
            training it resumes, since the config of a checkpoint holds the B of its step.
        start (`float`, defaults to 1.0): B of the first step, at least 1.
        share (`float`, defaults to 0.5): the part of the steps after which B is at its target, above 0 and at most 1.

    Raises:
        ValueError: an argument out of range; when training begins, a model none of whose layers would follow.
        TypeError: an argument that is not a number.

    Example:
        >>> from bcos_peft.training import BcosScheduleCallback
        >>> schedule = BcosScheduleCallback(target=1.5, share=0.5)
        >>> [schedule.b_at(step, max_steps=8) for step in (0, 2, 4, 8)]
        [1.0, 1.25, 1.5, 1.5]

    Source: B-cosification (arXiv 2411.00715), on raising B during fine-tuning.
    """

    @checked_arguments
    def __init__(self, target: float | None = None, start: float = 1.0, share: float = 0.5):
        given = {"start": start, "share": share} | ({} if target is None else {"target": target})
        for name, value in given.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"{name} must be a number, got {value!r}.")
            if name != "share" and not (math.isfinite(value) and value >= 1):
                raise ValueError(f"{name} must be a finite number of at least 1 (the plain layer), got {value!r}.")
        if not 0 < share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, got {share!r}. Without a schedule, B is constant.")
        self.target, self.start, self.share = target, start, share
        self.final_b: float | None = target  # the target in use
        self.current_b: float | None = None  # what this callback set last, and on which model
        self._scheduled = type(None)  # called, it gives that model, or None

    def b_at(self, step: int, max_steps: int) -> float:
        """B after a number of finished optimisation steps.

        Args:
            step (`int`): finished steps.
            max_steps (`int`): all steps of the training.

        Returns:
            `float`: exactly the target from `share · max_steps` on.

        Raises:
            ValueError: no target was given, and no training has begun that would have told it.
        """
        if self.final_b is None:
            raise ValueError("Without target=..., the target is the config's B, which is read when training begins.")
        ramp = self._ramp(max_steps)
        if step >= ramp:
            return float(self.final_b)
        return self.start + (self.final_b - self.start) * step / ramp

    def _ramp(self, max_steps: int) -> int:
        return max(1, math.ceil(self.share * max_steps))

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        """Find the target, and set B for the first step or for the one at which a training resumes."""
        bcos_model = find_bcos_model(model)
        _check_follows(bcos_model)
        stored = state.stateful_callbacks.get(type(self).__name__)
        if self.target is not None:
            self.final_b = self.target
        elif state.global_step > 0 and isinstance(stored, dict):
            self.final_b = stored["attributes"]["final_b"]
        elif bcos_model.bcos_config.b != self.current_b or self._scheduled() is not bcos_model:
            self.final_b = bcos_model.bcos_config.b  # else it is what an interrupted training of this model has left
        # The Trainer expects an entry when it saves, and a checkpoint written without this callback has none.
        state.stateful_callbacks.setdefault(type(self).__name__, self.state())
        self._set(bcos_model, state.global_step, state.max_steps)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        """Set B for the evaluation and the checkpoint that may follow, and for the next step."""
        self._set(find_bcos_model(model), state.global_step, state.max_steps)
        if state.global_step == self._ramp(state.max_steps):
            state.best_metric = state.best_global_step = state.best_model_checkpoint = None

    def on_train_end(self, args, state, control, model=None, **kwargs):
        """Give weights that were loaded from the best checkpoint the B that they had there."""
        step = state.global_step
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            step = state.best_global_step
        self._set(find_bcos_model(model), step, state.max_steps)
        if self.current_b != self.final_b:
            _logger.warning(
                f"The model is that of step {step}, with B = {self.current_b:g} on the way to {self.final_b:g}. Train "
                "on, or let the schedule end earlier (share): before training stops and the best model is chosen."
            )

    def state(self) -> dict:
        """What the Trainer writes into a checkpoint's `trainer_state.json`."""
        return {
            "args": {"target": self.target, "start": self.start, "share": self.share},
            "attributes": {"final_b": self.final_b, "current_b": self.current_b},
        }

    def __getstate__(self) -> dict:
        return vars(self) | {"_scheduled": type(None)}  # copies for other processes have other models

    def _set(self, model, step: int, max_steps: int) -> None:
        self.current_b, self._scheduled = self.b_at(step, max_steps), weakref.ref(model)
        if self.current_b != model.bcos_config.b:
            model.set_b(self.current_b)


def _check_follows(model) -> None:
    """Refuse a model in which changing the config's `b` would change no layer."""
    config = model.bcos_config
    layers = [name for name, module in model.named_modules() if isinstance(module, BcosLayer) and module.b is not None]
    changed = replace(config, b=config.b + 1)
    if all(changed.b_for(name) == config.b_for(name) for name in map(model.bcos_name, layers)):
        raise ValueError(
            "BcosScheduleCallback has nothing to schedule: no layer takes its B from the config's b (align=False, or "
            "b_pattern has an entry for each)."
        )
