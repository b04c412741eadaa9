"""LoRA inside B-cos layers over quantised weights. Needs peft and bitsandbytes.

Training is as over float weights. Merging adds the update to the dequantised weight and quantises the sum.
"""

from __future__ import annotations

from peft.tuners.lora import bnb

from bcos_peft.lora.layer import BcosLora
from bcos_peft.nn import BcosLinear4bit, BcosLinear8bit


class BcosLora4bit(BcosLora):
    """LoRA inside a 4-bit B-cos layer. The merged weight is rounded to 4 bits, which changes the outputs a little."""

    merge, unmerge = bnb.Linear4bit.merge, bnb.Linear4bit.unmerge
    get_delta_weight = bnb.Linear4bit.get_delta_weight


class BcosLora8bit(BcosLora):
    """LoRA inside an 8-bit B-cos layer. The merged weight is rounded to 8 bits."""

    merge, unmerge = bnb.Linear8bitLt.merge, bnb.Linear8bitLt.unmerge
    get_delta_weight = bnb.Linear8bitLt.get_delta_weight


_CLASSES = {BcosLinear4bit: BcosLora4bit, BcosLinear8bit: BcosLora8bit}
