"""ELECTRA."""

from bcos_peft.families.base import Family, _architectures, hold, register_family


_ELECTRA = register_family(
    Family(
        model_type="electra",
        architectures=_architectures("Electra"),
        embeddings="embeddings",
        parts={
            "word": "embeddings.word_embeddings",
            "position": "embeddings.position_embeddings",
            "token_type": "embeddings.token_type_embeddings",
        },
        held={r"attention\.self\.(query|key)": hold},
        # Half of a factorised embedding: it is part of what feeds the first block.
        plain=(r"attention\.self\.(query|key|value)", r"embeddings_project"),
        lm_heads=(r"generator_lm_head",),
        harmless_biases=(r"attention\.self\.(query|key)",),
    )
)
