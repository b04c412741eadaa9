"""Llama and the decoders built like it: Mistral, Qwen2, Qwen3, SmolLM3."""

from transformers.models.llama import modeling_llama
from transformers.models.mistral import modeling_mistral
from transformers.models.qwen2 import modeling_qwen2
from transformers.models.qwen3 import modeling_qwen3
from transformers.models.smollm3 import modeling_smollm3

from bcos_peft.families.base import Family, _decoder_architectures, hold, register_family
from bcos_peft.nn import BcosRMSNorm


def _family(model_type: str, prefix: str, norm: type) -> Family:
    return register_family(
        Family(
            model_type=model_type,
            architectures=_decoder_architectures(prefix),
            embeddings="embed_tokens",
            parts={"word": "embed_tokens"},
            held={r"self_attn\.[qk]_proj": hold},
            gates={r"mlp": "act_fn"},
            plain=(r"self_attn\.[qkv]_proj",),
            lm_heads=(r"lm_head",),
            replacements={norm: BcosRMSNorm},
            harmless_biases=(r"self_attn\.[qk]_proj",),
            causal=True,
        )
    )


_LLAMA = _family("llama", "Llama", modeling_llama.LlamaRMSNorm)
_MISTRAL = _family("mistral", "Mistral", modeling_mistral.MistralRMSNorm)
_QWEN2 = _family("qwen2", "Qwen2", modeling_qwen2.Qwen2RMSNorm)
_QWEN3 = _family("qwen3", "Qwen3", modeling_qwen3.Qwen3RMSNorm)
_SMOLLM3 = _family("smollm3", "SmolLM3", modeling_smollm3.SmolLM3RMSNorm)
