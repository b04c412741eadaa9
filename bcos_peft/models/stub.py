"""What a folder says to transformers: the stub for `trust_remote_code`, the Auto classes that load a model, and what
stands there while its files are being changed.
"""

from __future__ import annotations

import json
from pathlib import Path

from transformers import AutoConfig, PretrainedConfig
from transformers.models.auto import modeling_auto
from transformers.models.auto.auto_factory import _BaseAutoModelClass

from bcos_peft._utils.staging import settle


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


class _UnfinishedConfig(PretrainedConfig):
    """Of a folder whose files were being changed when the process was killed: asks for it again when they are back."""

    model_type = "bcos_unfinished_save"

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        path = kwargs.pop("name_or_path", None) or config_dict.get("_name_or_path")
        if path is None or not settle(path):
            raise OSError(
                f"A save into {path!r} was interrupted. Load the model with its class of bcos_peft.models, which puts "
                "back what was there, or save it again."
            )
        kwargs.pop("_from_auto", None)
        return AutoConfig.from_pretrained(path, **kwargs)


# Files without which nobody reads the others, and what they say while those are being changed.
GATES = {"adapter_config.json": None, "config.json": json.dumps({"model_type": _UnfinishedConfig.model_type})}
