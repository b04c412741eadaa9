"""Mixtures of experts, Mixtral and Qwen3-MoE: experts are B-cos layers, the router's weights are held constant."""

import torch
from torch import Tensor, nn
from transformers.models.mixtral import modeling_mixtral
from transformers.models.qwen3_moe import modeling_qwen3_moe

from bcos_peft.families.base import hold, register_family
from bcos_peft.families.tables import _llama_like
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


_STOCK = {
    ("mixtral", "Mixtral"): (modeling_mixtral.MixtralExperts, modeling_mixtral.MixtralRMSNorm),
    ("qwen3_moe", "Qwen3Moe"): (modeling_qwen3_moe.Qwen3MoeExperts, modeling_qwen3_moe.Qwen3MoeRMSNorm),
}
for _names, (_experts, _norm) in _STOCK.items():
    register_family(
        _llama_like(
            *_names,
            held={r"self_attn\.[qk]_proj": hold, r"mlp\.gate": hold},
            gates={r"mlp": "act_fn", r"mlp\.experts": "act_fn"},
            replacements={_experts: BcosExperts, _norm: BcosRMSNorm},
        )
    )
