"""The stock model that was converted: what differs, so that it can be put back, and whether it is unchanged.

Only differences are kept. All else, such as devices, hooks and modes, stays as it is on the way back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


_MISSING = object()
_TABLES = ("_parameters", "_modules", "_buffers")
_WHOLE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_PART = 2**16  # numbers at once, which a processor's cache holds


class _Stock:
    """A model before and after its conversion.

    Args:
        model: a stock model.
        convert: converts it, in place.
    """

    def __init__(self, model: nn.Module, convert: Callable[[], Any]):
        before = [(module, type(module), _state(module)) for module in model.modules()]
        convert()
        self.differences = []
        for module, cls, state in before:
            found = {table: _difference(old, new) for (table, old), new in zip(state, _values(module), strict=True)}
            if cls is not type(module) or any(found.values()):
                orders = {table: list(old) for table, old in state}
                self.differences.append((module, cls, type(module), found, orders))
        self.is_put_back = False
        try:
            self.weights = [
                (module, key, parameter.dtype, _checksum(parameter))
                for module in model.modules()
                for key, parameter in module._parameters.items()
                if parameter is not None
            ]
        except BaseException:
            self.put_back()
            raise

    def put_back(self) -> None:
        """Make the stock model of it, in place."""
        for module, stock, _, found, orders in self.differences:
            module.__class__ = stock
            for table, values in found.items():
                now = vars(module)[table] if table else vars(module)
                values.update({key: (old, now.get(key, _MISSING)) for key, (old, _) in values.items()})
                _put(module, table, {key: old for key, (old, _) in values.items()}, orders[table])
            _follow(module, [old for old, _ in found["_parameters"].values()])
        self.is_put_back = True

    def put_on(self) -> None:
        """Make the converted model of it again."""
        for module, _, converted, found, orders in self.differences:
            module.__class__ = converted
            for table, values in found.items():
                _put(module, table, {key: new for key, (_, new) in values.items()}, orders[table])
        self.is_put_back = False

    def change(self, model: nn.Module) -> str | None:
        """What was changed of the model since, beside what an adapter has of its own; None if nothing was."""
        names = {module: name for name, module in model.named_modules()}
        for module, key, dtype, checksum in self.weights:
            if module not in names:
                return f"a {type(module).__name__} was taken out of it"
            name = f"{names[module]}.{key}".replace(".original_module", "")
            parameter = module._parameters.get(key)
            if parameter is None:
                return f"{name!r} was taken out of it"
            if parameter.dtype != dtype:
                return f"{name!r} was cast from {dtype} to {parameter.dtype}"
            if _checksum(parameter) != checksum:
                return f"the values of {name!r} are others"
        return None


def _values(module: nn.Module) -> list[dict[str, Any]]:
    own = vars(module)
    return [{key: value for key, value in own.items() if key not in _TABLES}, *(own[table] for table in _TABLES)]


def _state(module: nn.Module) -> list[tuple[str, dict[str, Any]]]:
    return [(table, dict(values)) for table, values in zip(("", *_TABLES), _values(module), strict=True)]


def _difference(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    pairs = {key: (old.get(key, _MISSING), new.get(key, _MISSING)) for key in [*old, *(new.keys() - old.keys())]}
    return {key: pair for key, pair in pairs.items() if pair[0] is not pair[1]}


def _put(module: nn.Module, table: str, values: dict[str, Any], order: list[str]) -> None:
    where = vars(module)[table] if table else vars(module)
    for key, value in values.items():
        if value is _MISSING:
            where.pop(key, None)
        else:
            where[key] = value
    if table and values:  # in the old order, which an optimiser's state goes by
        kept = {key: where[key] for key in [*(key for key in order if key in where), *where]}
        where.clear()
        where.update(kept)


def _follow(module: nn.Module, parameters: list[Any]) -> None:
    """Biases that come back go where the weights beside them went meanwhile, in their precision."""
    back = [parameter for parameter in parameters if isinstance(parameter, Tensor)]
    beside = next((one for one in module._parameters.values() if one is not None and _leads(one, back)), None)
    for parameter in back if beside is not None else ():
        dtype = beside.dtype if beside.is_floating_point() else parameter.dtype
        parameter.data = parameter.data.to(beside.device, dtype)


def _leads(parameter: Tensor, back: list[Tensor]) -> bool:
    return not parameter.is_meta and all(parameter is not one for one in back)


def _checksum(parameter: Tensor) -> int:
    """A number that changes with the values and their places, and is the same on every device."""
    values = parameter.data.contiguous().view(-1)
    if parameter.is_meta or not values.numel():
        return 0
    size = values.element_size()
    if values.storage_offset() * size % 8:
        values = values.clone()
    whole = values.numel() * size // 8 * 8 // size
    rest = values[whole:].view(_WHOLE[size]).to(torch.int64)
    places, total = 1 + 2 * torch.arange(_PART, device=values.device), 0
    for part in (*values[:whole].view(torch.int64).split(_PART), rest):  # read as whole numbers: no rounding
        mixed = (part >> 32).bitwise_xor_(part)  # so that signs, which are the highest bits, do not cancel each other
        total = (total * 31 + int(mixed.mul_(places[: len(part)]).sum())) % 2**64
    return total
