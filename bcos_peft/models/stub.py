"""`modeling_bcos.py`, the stub for `trust_remote_code`, and the Auto classes that load a model."""

from __future__ import annotations

import json
from pathlib import Path

from transformers.models.auto import modeling_auto
from transformers.models.auto.auto_factory import _BaseAutoModelClass


_STUB = "modeling_bcos"
_STUB_TEXT = '''\
"""Lets transformers load this B-cos model with `trust_remote_code=True`. All code is in the package bcos-peft."""

try:
    from bcos_peft.models import {names}
except ImportError as error:
    raise ImportError(
        "This is a B-cos model. Loading it needs the package bcos-peft: `pip install --upgrade bcos-peft`."
    ) from error

__all__ = {quoted}
'''


def _auto_model_classes() -> list[type[_BaseAutoModelClass]]:
    """The `AutoModel…` classes of transformers."""
    candidates = (getattr(modeling_auto, name) for name in modeling_auto.__all__ if name.startswith("AutoModel"))
    return [cls for cls in candidates if isinstance(cls, type) and getattr(cls, "_model_mapping", None) is not None]


def _auto_classes_of(model) -> list[str]:
    config, cls = type(model.config), type(model)
    names = [auto.__name__ for auto in _auto_model_classes() if auto._model_mapping.get(config, None) is cls]
    return sorted(names, key=lambda name: (not cls.__name__.endswith(name.removeprefix("Auto")[5:]), "Pre" in name))


def _add_stub(model, directory: Path) -> None:
    if model.config.auto_map:
        names = sorted({reference.rpartition(".")[2] for reference in model.config.auto_map.values()})
        text = _STUB_TEXT.format(names=", ".join(names), quoted=json.dumps(names))
        (directory / f"{_STUB}.py").write_text(text, encoding="utf-8")
