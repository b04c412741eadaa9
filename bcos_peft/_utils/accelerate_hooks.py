"""accelerate's hooks: they keep a module's forward, and a list of its parameters, which a conversion has to follow."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from types import MethodType

from torch import nn


def is_hooked(model: nn.Module) -> bool:
    """Whether accelerate has put a hook on any module."""
    return any("_hf_hook" in vars(module) for module in model.modules())


def is_patched(module: nn.Module) -> bool:
    """Whether a forward on the instance is not its class's, which hooks, present or removed, leave there bound."""
    own = vars(module).get("_old_forward" if "_hf_hook" in vars(module) else "forward")
    return own is not None and getattr(own, "__func__", None) is not type(module).forward


def set_class(module: nn.Module, cls: type) -> None:
    """Change a module's class, and with it the forward that is on the instance."""
    module.__class__ = cls
    if "_old_forward" in vars(module):
        module._old_forward = MethodType(cls.forward, module)
    elif "forward" in vars(module):
        del module.forward


def is_of_trl(forward) -> bool:
    """Whether a forward is the one that TRL's trainers put on a model: the model's own, or one past its head."""
    code = getattr(getattr(forward, "__func__", forward), "__code__", None)
    return code is not None and "fused_lm_head" in code.co_varnames


def set_wrappers_aside(model: nn.Module) -> Callable[[], None]:
    """Take off what trainers have left around forwards: accelerate's mixed precision, and what TRL put there.

    TRL's is bound to the model that it was made for, also on a copy of that model.

    Returns:
        A function that puts them back.
    """
    wrapped = []
    for module in model.modules():
        state = vars(module)
        forward = state.get("forward")
        own = state.get("_original_forward", forward)
        own = None if is_of_trl(own) and "_hf_hook" not in state else own
        if own is not forward:
            wrapped.append((module, forward))
            state.pop("forward")
            if own is not None:
                state["forward"] = own

    def restore() -> None:
        for module, forward in wrapped:
            vars(module)["forward"] = forward

    return restore


def forget_parameters(model: nn.Module, names: Collection[str]) -> Callable[[], None]:
    """Strike parameters that are gone from the lists of what the hooks put back when they are removed.

    Returns:
        A function that puts the lists back as they were.
    """
    undo = []
    for path, module in model.named_modules():
        for hook in _hooks(vars(module).get("_hf_hook")):
            devices = getattr(hook, "original_devices", {})
            prefix = path + "." if path else ""
            kept = {name: device for name, device in devices.items() if prefix + name not in names}
            if len(kept) < len(devices):
                hook.original_devices = kept
                undo.append((hook, devices))

    def restore() -> None:
        for hook, devices in undo:
            hook.original_devices = devices

    return restore


def _hooks(hook) -> Iterator:
    for inner in getattr(hook, "hooks", ()):  # several in sequence
        yield from _hooks(inner)
    if hook is not None:
        yield hook
