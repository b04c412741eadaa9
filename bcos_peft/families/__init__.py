"""One small table per model family. `base` says what a table is; importing this package registers those that come
with it."""

from bcos_peft.families import (  # noqa: F401  (each registers its tables)
    bert,
    deberta,
    distilbert,
    electra,
    gemma,
    gpt2,
    gpt_neox,
    llama,
    modernbert,
    moe,
    opt,
    phi3,
    roberta,
)
from bcos_peft.families.base import (
    Family,
    after_registration,
    families,
    find_family,
    hold,
    hold_query_key,
    register_family,
    share,
)
from bcos_peft.families.heads import FunctionalActivation
from bcos_peft.families.moe import BcosExperts


__all__ = [
    "BcosExperts",
    "Family",
    "FunctionalActivation",
    "after_registration",
    "families",
    "find_family",
    "hold",
    "hold_query_key",
    "register_family",
    "share",
]
