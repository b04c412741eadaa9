"""DeBERTa and DeBERTa-v2/v3: disentangled attention, whose position terms reach only the (held) attention weights."""

import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.activations import ACT2FN
from transformers.models.deberta import modeling_deberta as v1
from transformers.models.deberta_v2 import modeling_deberta_v2 as v2

from bcos_peft.families.base import hold, register_family
from bcos_peft.families.heads import FunctionalActivation
from bcos_peft.families.tables import _bert_like
from bcos_peft.nn import BcosNorm, layer_norm


class _BcosContextPooler(FunctionalActivation):
    """The pooler; the stock one looks its activation up when it runs."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        x = self.dense(self.dropout(hidden_states[:, 0]))
        name = self.config.pooler_hidden_act
        return (self.activate_pooled if name in ("tanh", "relu") else self.activate)(ACT2FN[name], x)


class _BcosDebertaPooler(_BcosContextPooler, v1.ContextPooler):
    """DeBERTa's."""


class _BcosDebertaV2Pooler(_BcosContextPooler, v2.ContextPooler):
    """DeBERTa-v2's."""


class _BcosDebertaLayerNorm(BcosNorm, v1.DebertaLayerNorm):
    """DeBERTa's own LayerNorm, which adds its bias in Python, and rounds float64 to float32."""

    @property
    def bias(self) -> Tensor:
        return self.weight.new_zeros(())

    def forward(self, hidden_states: Tensor) -> Tensor:
        if self.explaining or hidden_states.dtype == torch.float64:
            return layer_norm(hidden_states, self.weight, self.variance_epsilon)
        return super().forward(hidden_states)


class _BcosDebertaSelfAttention(v1.DisentangledSelfAttention):
    """Attention without the free-standing query and value biases, which the stock forward adds."""

    @property
    def q_bias(self) -> Tensor:
        return self.in_proj.weight.new_zeros(self.all_head_size)

    @property
    def v_bias(self) -> Tensor:
        return self.in_proj.weight.new_zeros(self.all_head_size)


class _BcosDebertaLMHead(v1.DebertaLMPredictionHead):
    """The stock head multiplies with the word embeddings and adds its bias in Python."""

    @property
    def bias(self) -> Tensor:
        return self.dense.weight.new_zeros(())


class _BcosDebertaV2LMHead(v2.DebertaV2LMPredictionHead):
    """The stock head multiplies with the word embeddings and adds its bias in Python."""

    @property
    def bias(self) -> Tensor:
        return self.dense.weight.new_zeros(())


class _BcosConvLayer(FunctionalActivation, v2.ConvLayer):
    """The convolution beside the first block of DeBERTa-v2; linear but for its activation and norm."""

    def forward(self, hidden_states: Tensor, residual_states: Tensor, input_mask: Tensor) -> Tensor:
        out = self.conv(hidden_states.transpose(1, 2)).transpose(1, 2)
        mask = input_mask.unsqueeze(-1).to(out.dtype)
        out = self.activate(ACT2FN[self.conv_act], self.dropout(out * mask))
        return self.LayerNorm(residual_states + out) * mask


def _hold_query_key(config: PretrainedConfig, output: Tensor) -> Tensor:
    # in_proj interleaves the three by head: (..., heads, [q | k | v]).
    query_key, value = output.unflatten(-1, (config.num_attention_heads, 3, -1)).split([2, 1], dim=-2)
    return torch.cat([query_key.detach(), value], dim=-2).flatten(-3)


_HEADS = {"lm_heads": (r"cls\.predictions\.decoder",)}
_BIASES = (r"cls\.predictions\.bias", r"lm_predictions\.lm_head\.bias")

register_family(
    _bert_like(
        "deberta",
        "Deberta",
        **_HEADS,
        held={r"attention\.self\.in_proj": _hold_query_key},
        plain=(r"attention\.self\.(in_proj|pos_proj|pos_q_proj|head_logits_proj|head_weights_proj)", r"embed_proj"),
        replacements={
            v1.ContextPooler: _BcosDebertaPooler,
            v1.DebertaLayerNorm: _BcosDebertaLayerNorm,
            v1.DisentangledSelfAttention: _BcosDebertaSelfAttention,
            v1.DebertaLMPredictionHead: _BcosDebertaLMHead,
        },
        biases=(*_BIASES, r"attention\.self\.[qv]_bias"),
        harmless_biases=(r"attention\.self\.q_bias", r"attention\.self\.pos_q_proj"),
    )
)
register_family(
    _bert_like(
        "deberta-v2",
        "DebertaV2",
        **_HEADS,
        held={r"attention\.self\.(query|key)_proj": hold},
        plain=(r"attention\.self\.(query_proj|key_proj|value_proj|pos_key_proj|pos_query_proj)", r"embed_proj"),
        replacements={
            v2.ContextPooler: _BcosDebertaV2Pooler,
            v2.ConvLayer: _BcosConvLayer,
            v2.DebertaV2LMPredictionHead: _BcosDebertaV2LMHead,
        },
        biases=_BIASES,
        harmless_biases=(r"attention\.self\.(query_proj|key_proj|pos_key_proj|pos_query_proj)",),
    )
)
