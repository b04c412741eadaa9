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


def set_autocast_aside(model: nn.Module) -> Callable[[], None]:
    """Let the forwards that accelerate wrapped in mixed precision, for a training, run in the model's own precision.

    Returns:
        A function that puts the wrapped ones back.
    """
    wrapped = [
        (module, vars(module)["forward"])
        for module in model.modules()
        if {"forward", "_original_forward"} <= vars(module).keys()
    ]
    for module, _ in wrapped:
        module.forward = module._original_forward

    def restore() -> None:
        for module, forward in wrapped:
            module.forward = forward

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
