"""Converted models: the plan of a conversion, the generated classes, saving and sharing."""

from bcos_peft.models.apply import apply_plan
from bcos_peft.models.card_results import check_eval_results, put_eval_results
from bcos_peft.models.classes import _class_named, change_class, keep_class
from bcos_peft.models.consistency import check_modules, current_config
from bcos_peft.models.finding import family_of, find_bcos_model, find_model, find_transformer
from bcos_peft.models.generated import PREFIX, BcosModel
from bcos_peft.models.guards import refuse_liger, refuse_shards, refuse_tensor_parallel
from bcos_peft.models.hub import BcosHubMixin, adapter_hooks
from bcos_peft.models.hub_upload import BESIDE, GATES, stale_weights, upload
from bcos_peft.models.labels import Labels
from bcos_peft.models.plan import Plan, is_activation, plan_conversion, refuse_patched, sub_plan
from bcos_peft.models.registration import register_all, register_encoders
from bcos_peft.models.summary import ConversionSummary


__all__ = [
    "BESIDE",
    "BcosHubMixin",
    "BcosModel",
    "ConversionSummary",
    "GATES",
    "Labels",
    "PREFIX",
    "Plan",
    "adapter_hooks",
    "apply_plan",
    "change_class",
    "check_eval_results",
    "check_modules",
    "current_config",
    "family_of",
    "find_bcos_model",
    "find_model",
    "find_transformer",
    "is_activation",
    "keep_class",
    "plan_conversion",
    "put_eval_results",
    "refuse_liger",
    "refuse_patched",
    "refuse_shards",
    "refuse_tensor_parallel",
    "register_all",
    "register_encoders",
    "stale_weights",
    "sub_plan",
    "upload",
]


def __getattr__(name: str):
    # Pickle, and the stub of models that were pushed, look generated classes up by name.
    return _class_named(name)
