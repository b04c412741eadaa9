"""B-cos language models: convert a pre-trained model in place, and read every token's contribution off its
predictions."""

from typing import TYPE_CHECKING

from bcos_peft._utils.imports import after_import as _after_import
from bcos_peft.attribution.contributions import Attribution, attribute
from bcos_peft.attribution.mode import explanation_mode
from bcos_peft.config import BcosConfig
from bcos_peft.convert import get_bcos_model
from bcos_peft.explanation.contribution import Contribution
from bcos_peft.explanation.explainer import BcosExplainer
from bcos_peft.explanation.explanation import Explanation
from bcos_peft.explanation.generation import GenerationExplanation
from bcos_peft.families import Family, register_family
from bcos_peft.models.registration import register_all as _register_all
from bcos_peft.nn.norm_cache import steady_weights
from bcos_peft.training.parts import merge_gains, train_only
from bcos_peft.version import __version__


if TYPE_CHECKING:
    from bcos_peft.lora.portable import load
    from bcos_peft.training.hidden_tokens import HideTokensCallback, hide_tokens
    from bcos_peft.training.loss import BcosScheduleCallback, bcos_bce_loss

__all__ = [
    "Attribution",
    "BcosConfig",
    "BcosExplainer",
    "BcosScheduleCallback",
    "Contribution",
    "Explanation",
    "Family",
    "GenerationExplanation",
    "HideTokensCallback",
    "__version__",
    "attribute",
    "bcos_bce_loss",
    "explanation_mode",
    "get_bcos_model",
    "hide_tokens",
    "load",
    "merge_gains",
    "register_family",
    "steady_weights",
    "train_only",
]

_register_all()


def _install_lora() -> None:
    from bcos_peft.lora.install import install

    install()


# Whichever of the two packages is imported first: peft is slow to load, and most models have no adapters.
_after_import("peft", _install_lora)


def __getattr__(name: str):
    # Training needs the Trainer's modules, which load accelerate and peft: only for those who train.
    if name in ("BcosScheduleCallback", "bcos_bce_loss"):
        from bcos_peft.training import loss as training

        return getattr(training, name)
    if name in ("HideTokensCallback", "hide_tokens"):
        from bcos_peft.training import hidden_tokens

        return getattr(hidden_tokens, name)
    if name == "load":
        try:
            from bcos_peft.lora.portable import load
        except ModuleNotFoundError as error:
            raise ImportError("bcos_peft.load needs peft: pip install 'bcos-peft[peft]'.") from error
        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
