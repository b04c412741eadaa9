"""What works for one architecture without a table: conversion, explanation, saving, calibration, generation."""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any
from unittest import mock

import torch
import transformers
from transformers import PreTrainedModel

from architectures import configs
from architectures.control import nothing_held
from bcos_peft import BcosConfig, attribute, get_bcos_model
from bcos_peft.attribution import Attribution, ResidualWarning, probe_inputs
from bcos_peft.discovery import example_inputs, outputs_of
from bcos_peft.families import base
from bcos_peft.models import PREFIX


B = 1.5
LIMITS = {torch.float64: 1e-10, torch.float32: 1e-4}
# Loaded again, in float32, logits and contributions may differ by rounding.
SAVED = 1e-5
# Plain gradients must miss the logit by more than this share of the contributions.
CONTROL = 1e-3
TEXTS, LENGTH, NEW_TOKENS = 16, 8, 3


@dataclass
class Result:
    """What was seen of an architecture. Residuals and changes are shares of the sum of absolute contributions."""

    model_type: str
    kind: str
    model_class: str = ""
    note: str | None = None
    constants: bool = False
    float64: float | None = None
    float32: float | None = None
    control: float | None = None
    saved: float | None = None
    calibrated: bool | None = None
    generated: bool | None = None
    reasons: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def residuals(self) -> dict[torch.dtype, float | None]:
        return {torch.float64: self.float64, torch.float32: self.float32}

    @property
    def precision(self) -> torch.dtype:
        """The widest in which it is certified."""
        held = self.float64 is not None and self.float64 <= LIMITS[torch.float64]
        return torch.float64 if held else torch.float32

    @property
    def certified(self) -> bool:
        found = self.residuals[self.precision]
        return found is not None and found <= LIMITS[self.precision]

    @property
    def saves(self) -> bool:
        return self.saved is not None and self.saved <= SAVED


@contextmanager
def without_tables() -> Iterator[None]:
    """Forget the tables that come with the package, for a while."""
    with mock.patch.dict(base._FAMILIES, clear=True):
        yield


def kind_of(model_type: str) -> str:
    return {"seq2seq": "encoder-decoder", "causal": "decoder"}.get(configs.task_of(model_type), "encoder")


def converted(model_type: str, dtype: torch.dtype, **arguments: Any) -> PreTrainedModel:
    config = BcosConfig(b=B, calibration_epochs=1, calibration_replay=64)  # as little as goes through all steps
    return get_bcos_model(configs.model(model_type, dtype), config, progress=False, **arguments)


def inputs_of(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Token ids without padding: some stock models cannot read any. The certificate has seen to it."""
    ids = probe_inputs(model)["input_ids"]
    inputs = {"input_ids": ids[:1].flip(1)}
    if model.bcos_family.seq2seq:
        inputs["decoder_input_ids"] = ids[:1, :5].clone()
    return inputs


def size_of(result: Attribution) -> torch.Tensor:
    prefix = 0 if result.prefix_scores is None else result.prefix_scores.abs().sum(-1)
    return result.scores.abs().sum(-1) + prefix


def residual_of(result: Attribution) -> float:
    return float((result.residual.abs() / size_of(result)).max())


def change_of(first: Attribution, second: Attribution) -> float:
    """How far two explanations of the same text are apart: their contributions and all logits."""
    apart = (first.scores - second.scores).abs().max() / size_of(first).max()
    if first.prefix_scores is not None:
        apart = max(apart, (first.prefix_scores - second.prefix_scores).abs().max() / size_of(first).max())
    return float(max(apart, (first.logits - second.logits).abs().max() / first.logits.abs().max()))


def save_and_load(model: PreTrainedModel, model_type: str) -> PreTrainedModel:
    auto = getattr(transformers, configs.AUTO_CLASSES[configs.task_of(model_type)])
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        loaded, info = auto.from_pretrained(
            folder, dtype=model.dtype, experts_implementation="eager", output_loading_info=True
        )
    if type(loaded) is not type(model):
        raise RuntimeError(f"a {type(loaded).__name__} was loaded of a {type(model).__name__}")
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[what]:
            raise RuntimeError(f"{what.replace('_', ' ')}: {', '.join(sorted(map(str, info[what]))[:3])}")
    return loaded.eval()


def calibrates(model_type: str) -> bool:
    generator = torch.Generator().manual_seed(0)
    length = max(LENGTH, configs.BLOCKS.get(model_type, 0))
    ids = torch.randint(5, 100, (TEXTS, length), generator=generator)
    model = converted(model_type, torch.float32, calibration_data=ids.tolist())
    return residual_of(attribute(model, **inputs_of(model))) <= LIMITS[torch.float32]


def generates(model: PreTrainedModel, seq2seq: bool) -> bool:
    length = max(LENGTH, configs.BLOCKS.get(model.config.model_type.removeprefix(PREFIX), 0))
    ids = example_inputs(model, seq2seq, length, rows=1)["input_ids"]
    mask, count = torch.ones_like(ids), NEW_TOKENS
    written = model.generate(ids, attention_mask=mask, max_new_tokens=count, min_new_tokens=count, do_sample=False)
    return written.shape[1] - (1 if seq2seq else ids.shape[1]) == count


def _forward(model: PreTrainedModel, seq2seq: bool) -> None:
    """A stock model's own answer to a text."""
    with torch.no_grad():
        output = model(**example_inputs(model, seq2seq))
    if not all(bool(logits.isfinite().all()) for logits in outputs_of(output)):
        raise ValueError("it gives NaN")


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


class _Attempts:
    """Runs what may fail, and keeps the reasons; of what the stock model cannot do either, its own."""

    def __init__(self, result: Result):
        self.result = result

    def __call__(self, what: str, run: Callable[[], Any], stock: Callable | None = None, dtype=torch.float32) -> Any:
        try:
            return run()
        except Exception as error:
            reason = _said(error)
        try:
            if stock is not None:
                seq2seq = self.result.kind == "encoder-decoder"
                stock(configs.model(self.result.model_type, dtype), seq2seq)
        except Exception as error:
            reason = f"the stock model cannot: {_said(error)}"
        self.result.reasons[what] = reason
        return None


def check(model_type: str, everything: bool = True) -> Result:
    """Try everything on an architecture; with `everything=False` neither calibration nor generation."""
    began, result = time.monotonic(), Result(model_type, kind_of(model_type))
    attempt = _Attempts(result)
    with without_tables(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ResidualWarning)
        warnings.simplefilter("ignore", UserWarning)
        for dtype in LIMITS:
            model = attempt(_name(dtype), lambda dtype=dtype: _explained(result, dtype), _forward, dtype)
        if model is not None:
            _check_further(result, model, attempt, everything)
    result.seconds = round(time.monotonic() - began, 2)
    return result


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _explained(result: Result, dtype: torch.dtype) -> PreTrainedModel:
    """The model, converted; notes how far its contributions miss the logit."""
    model = converted(result.model_type, dtype)
    found = attribute(model, **inputs_of(model))
    setattr(result, _name(dtype), max(model.bcos_config.probe_residual, residual_of(found)))
    result.model_class = type(model).__name__.removeprefix("Bcos")
    result.note, result.constants = model.bcos_family.note, found.constants is not None
    return model


def _check_further(result: Result, model: PreTrainedModel, attempt: _Attempts, everything: bool) -> None:
    """In float32: where nothing is held, stock code mixes precisions in float64."""
    inputs, seq2seq = inputs_of(model), result.kind == "encoder-decoder"

    def control() -> float:
        with nothing_held():
            return residual_of(attribute(model, **inputs))

    def saved() -> float:
        loaded = save_and_load(model, result.model_type)
        return change_of(attribute(model, **inputs), attribute(loaded, **inputs))

    result.control = attempt("control", control)
    result.saved = attempt("saved", saved)
    if not everything:
        return
    if result.kind != "encoder":
        result.generated = bool(attempt("generated", lambda: generates(model, seq2seq), generates))
    result.calibrated = bool(attempt("calibrated", lambda: calibrates(result.model_type)))


def as_dict(result: Result) -> dict[str, Any]:
    return asdict(result) | {"certified": result.certified, "saves": result.saves}
