"""Phi-3: fused projections in attention and MLP."""

import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.models.phi3 import modeling_phi3

from bcos_peft.families.base import register_family
from bcos_peft.families.tables import _llama_like
from bcos_peft.nn import BcosRMSNorm


def _hold_query_key(config: PretrainedConfig, output: Tensor) -> Tensor:
    # [q | k | v] with fewer key and value heads than query heads.
    groups = config.num_attention_heads + 2 * config.num_key_value_heads
    value_width = output.shape[-1] // groups * config.num_key_value_heads
    query_key, value = output.split([output.shape[-1] - value_width, value_width], dim=-1)
    return torch.cat([query_key.detach(), value], dim=-1)


register_family(
    _llama_like(
        "phi3",
        "Phi3",
        held={r"self_attn\.qkv_proj": _hold_query_key},
        gates={r"mlp": "activation_fn"},
        plain=(r"self_attn\.qkv_proj",),
        replacements={modeling_phi3.Phi3RMSNorm: BcosRMSNorm},
        harmless_biases=(),
    )
)
