"""GPT-NeoX (Pythia)."""

import torch
from torch import Tensor
from transformers import PretrainedConfig

from bcos_peft.families.base import register_family
from bcos_peft.families.tables import _llama_like


def _hold_query_key(config: PretrainedConfig, output: Tensor) -> Tensor:
    # The projection interleaves the three by head: (..., heads, [q | k | v]).
    query_key, value = output.unflatten(-1, (config.num_attention_heads, 3, -1)).split([2, 1], dim=-2)
    return torch.cat([query_key.detach(), value], dim=-2).flatten(-3)


register_family(
    _llama_like(
        "gpt_neox",
        "GPTNeoX",
        embeddings="embed_in",
        parts={"word": "embed_in"},
        held={r"attention\.query_key_value": _hold_query_key},
        gates={},
        plain=(r"attention\.query_key_value",),
        harmless_biases=(),
    )
)
