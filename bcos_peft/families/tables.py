"""What tables of like architectures have in common."""

from __future__ import annotations

from typing import Any

from bcos_peft.families.base import Family, hold


def _architectures(prefix: str, *extra: str) -> tuple[str, ...]:
    """The model classes that most encoder families have, by the prefix of their names."""
    tasks = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForMaskedLM", *extra)
    return tuple(prefix + task for task in tasks)


def _decoder_architectures(prefix: str) -> tuple[str, ...]:
    """The model classes that most decoder families have."""
    return tuple(prefix + task for task in ("ForCausalLM", "ForSequenceClassification", "ForTokenClassification"))


def _bert_like(model_type: str, prefix: str, **more: Any) -> Family:
    """An encoder built like BERT; `more` are fields of `Family`, and take the place of those given here."""
    fields = {
        "architectures": _architectures(prefix),
        "embeddings": "embeddings",
        "parts": {
            "word": "embeddings.word_embeddings",
            "position": "embeddings.position_embeddings",
            "token_type": "embeddings.token_type_embeddings",
        },
        "held": {r"attention\.self\.(query|key)": hold},
        "plain": (r"attention\.self\.(query|key|value)",),
        "harmless_biases": (r"attention\.self\.(query|key)",),
    }
    return Family(model_type=model_type, **(fields | more))


def _llama_like(model_type: str, prefix: str, **more: Any) -> Family:
    """A decoder built like Llama; `more` are fields of `Family`, and take the place of those given here."""
    fields = {
        "architectures": _decoder_architectures(prefix),
        "embeddings": "embed_tokens",
        "parts": {"word": "embed_tokens"},
        "held": {r"self_attn\.[qk]_proj": hold},
        "gates": {r"mlp": "act_fn"},
        "plain": (r"self_attn\.[qkv]_proj",),
        "lm_heads": (r"lm_head",),
        "harmless_biases": (r"self_attn\.[qk]_proj",),
        "causal": True,
    }
    return Family(model_type=model_type, **(fields | more))
