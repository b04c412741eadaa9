"""BERT."""

from bcos_peft.families.base import Family, _architectures, hold, register_family


_BERT = register_family(
    Family(
        model_type="bert",
        architectures=_architectures("Bert"),
        embeddings="embeddings",
        parts={
            "word": "embeddings.word_embeddings",
            "position": "embeddings.position_embeddings",
            "token_type": "embeddings.token_type_embeddings",
        },
        held={r"attention\.self\.(query|key)": hold},
        plain=(r"attention\.self\.(query|key|value)",),
        lm_heads=(r"cls\.predictions\.decoder",),
        pooler_activations=(r"pooler\.activation",),
        biases=(r"cls\.predictions\.bias",),
        harmless_biases=(r"attention\.self\.(query|key)",),
    )
)
