"""Liger kernels and converted models: a trainer that is asked for both says so, instead of leaving the kernels out."""

from __future__ import annotations

from importlib.util import find_spec


def refuse_liger(model_type: str) -> None:
    """Let `use_liger_kernel=True` refuse models of a converted type, of which Liger knows nothing.

    Liger goes by a table of model types, and passes over one that it does not find without a word. Here the converted
    type gets an entry, and no other is touched. Nothing happens where Liger is not installed.
    """
    if find_spec("liger_kernel") is None:
        return
    try:
        from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN
    except Exception:  # of another release, or without the Triton that it needs: a trainer cannot use it either
        return
    MODEL_TYPE_TO_APPLY_LIGER_FN.setdefault(model_type, _refuse)


def _refuse(model) -> None:
    raise ValueError(
        f"use_liger_kernel=True has no kernels for a B-cos model: those of the stock model would replace the layers "
        f"of this {type(model).__name__}, and its explanations would not be exact. Leave use_liger_kernel=False."
    )
