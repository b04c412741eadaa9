"""BERT."""

from bcos_peft.families.base import register_family
from bcos_peft.families.tables import _bert_like


register_family(
    _bert_like(
        "bert",
        "Bert",
        lm_heads=(r"cls\.predictions\.decoder",),
        pooler_activations=(r"pooler\.activation",),
        biases=(r"cls\.predictions\.bias",),
    )
)
