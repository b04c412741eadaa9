"""Mixtures of experts, Mixtral and Qwen3-MoE: experts are B-cos layers, the router's weights are held constant."""

import torch
from torch import Tensor, nn
from transformers.models.mixtral import modeling_mixtral
from transformers.models.qwen3_moe import modeling_qwen3_moe

from bcos_peft.families.base import Family, _decoder_architectures, hold, register_family
from bcos_peft.nn import BcosLayer, BcosRMSNorm


class BcosExperts(BcosLayer, nn.Module):
    """All experts of a block, `y = Σ_e r_e(x)·E_e(x)`, on their three-dimensional parameters.

    `gate_up_proj` is `(experts, 2·intermediate, hidden)`, `down_proj` `(experts, hidden, intermediate)`.
    """

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        output = torch.zeros_like(hidden_states)
        gate_up_proj, down_proj = self.gate_up_proj, self.down_proj  # an adapter makes them anew at each look
        norms = self.known_norms("gate_up_proj"), self.known_norms("down_proj")
        for expert in top_k_index.unique().tolist():
            token, choice = torch.where(top_k_index == expert)
            gate_up_norm, down_norm = (None if known is None else known[expert] for known in norms)
            mixed = self.bcos(hidden_states[token], gate_up_proj[expert], w_norm=gate_up_norm)
            gate, up = mixed.chunk(2, dim=-1)
            y = self.bcos(self.act_fn(gate) * up, down_proj[expert], w_norm=down_norm)
            y = y * top_k_weights[token, choice, None]
            output = output.index_add(0, token, y.to(output.dtype))
        return output

    def extra_repr(self) -> str:
        return f"{tuple(self.gate_up_proj.shape)}, {tuple(self.down_proj.shape)}, b={self.b}"


def _family(model_type: str, prefix: str, experts: type, norm: type) -> Family:
    return register_family(
        Family(
            model_type=model_type,
            architectures=_decoder_architectures(prefix),
            embeddings="embed_tokens",
            parts={"word": "embed_tokens"},
            held={
                r"self_attn\.[qk]_proj": hold,
                r"mlp\.gate": hold,
            },
            gates={r"mlp": "act_fn", r"mlp\.experts": "act_fn"},
            plain=(r"self_attn\.[qkv]_proj",),
            lm_heads=(r"lm_head",),
            replacements={experts: BcosExperts, norm: BcosRMSNorm},
            harmless_biases=(r"self_attn\.[qk]_proj",),
            causal=True,
        )
    )


_MIXTRAL = _family("mixtral", "Mixtral", modeling_mixtral.MixtralExperts, modeling_mixtral.MixtralRMSNorm)
_QWEN3_MOE = _family("qwen3_moe", "Qwen3Moe", modeling_qwen3_moe.Qwen3MoeExperts, modeling_qwen3_moe.Qwen3MoeRMSNorm)
