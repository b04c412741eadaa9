"""Models for the command line."""

from __future__ import annotations


# The ends of the names of model classes that evaluation takes, and the Auto classes that load them.
_HEADS = {
    "ForSequenceClassification": "AutoModelForSequenceClassification",
    "ForCausalLM": "AutoModelForCausalLM",
    "LMHeadModel": "AutoModelForCausalLM",
}


def load_model(name: str, revision: str | None = None) -> tuple:
    """A sequence classifier or a causal language model, converted or not, and its tokenizer.

    Raises:
        ValueError: it has another head, or none, or there is no tokenizer with it.
    """
    import transformers

    architecture = (transformers.AutoConfig.from_pretrained(name, revision=revision).architectures or ["none"])[0]
    auto = next((auto for end, auto in _HEADS.items() if architecture.endswith(end)), None)
    if auto is None:
        raise ValueError(
            f"{name!r} is a {architecture}; evaluation takes sequence classifiers and causal language models."
        )
    tokenizer = load_tokenizer(name, revision)
    if tokenizer is None:
        raise ValueError(f"{name!r} has no tokenizer. Save it beside the model: tokenizer.save_pretrained({name!r}).")
    return getattr(transformers, auto).from_pretrained(name, revision=revision).eval(), tokenizer


def load_tokenizer(name: str, revision: str | None = None):
    """The tokenizer beside a model, or None."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
    except (OSError, ValueError, KeyError, ImportError):
        return None
    # Without files transformers may make a tokenizer that knows no word.
    return tokenizer if len(tokenizer) > len(tokenizer.all_special_tokens) else None
