"""Models for the command line."""

from __future__ import annotations


# Tasks of the hub, and the end of the names of the classes that have their heads.
_TASKS = {
    "text-classification": "SequenceClassification",
    "token-classification": "TokenClassification",
    "question-answering": "QuestionAnswering",
    "fill-mask": "MaskedLM",
    "text-generation": "CausalLM",
}

# The ends of the names of model classes that evaluation takes, and the Auto classes that load them.
_HEADS = {
    "ForSequenceClassification": "AutoModelForSequenceClassification",
    "ForCausalLM": "AutoModelForCausalLM",
    "LMHeadModel": "AutoModelForCausalLM",
}


def _load_model(name: str, revision: str | None = None) -> tuple:
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
    tokenizer = _load_tokenizer(name, revision)
    if tokenizer is None:
        raise ValueError(f"{name!r} has no tokenizer. Save it beside the model: tokenizer.save_pretrained({name!r}).")
    return getattr(transformers, auto).from_pretrained(name, revision=revision).eval(), tokenizer


def _load_tokenizer(name: str, revision: str | None = None):
    """The tokenizer beside a model, or None."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
    except (OSError, ValueError, KeyError, ImportError):
        return None
    # Without files transformers may make a tokenizer that knows no word.
    return tokenizer if len(tokenizer) > len(tokenizer.all_special_tokens) else None


def _load_stock(name: str, task: str | None, num_labels: int | None, revision: str | None):
    import transformers

    if task is not None and task not in _TASKS:
        raise ValueError(f"--task {task!r} is unknown; there are: {', '.join(_TASKS)}.")
    config = transformers.AutoConfig.from_pretrained(name, revision=revision)
    if task is None:
        head = (config.architectures or ["none"])[0].rpartition("For")[2]
        if head not in _TASKS.values():
            raise ValueError(f"{name!r} has no head of its own ({head}); choose one: --task {' | '.join(_TASKS)}.")
    else:
        head = _TASKS[task]
    auto = getattr(transformers, f"AutoModelFor{head}")
    labels = {} if num_labels is None else {"num_labels": num_labels, "ignore_mismatched_sizes": True}
    return auto.from_pretrained(name, revision=revision, **labels)


def _load_bcos(name: str, revision: str | None):
    import transformers

    from bcos_peft import BcosConfig, models

    BcosConfig.from_pretrained(name, revision=revision)  # says what is wrong with anything else
    architecture = (transformers.AutoConfig.from_pretrained(name, revision=revision).architectures or [""])[0]
    cls = getattr(models, architecture, None)
    if cls is None:
        raise ValueError(
            f"{name!r} is a {architecture or 'model of no architecture'}, of no family that this package has. "
            "A family of your own is known in Python only, after register_family."
        )
    return cls.from_pretrained(name, revision=revision).eval()
