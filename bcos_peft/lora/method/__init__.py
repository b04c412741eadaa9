"""`BcosConfig` as a method of peft: `peft.get_peft_model(model, BcosConfig())` converts, and trains what is small."""

from importlib import import_module
from typing import TYPE_CHECKING

from bcos_peft._utils.lazy import lazy_names


if TYPE_CHECKING:
    from bcos_peft.lora.method.checks import check_adapter, check_other_adapter, check_saving, different_fields
    from bcos_peft.lora.method.config import BcosPeftConfig, as_peft_config
    from bcos_peft.lora.method.register import register_method
    from bcos_peft.lora.method.tuner import BcosTuner

__all__ = [
    "BcosPeftConfig",
    "BcosTuner",
    "as_peft_config",
    "check_adapter",
    "check_other_adapter",
    "check_saving",
    "different_fields",
    "register_method",
]

__getattr__ = lazy_names(
    __name__,
    {
        "BcosPeftConfig": "config",
        "BcosTuner": "tuner",
        "as_peft_config": "config",
        "check_adapter": "checks",
        "check_other_adapter": "checks",
        "check_saving": "checks",
        "different_fields": "checks",
        "register_method": "register",
    },
)

# Which registers the method: once this is done no module of the folder is half loaded.
import_module("peft")
