"""B-cos language models: convert a pre-trained model in place, and read every token's contribution off its
predictions."""

from typing import TYPE_CHECKING

from bcos_peft._utils.imports import after_import as _after_import
from bcos_peft._utils.lazy import lazy_names as _lazy_names
from bcos_peft.attribution import Attribution, attribute, explanation_mode
from bcos_peft.config import BcosConfig
from bcos_peft.convert import get_bcos_model
from bcos_peft.explanation import Alternatives, BcosExplainer, Contribution, Explanation, GenerationExplanation
from bcos_peft.families import Family, register_family
from bcos_peft.models import register_all as _register_all
from bcos_peft.models import register_encoders as _register_encoders
from bcos_peft.nn import steady_weights
from bcos_peft.similarity import SimilarityExplainer, SimilarityExplanation
from bcos_peft.training import merge_gains, train_only
from bcos_peft.version import __version__


if TYPE_CHECKING:
    from bcos_peft.lora import load
    from bcos_peft.training import BcosScheduleCallback, HideTokensCallback, bcos_bce_loss, hide_tokens

__all__ = [
    "Alternatives",
    "Attribution",
    "BcosConfig",
    "BcosExplainer",
    "BcosScheduleCallback",
    "Contribution",
    "Explanation",
    "Family",
    "GenerationExplanation",
    "HideTokensCallback",
    "SimilarityExplainer",
    "SimilarityExplanation",
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
    from bcos_peft.lora import install_into_peft

    install_into_peft()


# Whichever of the two packages is imported first: peft is slow to load, and most models have no adapters.
_after_import("peft", _install_lora)
_after_import("sentence_transformers", _register_encoders)


_on_use = _lazy_names(
    __name__,
    {
        "BcosScheduleCallback": "training",
        "HideTokensCallback": "training",
        "bcos_bce_loss": "training",
        "hide_tokens": "training",
        "load": "lora",
    },
)


def __getattr__(name: str):
    try:
        return _on_use(name)
    except ModuleNotFoundError as error:
        if name == "load":
            raise ImportError("bcos_peft.load needs peft: pip install 'bcos-peft[peft]'.") from error
        raise
