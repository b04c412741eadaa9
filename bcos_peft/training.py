"""Fine-tuning with the stock `Trainer`: the loss that B-cos models are trained with, and a schedule for B."""

from __future__ import annotations

import math
import sys

import torch
from torch import Tensor
from transformers.trainer_callback import ExportableState, TrainerCallback
from transformers.utils import logging

from bcos_peft.layers import BcosLinear
from bcos_peft.models import find_bcos_model


__all__ = ["BcosScheduleCallback", "bcos_bce_loss"]

logger = logging.get_logger(__name__)

IGNORED = -100  # the label that transformers gives to what is not to be learned


def bcos_bce_loss(
    outputs,
    labels: Tensor,
    num_items_in_batch: Tensor | int | None = None,
    *,
    label_smoothing: float = 0.0,
    class_reduction: str = "mean",
) -> Tensor:
    r"""One-hot binary cross entropy on logits, for `Trainer(compute_loss_func=bcos_bce_loss)`.

    Every class is a yes/no question: its logit is pushed up where the label says yes and down where it says no. Other than cross
    entropy, which sees differences of logits only, this asks for large positive logits, and a B-cos model can
    give them only by aligning its weights with the input; that alignment is what the explanations show.

    Labels of -100 are left out. The loss is taken from the logits in float32 at least, never through a sigmoid, so that confident
    mistakes keep their gradient. It is the mean over the labels of the whole optimisation step when `num_items_in_batch` is given, as
    the Trainer does: 4 × 2 accumulated rows train as 1 × 8, and the loss that the Trainer logs is that mean.

    Args:
        outputs (`ModelOutput`, `tuple` or `torch.Tensor`):
            What the model returned when it was called without labels, or its logits `(batch, classes)` or
            `(batch, sequence, classes)`. The outputs of a causal language model are shifted against the labels.
        labels (`torch.Tensor`):
            Integers `(batch,)` or `(batch, sequence)`: one class each, -100 to leave one out. Or, for several labels per text, numbers
            between 0 and 1 (0 and 1, usually) in the shape of the logits, used as they are.
        num_items_in_batch (`torch.Tensor` or `int`, *optional*):
            The number of labels to divide by, counted over the accumulated batches (and processes) as the Trainer counts:
            entries of `labels` that are not -100. Default: those of these labels.
        label_smoothing (`float`, defaults to 0.0):
            ε in `target = (1 − ε)·one_hot + ε/classes`, as `TrainingArguments.label_smoothing_factor` defines it. The Trainer does not hand
            that argument to a loss function, so it is refused in favour of `functools.partial(bcos_bce_loss, label_smoothing=0.1)`.
        class_reduction (`"mean"` or `"sum"`, defaults to `"mean"`):
            Over the classes of one label. The mean is that of the published code and of `torch.nn.BCEWithLogitsLoss`. With a vocabulary for
            classes it makes gradients so small that Adam's epsilon outweighs them: use `"sum"` for masked language modelling.

    Returns:
        `torch.Tensor`: a scalar; 0, with zero gradients, when every label is -100.

    Raises:
        ValueError: no labels (question answering has none: leave the loss to the model), one output only (a regression), labels whose
            shape or values do not fit the logits, an argument out of range, or `TrainingArguments(label_smoothing_factor=...)`.
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
    # The Trainer drops its label_smoothing_factor without a word when it has a loss function, and gives that function no other way to know.
    _refuse_dropped_smoothing(sys._getframe(1).f_locals.get("self"), label_smoothing)
    logits = _logits(outputs)
    labels = _check_labels(logits, labels)
    if "CausalLM" in type(outputs).__name__:
        logits, labels = logits[..., :-1, :], labels[..., 1:]
    counted = labels != IGNORED
    classes = logits.shape[-1]
    if labels.is_floating_point():
        if label_smoothing:
            raise ValueError("label_smoothing is for one class per label; with several, smooth the labels themselves.")
        logits, targets, per_item = logits[counted], labels[counted], 1
    else:
        logits, targets, per_item = logits[counted], labels[counted].unsqueeze(-1), classes
        targets = torch.zeros_like(logits).scatter_(-1, targets, 1.0)
        targets = targets * (1 - label_smoothing) + label_smoothing / classes
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="sum")
    items = counted.sum() if num_items_in_batch is None else torch.as_tensor(num_items_in_batch, device=loss.device)
    items = (
        items.sum()
    )  # under torch.nn.DataParallel the Trainer repeats the count for each device, and multiplies the loss
    loss = loss / (per_item * torch.where(items > 0, items, 1))
    return loss * classes if class_reduction == "sum" else loss


def _check_options(label_smoothing: float, class_reduction: str) -> None:
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing must be at least 0 and below 1, got {label_smoothing!r}.")
    if class_reduction not in ("mean", "sum"):
        raise ValueError(f"class_reduction must be 'mean' or 'sum', got {class_reduction!r}.")


def _refuse_dropped_smoothing(caller, label_smoothing: float) -> None:
    factor = getattr(getattr(caller, "args", None), "label_smoothing_factor", 0)
    if factor and factor != label_smoothing:
        raise ValueError(
            f"TrainingArguments(label_smoothing_factor={factor}) has no effect beside compute_loss_func: the Trainer ignores it. Leave it out "
            f"and smooth in the loss: compute_loss_func=functools.partial(bcos_bce_loss, label_smoothing={factor})."
        )


def _logits(outputs) -> Tensor:
    logits = outputs
    if not isinstance(outputs, Tensor):
        if "start_logits" in outputs:
            raise ValueError(_NO_LABELS)
        logits = outputs["logits"] if hasattr(outputs, "keys") else outputs[0]
    if logits.dim() not in (2, 3):
        raise ValueError(
            f"logits must have shape (batch, classes) or (batch, sequence, classes), got {tuple(logits.shape)}. Call the model without "
            "labels: with them, the first thing it returns is a loss of its own."
        )
    if logits.shape[-1] == 1:
        raise ValueError(
            "The model has a single output (num_labels=1), which is a regression for transformers: binary cross entropy does not fit "
            "it. To train a regression leave compute_loss_func out; for a yes/no question use num_labels=2."
        )
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


_NO_LABELS = (
    "bcos_bce_loss got no labels. Question answering is labelled by start_positions and end_positions, which the Trainer gives to the model only: "
    "leave compute_loss_func out, and the model's own cross entropy over the positions trains it. For other tasks, the data "
    "set needs a column 'labels' (or 'label')."
)


def _check_labels(logits: Tensor, labels: Tensor | None) -> Tensor:
    """The labels on the device of the logits: floats in the shape of the logits, or integers without the dimension of classes."""
    if labels is None:
        raise ValueError(_NO_LABELS)
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels must be a tensor, got {type(labels).__name__}.")
    classes = logits.shape[-1]
    labels = labels.to(logits.device)
    if labels.shape == logits.shape:
        labels = labels.to(logits.dtype)
        low, high, expected = 0, 1, "between 0 and 1, in the shape of the logits"
    elif labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(
            f"labels of {labels.dtype} must have the shape of the logits, {tuple(logits.shape)}, got {tuple(labels.shape)}. "
            "Use integers for one class per label."
        )
    else:
        if labels.shape == (*logits.shape[:-1], 1):
            labels = labels.squeeze(-1)
        if labels.shape != logits.shape[:-1]:
            raise ValueError(
                f"labels must have shape {tuple(logits.shape[:-1])} for logits {tuple(logits.shape)}, got {tuple(labels.shape)}."
            )
        labels = labels.long()
        low, high, expected = 0, classes - 1, f"from 0 to {classes - 1} (the model has {classes} classes)"
    wrong = (labels != IGNORED) & ~((labels >= low) & (labels <= high))  # NaN is wrong too
    if bool(wrong.any()):
        raise ValueError(f"labels must be {expected}, or {IGNORED} to be left out; got {labels[wrong][0].item():g}.")
    return labels


class BcosScheduleCallback(TrainerCallback, ExportableState):
    """Raises B from `start` to its target over the first part of a training, for `Trainer(callbacks=[BcosScheduleCallback()])`.

    With B = 1 a converted model is close to the one that was pre-trained (only its biases are gone); raising B little by little lets the weights
    follow. B grows linearly with the finished optimisation steps and stays at the target afterwards. It depends
    on nothing else, so that a resumed training goes on where it was, and it stands in the model's config, so that every checkpoint
    loads, and every evaluation runs, with the B of that moment.

    Layers with an entry in `BcosConfig.b_pattern` keep that B throughout. Metrics of different B are not comparable, so the record of the best
    checkpoint starts anew when B reaches its target: `load_best_model_at_end` picks among the checkpoints with the final B. A
    training that stops earlier keeps the B it had then, or that of the best checkpoint if that is loaded, and a warning says so.

    Args:
        target (`float`, *optional*):
            The final B, at least 1. Default: the config's B when training begins; for a resumed training, that of the training
            it resumes (a checkpoint's config holds the B of its step).
        start (`float`, defaults to 1.0): B before the first step, at least 1.
        share (`float`, defaults to 0.5): the part of all optimisation steps after which B has reached the target, above 0 and up to 1.

    Raises:
        ValueError: an argument out of range; when training begins, a model in which no layer would follow the schedule.
        TypeError: an argument that is not a number.

    Example:
        >>> from bcos_peft.training import BcosScheduleCallback
        >>> schedule = BcosScheduleCallback(target=1.5, share=0.5)
        >>> [schedule.b_at(step, max_steps=8) for step in (0, 2, 4, 8)]
        [1.0, 1.25, 1.5, 1.5]

    Source: B-cosification (arXiv 2411.00715), on raising B during fine-tuning.
    """

    def __init__(self, target: float | None = None, start: float = 1.0, share: float = 0.5):
        for name, value in (("target", target), ("start", start), ("share", share)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
                raise TypeError(f"{name} must be a number, got {value!r}.")
        for name, value in (("target", target), ("start", start)):
            if value is not None and not (math.isfinite(value) and value >= 1):
                raise ValueError(
                    f"{name} must be a finite number of at least 1, got {value!r}. B = 1 is the plain linear layer."
                )
        if not 0 < share <= 1:
            raise ValueError(
                f"share must be above 0 and at most 1, got {share!r}. For a constant B leave the callback out."
            )
        self.target, self.start, self.share = target, start, share
        self.final_b: float | None = target  # the target in use
        self.current_b: float | None = None  # what this callback set last

    def b_at(self, step: int, max_steps: int) -> float:
        """B after a number of finished optimisation steps.

        Args:
            step (`int`): finished steps.
            max_steps (`int`): all steps of the training.

        Returns:
            `float`: exactly the target from `share · max_steps` on.

        Raises:
            ValueError: no target was given and no training has begun.
        """
        if self.final_b is None:
            raise ValueError(
                "The target is that of the model's config, which is read when training begins. Give target=... to know it now."
            )
        ramp = self._ramp(max_steps)
        return float(self.final_b) if step >= ramp else self.start + (self.final_b - self.start) * step / ramp

    def _ramp(self, max_steps: int) -> int:
        return max(1, math.ceil(self.share * max_steps))

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        """Find the target, and set B for the first step or the one where a training resumes."""
        bcos_model = find_bcos_model(model)
        b = bcos_model.bcos_config.b
        stored = (state.stateful_callbacks or {}).get(type(self).__name__)
        if self.target is None and state.global_step > 0 and isinstance(stored, dict):
            self.final_b = stored["attributes"]["final_b"]
        elif self.target is None and (self.final_b is None or b != self.current_b):
            self.final_b = b  # unless b is what an interrupted training has left
        if not _follows(bcos_model):
            raise ValueError(
                "BcosScheduleCallback: no layer takes its B from the config's `b` (align=False, or b_pattern covers every layer)."
            )
        # A checkpoint written without this callback knows nothing of it, and the Trainer expects an entry when it saves.
        state.stateful_callbacks.setdefault(type(self).__name__, self.state())
        self._set(bcos_model, state.global_step, state.max_steps)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        """Set B for the evaluation and the checkpoint that may follow, and for the next step."""
        self._set(find_bcos_model(model), state.global_step, state.max_steps)
        if state.global_step == self._ramp(state.max_steps):
            state.best_metric = state.best_global_step = state.best_model_checkpoint = None

    def on_train_end(self, args, state, control, model=None, **kwargs):
        """Give weights that came from the best checkpoint the B they were evaluated with."""
        step = state.global_step
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            step = state.best_global_step
        self._set(find_bcos_model(model), step, state.max_steps)
        if self.current_b != self.final_b:
            logger.warning(
                f"The model is that of step {step}, where B was {self.current_b:g}, and not yet its target {self.final_b:g}. Train to the end, or "
                "choose a smaller share; for load_best_model_at_end, evaluate and save after the schedule has ended."
            )

    def state(self) -> dict:
        """What the Trainer writes into a checkpoint's `trainer_state.json`."""
        return {
            "args": {"target": self.target, "start": self.start, "share": self.share},
            "attributes": {"final_b": self.final_b, "current_b": self.current_b},
        }

    def _set(self, model, step: int, max_steps: int) -> None:
        b = self.b_at(step, max_steps)
        if b != model.bcos_config.b:
            model.set_b(b)
        self.current_b = b


def _follows(model) -> bool:
    """Whether changing the config's `b` changes the B of any layer."""
    config = model.bcos_config
    names = [name for name, module in model.named_modules() if isinstance(module, BcosLinear)]
    before = {name: config.b_for(name) for name in names}
    config.b += 1
    return any(config.b_for(name) != before[name] for name in names)
