"""RoBERTa and XLM-R, which share one architecture."""

from transformers.models.roberta import modeling_roberta
from transformers.models.xlm_roberta import modeling_xlm_roberta

from bcos_peft.families.base import register_family
from bcos_peft.families.heads import _BcosClassificationHead, _BcosLMHead
from bcos_peft.families.tables import _bert_like


class _BcosRobertaClassificationHead(_BcosClassificationHead, modeling_roberta.RobertaClassificationHead):
    """The stock head calls `torch.tanh`."""


class _BcosRobertaLMHead(_BcosLMHead, modeling_roberta.RobertaLMHead):
    """The stock head calls `gelu` as a function."""


class _BcosXLMRobertaClassificationHead(_BcosClassificationHead, modeling_xlm_roberta.XLMRobertaClassificationHead):
    """The stock head calls `torch.tanh`."""


class _BcosXLMRobertaLMHead(_BcosLMHead, modeling_xlm_roberta.XLMRobertaLMHead):
    """The stock head calls `gelu` as a function."""


_HEADS = {
    "lm_heads": (r"lm_head\.decoder",),
    "pooler_activations": (r"pooler\.activation",),
    "biases": (r"lm_head\.bias",),
}

register_family(
    _bert_like(
        "roberta",
        "Roberta",
        **_HEADS,
        replacements={
            modeling_roberta.RobertaClassificationHead: _BcosRobertaClassificationHead,
            modeling_roberta.RobertaLMHead: _BcosRobertaLMHead,
        },
    )
)
register_family(
    _bert_like(
        "xlm-roberta",
        "XLMRoberta",
        **_HEADS,
        replacements={
            modeling_xlm_roberta.XLMRobertaClassificationHead: _BcosXLMRobertaClassificationHead,
            modeling_xlm_roberta.XLMRobertaLMHead: _BcosXLMRobertaLMHead,
        },
    )
)
