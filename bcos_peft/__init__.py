"""B-cos language models: convert a pre-trained model in place, and read every token's contribution off its
predictions."""

from bcos_peft import models as _models
from bcos_peft.attribution import Attribution, attribute
from bcos_peft.config import BcosConfig
from bcos_peft.convert import get_bcos_model
from bcos_peft.explainer import BcosExplainer
from bcos_peft.explanation import Contribution, Explanation
from bcos_peft.families import Family, register_family
from bcos_peft.mode import explanation_mode
from bcos_peft.version import __version__


__all__ = [
    "Attribution",
    "BcosConfig",
    "BcosExplainer",
    "Contribution",
    "Explanation",
    "Family",
    "__version__",
    "attribute",
    "explanation_mode",
    "get_bcos_model",
    "register_family",
]

_models.register_all()
