"""GPT-NeoX (Pythia)."""

import torch
from torch import Tensor
from transformers import PretrainedConfig

from bcos_peft.families.base import Family, _decoder_architectures, register_family


def _hold_query_key(config: PretrainedConfig, output: Tensor) -> Tensor:
    # The projection interleaves the three by head: (..., heads, [q | k | v]).
    query_key, value = output.unflatten(-1, (config.num_attention_heads, 3, -1)).split([2, 1], dim=-2)
    return torch.cat([query_key.detach(), value], dim=-2).flatten(-3)


_GPT_NEOX = register_family(
    Family(
        model_type="gpt_neox",
        architectures=_decoder_architectures("GPTNeoX"),
        embeddings="embed_in",
        parts={"word": "embed_in"},
        held={r"attention\.query_key_value": _hold_query_key},
        plain=(r"attention\.query_key_value",),
        lm_heads=(r"lm_head",),
        causal=True,
    )
)
