"""The tables that come with the package: what is said of the architectures that are used most."""

from __future__ import annotations

from typing import Any

from bcos_peft.families.base import Family, register_family


_TASKS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForMaskedLM")
_DECODER_TASKS = ("ForCausalLM", "ForSequenceClassification", "ForTokenClassification")


def _encoder(model_type: str, prefix: str, **more: Any) -> None:
    """An encoder built like BERT; `more` are fields of `Family`, and take the place of those given here."""
    table = {
        "architectures": tuple(prefix + task for task in _TASKS),
        "parts": {
            "word": "embeddings.word_embeddings",
            "position": "embeddings.position_embeddings",
            "token_type": "embeddings.token_type_embeddings",
        },
        "plain": (r"attention\.self\.(query|key|value)",),
        "harmless_biases": (r"attention\.self\.(query|key)",),
    }
    register_family(Family(model_type, **(table | more)))


def _decoder(model_type: str, prefix: str, norm: str = "rms_norm", **more: Any) -> None:
    """A decoder built like Llama, with the kind of its norm."""
    table = {
        "architectures": tuple(prefix + task for task in _DECODER_TASKS),
        "parts": {"word": "embed_tokens"},
        "plain": (r"self_attn\.[qkv]_proj",),
        "lm_heads": (r"lm_head",),
        "harmless_biases": (r"self_attn\.[qk]_proj",),
        "replacements": {f"{prefix}RMSNorm": norm},
        "causal": True,
    }
    register_family(Family(model_type, **(table | more)))


_encoder(
    "bert",
    "Bert",
    lm_heads=(r"cls\.predictions\.decoder",),
    pooler_activations=(r"pooler\.activation",),
    biases=(r"cls\.predictions\.bias",),
)
for _type, _prefix in {"roberta": "Roberta", "xlm-roberta": "XLMRoberta"}.items():
    _encoder(
        _type,
        _prefix,
        lm_heads=(r"lm_head\.decoder",),
        pooler_activations=(r"pooler\.activation",),
        replacements={f"{_prefix}ClassificationHead": "head"},
        biases=(r"lm_head\.bias",),
    )
_encoder(
    "distilbert",
    "DistilBert",
    parts={"word": "embeddings.word_embeddings", "position": "embeddings.position_embeddings"},
    plain=(r"attention\.[qkv]_lin",),
    lm_heads=(r"vocab_projector",),
    replacements={"DistilBertForSequenceClassification": "distilbert_classifier"},
    harmless_biases=(r"attention\.[qk]_lin",),
)
_encoder(
    "electra",
    "Electra",
    # Half of a factorised embedding: it is part of what feeds the first block.
    plain=(r"attention\.self\.(query|key|value)", r"embeddings_project"),
    lm_heads=(r"generator_lm_head",),
)
_encoder(
    "modernbert",
    "ModernBert",
    parts={"word": "embeddings.tok_embeddings"},
    plain=(r"attn\.Wqkv",),
    lm_heads=(r"decoder",),
    harmless_biases=(),
)
# DeBERTa's position terms reach only the attention weights, which are held.
_encoder(
    "deberta",
    "Deberta",
    plain=(r"attention\.self\.(in_proj|pos_proj|pos_q_proj|head_logits_proj|head_weights_proj)", r"embed_proj"),
    lm_heads=(r"cls\.predictions\.decoder",),
    replacements={"ContextPooler": "head", "DebertaLayerNorm": "layer_norm"},
    biases=(r"cls\.predictions\.bias",),
    zeroed=(r"attention\.self\.[qv]_bias", r"lm_predictions\.lm_head\.bias"),
    harmless_biases=(r"attention\.self\.q_bias", r"attention\.self\.pos_q_proj"),
)
_encoder(
    "deberta-v2",
    "DebertaV2",
    plain=(r"attention\.self\.(query_proj|key_proj|value_proj|pos_key_proj|pos_query_proj)", r"embed_proj"),
    lm_heads=(r"cls\.predictions\.decoder",),
    replacements={"ContextPooler": "head"},
    biases=(r"cls\.predictions\.bias",),
    zeroed=(r"lm_predictions\.lm_head\.bias",),
    harmless_biases=(r"attention\.self\.(query_proj|key_proj|pos_key_proj|pos_query_proj)",),
)

for _type, _prefix in {
    "llama": "Llama",
    "mistral": "Mistral",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
    "smollm3": "SmolLM3",
}.items():
    _decoder(_type, _prefix)
for _type, _prefix in {"mixtral": "Mixtral", "qwen3_moe": "Qwen3Moe"}.items():
    _decoder(_type, _prefix, replacements={f"{_prefix}RMSNorm": "rms_norm", f"{_prefix}Experts": "experts"})
_decoder("gemma", "Gemma", "rms_norm_from_1")
_decoder("gemma2", "Gemma2", "rms_norm_from_1")
_decoder(
    "gemma3_text",
    "Gemma3",
    "rms_norm_from_1",
    architectures=("Gemma3ForCausalLM", "Gemma3TextForSequenceClassification"),
)
_decoder("phi3", "Phi3", plain=(r"self_attn\.qkv_proj",), harmless_biases=())
_decoder(
    "gpt_neox",
    "GPTNeoX",
    parts={"word": "embed_in"},
    plain=(r"attention\.query_key_value",),
    harmless_biases=(),
)
_decoder(
    "opt",
    "OPT",
    architectures=("OPTForCausalLM", "OPTForSequenceClassification"),
    parts={"word": "decoder.embed_tokens", "position": "decoder.embed_positions"},
    # The outer projections are halves of factorised embeddings.
    plain=(r"self_attn\.[qkv]_proj", r"project_in", r"project_out"),
)
_decoder(
    "gpt2",
    "GPT2",
    architectures=("GPT2LMHeadModel", "GPT2ForSequenceClassification", "GPT2ForTokenClassification"),
    parts={"word": "wte", "position": "wpe"},
    plain=(r"attn\.c_attn",),
    harmless_biases=(),
)
