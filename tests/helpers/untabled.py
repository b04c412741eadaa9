"""Tiny models of architectures without a table: encoder-decoders, models without a head, and others."""

from __future__ import annotations

import copy
import functools

import torch
import transformers


VOCABULARY = 120
_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
_T5 = {"d_model": 32, "num_layers": 2, "num_heads": 4, "d_kv": 8, "d_ff": 48, "decoder_start_token_id": 0}
_BART = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
_BART |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "eos_token_id": 2, "pad_token_id": 1}
# Name of the class: its config class, and the fields of its config.
MODELS = {
    "T5ForConditionalGeneration": ("T5Config", _T5),
    "BartForConditionalGeneration": ("BartConfig", _BART),
    "MarianMTModel": ("MarianConfig", _BART | {"decoder_start_token_id": 1, "decoder_vocab_size": VOCABULARY}),
    "M2M100ForConditionalGeneration": ("M2M100Config", _BART),
    "BartForSequenceClassification": ("BartConfig", _BART),
    "MPNetForSequenceClassification": ("MPNetConfig", _SIZES),
    "MPNetModel": ("MPNetConfig", _SIZES),
    "BertModel": ("BertConfig", _SIZES),
    "FalconForCausalLM": ("FalconConfig", {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}),
    "GptOssForCausalLM": (
        "GptOssConfig",
        _SIZES | {"num_key_value_heads": 2, "head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2},
    ),
    "MambaForCausalLM": ("MambaConfig", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}),
}
SEQ2SEQ = tuple(name for name in MODELS if name.endswith(("ForConditionalGeneration", "MTModel")))


@functools.cache
def _stock(name: str):
    config, fields = MODELS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = getattr(transformers, config)(vocab_size=VOCABULARY, **fields)
        made._experts_implementation = "eager"  # the fused ones know no float64
        model = getattr(transformers, name)(made)
        with torch.no_grad():
            for parameter in model.parameters():
                if not parameter.requires_grad:  # sinusoidal positions, which are not saved
                    continue
                if parameter.dim() == 1:
                    parameter.add_(0.2 * torch.randn_like(parameter))
                else:
                    parameter.copy_(0.2 * torch.randn_like(parameter))
    return model.eval()


def stock(name: str, dtype: torch.dtype = torch.float64):
    """A stock model of a class, with biases that are not zero."""
    return copy.deepcopy(_stock(name)).to(dtype)


def inputs(name: str, rows: int = 2) -> dict[str, torch.Tensor]:
    """Token ids, of which the last row ends with padding; of an encoder-decoder that writes, an answer so far."""
    ids = (torch.arange(rows * 8).view(rows, 8) * 7 + 11) % (VOCABULARY - 10) + 5
    mask = torch.ones_like(ids)
    padding = 1 if name in SEQ2SEQ or name.startswith("Bart") else 0
    if rows > 1 and not name.endswith("CausalLM"):
        ids[-1, 6:], mask[-1, 6:] = padding, 0
    if name == "BartForSequenceClassification":
        ids[torch.arange(rows), mask.sum(1) - 1] = 2
    found = {"input_ids": ids, "attention_mask": mask}
    if name in SEQ2SEQ:
        found["decoder_input_ids"] = torch.tensor([[1, 31, 17, 52]] * rows)
    return found
