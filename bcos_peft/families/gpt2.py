"""GPT-2: transposed linear layers, and position embeddings, whose contributions are part of the sum."""

from bcos_peft.families.base import Family, hold_query_key, register_family


register_family(
    Family(
        model_type="gpt2",
        architectures=("GPT2LMHeadModel", "GPT2ForSequenceClassification", "GPT2ForTokenClassification"),
        embeddings="drop",
        parts={"word": "wte", "position": "wpe"},
        held={r"attn\.c_attn": hold_query_key},
        plain=(r"attn\.c_attn",),
        lm_heads=(r"lm_head",),
        causal=True,
    )
)
