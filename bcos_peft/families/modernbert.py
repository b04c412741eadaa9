"""ModernBERT: rotary positions, fused projections and a gated MLP."""

from bcos_peft.families.base import Family, hold_query_key, register_family
from bcos_peft.families.tables import _architectures


register_family(
    Family(
        model_type="modernbert",
        architectures=_architectures("ModernBert"),
        embeddings="embeddings",
        parts={"word": "embeddings.tok_embeddings"},
        held={r"attn\.Wqkv": hold_query_key},
        gates={r"mlp": "act"},
        plain=(r"attn\.Wqkv",),
        lm_heads=(r"decoder",),
    )
)
