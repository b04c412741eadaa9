"""Gemma 1, 2 and 3 (text): norms scaled by `1 + weight`, and logits that are capped by a tanh."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.gemma import modeling_gemma
from transformers.models.gemma2 import modeling_gemma2
from transformers.models.gemma3 import modeling_gemma3
from transformers.utils.generic import can_return_tuple

from bcos_peft.families.base import register_family
from bcos_peft.families.heads import _arguments
from bcos_peft.families.tables import _llama_like
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

    @can_return_tuple
    def _held(
        self, labels: Tensor | None = None, logits_to_keep: int | Tensor = 0, **inputs
    ) -> CausalLMOutputWithPast:
        """The stock forward with its cap held. Taking the cap off the config meanwhile would take it from other
        threads."""
        outputs = self.model(**inputs, return_dict=True)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits, cap = self.lm_head(outputs.last_hidden_state[:, kept]), self.config.final_logit_softcapping
        logits = hold_ratio(logits, cap * torch.tanh(logits / cap))
        return CausalLMOutputWithPast(
            loss=None if labels is None else self.loss_function(logits, labels, self.vocab_size),
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


def _capped(stock: Callable) -> Callable:
    """A stock forward, by its own signature, whose cap is held while explaining."""

    @functools.wraps(stock)
    def forward(self, *args, **kwargs):
        if self.config.final_logit_softcapping is None or not self.explaining:
            return stock(self, *args, **kwargs)
        return self._held(**_arguments(stock, self, args, kwargs))

    return forward


class _BcosGemma2LM(_SoftCapped, modeling_gemma2.Gemma2ForCausalLM):
    """Gemma 2."""

    forward = _capped(modeling_gemma2.Gemma2ForCausalLM.forward)


class _BcosGemma3LM(_SoftCapped, modeling_gemma3.Gemma3ForCausalLM):
    """Gemma 3, text."""

    forward = _capped(modeling_gemma3.Gemma3ForCausalLM.forward)


register_family(_llama_like("gemma", "Gemma", replacements={modeling_gemma.GemmaRMSNorm: _BcosGemmaRMSNorm}))
register_family(
    _llama_like(
        "gemma2",
        "Gemma2",
        replacements={
            modeling_gemma2.Gemma2RMSNorm: _BcosGemmaRMSNorm,
            modeling_gemma2.Gemma2ForCausalLM: _BcosGemma2LM,
        },
    )
)
register_family(
    _llama_like(
        "gemma3_text",
        "Gemma3",
        architectures=("Gemma3ForCausalLM", "Gemma3TextForSequenceClassification"),
        replacements={
            modeling_gemma3.Gemma3RMSNorm: _BcosGemmaRMSNorm,
            modeling_gemma3.Gemma3ForCausalLM: _BcosGemma3LM,
        },
    )
)
