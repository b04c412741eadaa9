"""RoBERTa and XLM-R, which share one architecture."""

from transformers.models.roberta import modeling_roberta
from transformers.models.xlm_roberta import modeling_xlm_roberta

from bcos_peft.families.base import Family, _architectures, hold, register_family
from bcos_peft.families.heads import _BcosClassificationHead, _BcosLMHead


class _BcosRobertaClassificationHead(_BcosClassificationHead, modeling_roberta.RobertaClassificationHead):
    """The stock head calls `torch.tanh`."""


class _BcosRobertaLMHead(_BcosLMHead, modeling_roberta.RobertaLMHead):
    """The stock head calls `gelu` as a function."""


class _BcosXLMRobertaClassificationHead(_BcosClassificationHead, modeling_xlm_roberta.XLMRobertaClassificationHead):
    """The stock head calls `torch.tanh`."""


class _BcosXLMRobertaLMHead(_BcosLMHead, modeling_xlm_roberta.XLMRobertaLMHead):
    """The stock head calls `gelu` as a function."""


def _family(model_type: str, prefix: str, replacements: dict[type, type]) -> Family:
    return Family(
        model_type=model_type,
        architectures=_architectures(prefix),
        embeddings="embeddings",
        parts={
            "word": "embeddings.word_embeddings",
            "position": "embeddings.position_embeddings",
            "token_type": "embeddings.token_type_embeddings",
        },
        held={r"attention\.self\.(query|key)": hold},
        plain=(r"attention\.self\.(query|key|value)",),
        lm_heads=(r"lm_head\.decoder",),
        pooler_activations=(r"pooler\.activation",),
        replacements=replacements,
        biases=(r"lm_head\.bias",),
        harmless_biases=(r"attention\.self\.(query|key)",),
    )


_ROBERTA = register_family(
    _family(
        "roberta",
        "Roberta",
        {
            modeling_roberta.RobertaClassificationHead: _BcosRobertaClassificationHead,
            modeling_roberta.RobertaLMHead: _BcosRobertaLMHead,
        },
    )
)

_XLM_ROBERTA = register_family(
    _family(
        "xlm-roberta",
        "XLMRoberta",
        {
            modeling_xlm_roberta.XLMRobertaClassificationHead: _BcosXLMRobertaClassificationHead,
            modeling_xlm_roberta.XLMRobertaLMHead: _BcosXLMRobertaLMHead,
        },
    )
)
