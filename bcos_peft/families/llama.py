"""Llama and the decoders built like it: Mistral, Qwen2, Qwen3, SmolLM3."""

from transformers.models.llama import modeling_llama
from transformers.models.mistral import modeling_mistral
from transformers.models.qwen2 import modeling_qwen2
from transformers.models.qwen3 import modeling_qwen3
from transformers.models.smollm3 import modeling_smollm3

from bcos_peft.families.base import register_family
from bcos_peft.families.tables import _llama_like
from bcos_peft.nn import BcosRMSNorm


_NORMS = {
    ("llama", "Llama"): modeling_llama.LlamaRMSNorm,
    ("mistral", "Mistral"): modeling_mistral.MistralRMSNorm,
    ("qwen2", "Qwen2"): modeling_qwen2.Qwen2RMSNorm,
    ("qwen3", "Qwen3"): modeling_qwen3.Qwen3RMSNorm,
    ("smollm3", "SmolLM3"): modeling_smollm3.SmolLM3RMSNorm,
}
for _names, _norm in _NORMS.items():
    register_family(_llama_like(*_names, replacements={_norm: BcosRMSNorm}))
