"""ELECTRA."""

from bcos_peft.families.base import register_family
from bcos_peft.families.tables import _bert_like


register_family(
    _bert_like(
        "electra",
        "Electra",
        # Half of a factorised embedding: it is part of what feeds the first block.
        plain=(r"attention\.self\.(query|key|value)", r"embeddings_project"),
        lm_heads=(r"generator_lm_head",),
    )
)
