"""OPT: word embeddings (projected, in the small models) plus position embeddings, added in the decoder itself."""

from bcos_peft.families.base import register_family
from bcos_peft.families.tables import _llama_like


register_family(
    _llama_like(
        "opt",
        "OPT",
        architectures=("OPTForCausalLM", "OPTForSequenceClassification"),
        embeddings=None,
        parts={"word": "decoder.embed_tokens", "position": "decoder.embed_positions"},
        gates={},
        # The outer projections are halves of factorised embeddings.
        plain=(r"self_attn\.[qkv]_proj", r"project_in", r"project_out"),
    )
)
