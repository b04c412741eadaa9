"""Phi-3: fused projections in attention and MLP."""

import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.models.phi3 import modeling_phi3

from bcos_peft.families.base import Family, _decoder_architectures, register_family
from bcos_peft.nn import BcosRMSNorm


def _hold_query_key(config: PretrainedConfig, output: Tensor) -> Tensor:
    # [q | k | v] with fewer key and value heads than query heads.
    groups = config.num_attention_heads + 2 * config.num_key_value_heads
    value_width = output.shape[-1] // groups * config.num_key_value_heads
    query_key, value = output.split([output.shape[-1] - value_width, value_width], dim=-1)
    return torch.cat([query_key.detach(), value], dim=-1)


_PHI3 = register_family(
    Family(
        model_type="phi3",
        architectures=_decoder_architectures("Phi3"),
        embeddings="embed_tokens",
        parts={"word": "embed_tokens"},
        held={r"self_attn\.qkv_proj": _hold_query_key},
        gates={r"mlp": "activation_fn"},
        plain=(r"self_attn\.qkv_proj",),
        lm_heads=(r"lm_head",),
        replacements={modeling_phi3.Phi3RMSNorm: BcosRMSNorm},
        causal=True,
    )
)
