"""peft's tables by the type of a model, such as default targets: those of stock models hold for converted ones."""

from __future__ import annotations

import importlib

from peft.utils import constants

from bcos_peft.families import Family, after_registration, families
from bcos_peft.models import PREFIX, BcosModel


def _copy_tables() -> None:
    """Copy the lines of all families, and of each that comes later. Lines of stock models are not touched."""
    for family in families():
        _copy_lines(family)
    after_registration.append(_copy_lines)


def _copy_lines(family: Family) -> None:
    for name, table in vars(constants).items():
        if name.startswith("TRANSFORMERS_MODELS_TO_") and family.model_type in table:
            table.setdefault(PREFIX + family.model_type, table[family.model_type])


def _know_experts(model: BcosModel) -> None:
    """Let peft find the experts of a converted model by the names that they have in stock checkpoints.

    In transformers 5 the experts of a layer are one parameter. peft takes `target_modules` that mean single experts,
    or `"all-linear"`, for these parameters, and the weights of older adapters too, by the type of the model.
    """
    try:
        conversion = importlib.import_module("peft.utils.transformers_weight_conversion")
    except ImportError:  # an older peft, which does so on no model
        return
    patterns = getattr(conversion, "_MODEL_TO_CONVERSION_PATTERN", {})
    if model.bcos_family.model_type in patterns:
        patterns.setdefault(model.config.model_type, patterns[model.bcos_family.model_type])
