"""Other weights in an adapter that a model has already: they are looked at as those of a new adapter are."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftConfig
from torch import Tensor, nn

from bcos_peft.config import BcosConfig
from bcos_peft.lora.config import _DESCRIBED, _bcos_inside, _check_base


_logger = logging.getLogger(__name__)


@contextmanager
def _swapping(model: nn.Module, name: str, config: PeftConfig, trained_on: bool = False) -> Iterator[None]:
    """A `with` block that puts the weights of another adapter, or of an earlier state, into one; if it fails, all is
    as it was.

    Args:
        model: with the adapter.
        name: of the adapter.
        config: what was saved with the weights.
        trained_on: the model goes back to a state of its training, and so does its B.

    Raises:
        ValueError: the weights are of an adapter on another model, or with another B; nothing was changed.
    """
    bcos = _bcos_inside(model)
    back = trained_on or getattr(bcos, "bcos_scheduled", False)
    _check_base(config, model, but_b=back)
    own, b = model.peft_config[name], bcos.bcos_config.b
    described, restore = own.bcos, _remember_weights(model, name)
    try:
        if isinstance(config, _DESCRIBED) and config.bcos is not None:
            own.bcos = config.bcos
            _set_b(bcos, BcosConfig.from_dict(config.bcos["config"]).b)
        else:  # an adapter of a stock model: nothing is known of it
            own.bcos = {key: value for key, value in described.items() if key != "probe"}
        yield
    except BaseException:
        restore()
        own.bcos = described
        if bcos.bcos_config.b != b:
            bcos.set_b(b)
        raise


def _set_b(bcos: nn.Module, b: float) -> None:
    now = bcos.bcos_config.b
    if b != now:
        bcos.set_b(b)
        if not getattr(bcos, "bcos_scheduled", False):  # a schedule sets it anew
            _logger.warning("B of the model was %g, and is now %g again, that of the weights.", now, b)


def _remember_weights(model: nn.Module, adapter: str) -> Callable[[], None]:
    """The numbers of an adapter.

    Returns:
        A function that puts them back.
    """
    places = [
        (module._parameters, key)
        for path, module in model.named_modules()
        for key, parameter in module._parameters.items()
        if parameter is not None and adapter in f"{path}.{key}".split(".")
    ]
    weights = [(where, key, where[key], where[key].detach().clone()) for where, key in places]
    scales: list[tuple[dict[str, Any], Any]] = []
    for module in model.modules():
        scaling = vars(module).get("scaling")  # one for each adapter, where it is a LoRA layer's
        if isinstance(scaling, dict) and adapter in scaling:
            value = scaling[adapter]
            scales.append((scaling, value.clone() if isinstance(value, Tensor) else value))

    def restore() -> None:
        with torch.no_grad():
            for where, key, parameter, value in weights:
                where[key] = parameter  # some ways of loading put new ones in place
                if parameter.shape == value.shape:
                    parameter.copy_(value)
                else:
                    parameter.data = value
            for scaling, value in scales:
                if isinstance(value, Tensor):  # compiled code looks at the tensor itself
                    scaling[adapter].copy_(value)
                else:
                    scaling[adapter] = value

    return restore
