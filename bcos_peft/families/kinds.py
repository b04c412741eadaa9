"""What takes the place of stock classes, by the name that tables and saved configs give it."""

from __future__ import annotations

import importlib

from bcos_peft.families.heads import HeadWithoutActivation
from bcos_peft.nn import (
    BcosConv1D,
    BcosExperts,
    BcosLayerNorm,
    BcosLinear,
    BcosRMSNorm,
    BcosShiftedRMSNorm,
    StockExperts,
)


_KINDS: dict[str, type] = {
    "linear": BcosLinear,
    "conv1d": BcosConv1D,
    "layer_norm": BcosLayerNorm,
    "rms_norm": BcosRMSNorm,
    "rms_norm_from_1": BcosShiftedRMSNorm,
    "experts": BcosExperts,
    "stock_experts": StockExperts,
    "head": HeadWithoutActivation,
}
# Those that import a model's code, which takes a while.
_LATER = {"distilbert_classifier": ("bcos_peft.families.distilbert", "_BcosDistilBertClassifier")}


def replacement(kind: str | type | None) -> type | None:
    """The class of a kind; a class is its own.

    Raises:
        ValueError: there is no such kind.

    Example:
        >>> from bcos_peft.families import replacement
        >>> replacement("rms_norm").__name__
        'BcosRMSNorm'
    """
    if kind is None or isinstance(kind, type):
        return kind
    if kind in _LATER:
        module, name = _LATER[kind]
        return getattr(importlib.import_module(module), name)
    if kind not in _KINDS:
        raise ValueError(
            f"There is no kind of replacement {kind!r}. Known: {', '.join([*_KINDS, *_LATER])}. Or give a class."
        )
    return _KINDS[kind]
