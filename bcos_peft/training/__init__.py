"""Fine-tuning with the stock `Trainer`: loss, schedule of B, hidden tokens, parts that are trained."""

from typing import TYPE_CHECKING

from bcos_peft._utils.lazy import lazy_names
from bcos_peft.training.parts import merge_gains, train_only


if TYPE_CHECKING:
    from bcos_peft.training.hidden_tokens import HideTokensCallback, hide_tokens
    from bcos_peft.training.loss import bcos_bce_loss
    from bcos_peft.training.schedule import BcosScheduleCallback

__all__ = [
    "BcosScheduleCallback",
    "HideTokensCallback",
    "bcos_bce_loss",
    "hide_tokens",
    "merge_gains",
    "train_only",
]

# The Trainer's modules load accelerate and peft: only for those who train.
__getattr__ = lazy_names(
    __name__,
    {
        "HideTokensCallback": "hidden_tokens",
        "hide_tokens": "hidden_tokens",
        "BcosScheduleCallback": "schedule",
        "bcos_bce_loss": "loss",
    },
)
