"""B-cos language models: convert a pre-trained model in place, and read every token's contribution off its
predictions."""

from typing import TYPE_CHECKING

from bcos_peft import models as _models
from bcos_peft.attribution import Attribution, attribute
from bcos_peft.config import BcosConfig
from bcos_peft.convert import get_bcos_model
from bcos_peft.explainer import BcosExplainer
from bcos_peft.explanation import Contribution, Explanation
from bcos_peft.families import Family, register_family
from bcos_peft.generation_explanation import GenerationExplanation
from bcos_peft.mode import explanation_mode
from bcos_peft.version import __version__


if TYPE_CHECKING:
    from bcos_peft.lora_portable import load
    from bcos_peft.training import BcosScheduleCallback, bcos_bce_loss

__all__ = [
    "Attribution",
    "BcosConfig",
    "BcosExplainer",
    "BcosScheduleCallback",
    "Contribution",
    "Explanation",
    "Family",
    "GenerationExplanation",
    "__version__",
    "attribute",
    "bcos_bce_loss",
    "explanation_mode",
    "get_bcos_model",
    "load",
    "register_family",
]

_models.register_all()
try:
    # Now, so that it does not matter which of the two packages is imported first; it takes a tenth of a second.
    import peft as _peft
except ImportError:  # not installed, or too old for the installed transformers
    _peft = None
if _peft is not None:
    from bcos_peft import lora as _lora

    _lora.install()


def __getattr__(name: str):
    # Training needs the Trainer's modules, which load accelerate and peft: only for those who train.
    if name in ("BcosScheduleCallback", "bcos_bce_loss"):
        from bcos_peft import training

        return getattr(training, name)
    if name == "load":
        from bcos_peft.lora_portable import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
