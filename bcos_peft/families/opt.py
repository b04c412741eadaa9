"""OPT: word embeddings (projected, in the small models) plus position embeddings, added in the decoder itself."""

from bcos_peft.families.base import Family, hold, register_family


_OPT = register_family(
    Family(
        model_type="opt",
        architectures=("OPTForCausalLM", "OPTForSequenceClassification"),
        embeddings=None,
        parts={"word": "decoder.embed_tokens", "position": "decoder.embed_positions"},
        held={r"self_attn\.[qk]_proj": hold},
        # The outer projections are halves of factorised embeddings.
        plain=(r"self_attn\.[qkv]_proj", r"project_in", r"project_out"),
        lm_heads=(r"lm_head",),
        harmless_biases=(r"self_attn\.[qk]_proj",),
        causal=True,
    )
)
