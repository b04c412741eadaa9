"""Models for the command line."""

from __future__ import annotations


__all__ = ["load_model"]

# The ends of the names of model classes that evaluation takes, and the Auto classes that load them.
_HEADS = {
    "ForSequenceClassification": "AutoModelForSequenceClassification",
    "ForCausalLM": "AutoModelForCausalLM",
    "LMHeadModel": "AutoModelForCausalLM",
}


def load_model(name: str, revision: str | None = None) -> tuple:
    """A sequence classifier or a causal language model, converted or not, and its tokenizer.

    Raises:
        ValueError: it has another head, or none.
    """
    import transformers

    architecture = (transformers.AutoConfig.from_pretrained(name, revision=revision).architectures or ["none"])[0]
    auto = next((auto for end, auto in _HEADS.items() if architecture.endswith(end)), None)
    if auto is None:
        raise ValueError(
            f"{name!r} is a {architecture}; evaluation takes sequence classifiers and causal language models."
        )
    tokenizer = transformers.AutoTokenizer.from_pretrained(name, revision=revision)
    return getattr(transformers, auto).from_pretrained(name, revision=revision).eval(), tokenizer
