"""Gemma 1, 2 and 3 (text): norms scaled by `1 + weight`, and logits that are capped by a tanh."""

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.gemma import modeling_gemma
from transformers.models.gemma2 import modeling_gemma2
from transformers.models.gemma3 import modeling_gemma3
from transformers.utils.generic import can_return_tuple

from bcos_peft.families.base import Family, _decoder_architectures, hold, register_family
from bcos_peft.nn import BcosNorm, DynamicLinear, hold_ratio, rms_norm


class _BcosGemmaRMSNorm(BcosNorm, nn.Module):
    """RMSNorm with `1 + weight`, multiplied before the result is rounded to the input's precision."""

    eps: float

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return rms_norm(wide, 1.0 + self.weight.to(wide.dtype), self.eps, hold_scale=self.explaining).to(x.dtype)

    @torch.no_grad()
    def scale_output(self, factor: float) -> None:
        self.weight.copy_(factor * (1.0 + self.weight) - 1.0)

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}, eps={self.eps}"


class _SoftCapped(DynamicLinear):
    """A causal LM that caps its logits, `c·tanh(z/c)`, in its own forward."""

    def forward(self, *args, **kwargs):
        if self.config.final_logit_softcapping is None or not self.explaining:
            return super().forward(*args, **kwargs)
        return self._held(*args, **kwargs)

    # The stock forward with its cap held. Taking the cap off the config meanwhile would take it from other threads.
    @can_return_tuple
    def _held(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs,
    ) -> CausalLMOutputWithPast:
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            return_dict=True,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits, cap = self.lm_head(outputs.last_hidden_state[:, kept]), self.config.final_logit_softcapping
        logits = hold_ratio(logits, cap * torch.tanh(logits / cap))
        return CausalLMOutputWithPast(
            loss=None if labels is None else self.loss_function(logits, labels, self.vocab_size, **kwargs),
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


class _BcosGemma2LM(_SoftCapped, modeling_gemma2.Gemma2ForCausalLM):
    """Gemma 2."""


class _BcosGemma3LM(_SoftCapped, modeling_gemma3.Gemma3ForCausalLM):
    """Gemma 3, text."""


def _family(model_type: str, architectures: tuple[str, ...], replacements: dict[type, type]) -> Family:
    return register_family(
        Family(
            model_type=model_type,
            architectures=architectures,
            embeddings="embed_tokens",
            parts={"word": "embed_tokens"},
            held={r"self_attn\.[qk]_proj": hold},
            gates={r"mlp": "act_fn"},
            plain=(r"self_attn\.[qkv]_proj",),
            lm_heads=(r"lm_head",),
            replacements=replacements,
            harmless_biases=(r"self_attn\.[qk]_proj",),
            causal=True,
        )
    )


_GEMMA = _family("gemma", _decoder_architectures("Gemma"), {modeling_gemma.GemmaRMSNorm: _BcosGemmaRMSNorm})
_GEMMA2 = _family(
    "gemma2",
    _decoder_architectures("Gemma2"),
    {modeling_gemma2.Gemma2RMSNorm: _BcosGemmaRMSNorm, modeling_gemma2.Gemma2ForCausalLM: _BcosGemma2LM},
)
_GEMMA3 = _family(
    "gemma3_text",
    ("Gemma3ForCausalLM", "Gemma3TextForSequenceClassification"),
    {modeling_gemma3.Gemma3RMSNorm: _BcosGemmaRMSNorm, modeling_gemma3.Gemma3ForCausalLM: _BcosGemma3LM},
)
