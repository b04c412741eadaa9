"""Trying an adapter when it is put on a B-cos model: are contributions exact with it, whatever it learns?"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from bcos_peft.attribution import certify_adapter
from bcos_peft.lora.config import _bcos_inside
from bcos_peft.lora.portable import _is_spread, _only


_logger = logging.getLogger(__name__)
_NOISE = 0.1


def _remember(model: nn.Module) -> Callable[[], None]:
    """What a model is made of now, and which parameters are trained.

    Returns:
        A function that puts it back so: layers around layers are gone, and adapters in layers that had some before.
    """
    modules = [(module, module.training, dict(vars(module))) for module in model.modules()]
    inside = [
        (value, value.copy())
        for _, _, state in modules
        for value in state.values()
        if type(value) in (dict, list, set)
    ]
    trained = [(parameter, parameter.requires_grad) for parameter in model.parameters()]

    def restore() -> None:
        for module, training, state in modules:
            vars(module).clear()
            vars(module).update(state)
            module.training = training
        for value, before in inside:
            value.clear()
            value.extend(before) if isinstance(value, list) else value.update(before)
        for parameter, trains in trained:
            parameter.requires_grad_(trains)

    return restore


@contextmanager
def _on_trial(model: nn.Module, name: str, configs: Callable[[], dict[str, PeftConfig]]) -> Iterator[None]:
    """A `with` block that puts an adapter on a model. Should it fail, or the adapter, the model is as it was.

    Args:
        model: any; if there is no B-cos model in it, nothing is done.
        name: of the adapter.
        configs: gives those of all adapters of the model, after the block.

    Raises:
        ValueError: contributions do not sum to the logit with this adapter.
    """
    if _bcos_inside(model) is None:
        yield
        return
    restore, before = _remember(model), {id(parameter) for parameter in model.parameters()}
    try:
        yield
        _try_adapter(model, name, configs()[name], before)
    except BaseException:
        restore()
        raise


def _try_adapter(model: nn.Module, name: str, config: PeftConfig, before: set[int]) -> None:
    """Explain a probe with a new adapter, and with noise in it, which an adapter that does nothing yet would hide.

    Args:
        model: the B-cos model, or what is around it, with the adapter.
        name: of the adapter.
        config: of the adapter.
        before: the ids of the parameters without it.

    Raises:
        ValueError: the contributions do not sum to the logit.
    """
    bcos = _bcos_inside(model)
    if _is_spread(model):  # or its weights are still to come
        _logger.info(
            "%s was put on %s untried: its weights are not here.", config.peft_type.value, type(bcos).__name__
        )
        return
    new = [parameter for parameter in _of_layers(model) if id(parameter) not in before]
    with _only(model, name), _noisy(new):
        try:
            residual = certify_adapter(bcos, config.peft_type.value)
        except (
            RuntimeError
        ) as error:  # a part that is compiled, a device that is full: training may go on all the same
            _logger.warning(
                "Whether contributions are exact with this %s adapter could not be tried: %s",
                config.peft_type.value,
                error,
            )
            return
    _logger.info(
        "Contributions are exact with this %s adapter: on a probe, with noise in it, they miss %.1e of their sum.",
        config.peft_type.value,
        residual,
    )


def _of_layers(model: nn.Module) -> Iterator[nn.Parameter]:
    """Parameters of adapters, but for whole modules that are trained beside them, which are what they were."""
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    seen = {id(parameter): parameter for layer in layers for parameter in layer.parameters()}
    yield from seen.values()


@contextmanager
def _noisy(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Noise in some parameters, the same every time, and none in the random numbers of others."""
    before = [parameter.detach().clone() for parameter in parameters]
    generator = torch.Generator().manual_seed(0)
    try:
        with torch.no_grad():
            for parameter in parameters:
                if parameter.is_floating_point():
                    noise = torch.randn(parameter.shape, generator=generator)
                    parameter.add_(_NOISE * noise.to(parameter))
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, before, strict=True):
                parameter.copy_(value)
