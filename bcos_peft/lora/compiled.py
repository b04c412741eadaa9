"""Adapters on compiled models: torch.compile puts a word into the names of weights, which files of adapters lack."""

from __future__ import annotations

import re
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn


_WORD = "_orig_mod."
_FILE = "adapter_model.safetensors"


def _forget_compiling(folder: Path) -> None:
    """Give the weights of an adapter that was just saved the names that they have without compiling."""
    file = folder / _FILE
    if not file.exists():
        return
    with safe_open(file, "pt") as stored:
        names, metadata = list(stored.keys()), stored.metadata()
        if not any(_WORD in name for name in names):
            return
        weights = {name.replace(_WORD, ""): stored.get_tensor(name).clone() for name in names}
    save_file(weights, file, metadata=metadata)


def _names_of_compiled(model: nn.Module) -> dict[str, str]:
    """For peft's `key_mapping`: what names begin with in a file, and what in a model with compiled parts."""
    found = {}
    for name, module in model.named_modules():
        if type(module).__name__ == "OptimizedModule":
            inside = f"{name}.".removeprefix("base_model.model.")
            plain = inside.replace(_WORD, "")
            found[rf"^{re.escape(plain)}(?!{re.escape(_WORD)})"] = inside + _WORD
    return found
