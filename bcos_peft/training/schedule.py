"""A schedule for B: it rises while a model is trained."""

from __future__ import annotations

import math
import weakref
from dataclasses import replace

from transformers.trainer_callback import ExportableState, TrainerCallback
from transformers.utils import logging

from bcos_peft._utils.arguments import checked_arguments
from bcos_peft.models import BcosModel, find_bcos_model
from bcos_peft.nn import BcosLayer


_logger = logging.get_logger(__name__)


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

    def on_init_end(self, args, state, control, model=None, **kwargs):
        """Say of the model that its B is set here: weights of a checkpoint may have had another."""
        if any(isinstance(module, BcosModel) for module in (model.modules() if model is not None else ())):
            find_bcos_model(model).bcos_scheduled = True

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        """Find the target, and set B for the first step or for the one at which a training resumes."""
        bcos_model = find_bcos_model(model)
        bcos_model.bcos_scheduled = True
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
