"""LoRA inside the B-cos layers, through peft."""

from typing import TYPE_CHECKING

from bcos_peft._utils.lazy import lazy_names
from bcos_peft.lora.install import install_into_peft


if TYPE_CHECKING:
    from bcos_peft.lora.config import BcosLoraConfig
    from bcos_peft.lora.layer import BcosLora
    from bcos_peft.lora.portable import load
    from bcos_peft.lora.quantized import BcosLora4bit, BcosLora8bit

__all__ = [
    "BcosLora",
    "BcosLora4bit",
    "BcosLora8bit",
    "BcosLoraConfig",
    "install_into_peft",
    "load",
]

# peft is slow to load, and most models have no adapters.
__getattr__ = lazy_names(
    __name__,
    {
        "BcosLoraConfig": "config",
        "BcosLora": "layer",
        "load": "portable",
        "BcosLora4bit": "quantized",
        "BcosLora8bit": "quantized",
    },
)
