"""Models and tokenizers, from directories or the hub."""

from __future__ import annotations


# Tasks of the hub, and what the classes with their heads are called after "For".
_TASKS = {
    "text-classification": "SequenceClassification",
    "token-classification": "TokenClassification",
    "question-answering": "QuestionAnswering",
    "fill-mask": "MaskedLM",
    "text-generation": "CausalLM",
}


def _load_stock(name: str, task: str | None, num_labels: int | None, revision: str | None):
    """A model to be converted, with the head that it has or with that of a task.

    Raises:
        ValueError: there is no such task, or none is named and the model has no head.
    """
    if task is not None and task not in _TASKS:
        raise ValueError(f"--task {task!r} is unknown; there are: {', '.join(_TASKS)}.")
    architecture = _architecture(name, revision)
    head = _head(architecture) if task is None else _TASKS[task]
    if head is None:
        raise ValueError(f"{name!r} has no head of its own ({architecture}); choose one: --task {' | '.join(_TASKS)}.")
    labels = {} if num_labels is None else {"num_labels": num_labels, "ignore_mismatched_sizes": True}
    return _load_head(name, head, revision, **labels)


def _load_bcos(name: str, revision: str | None):
    """A converted model.

    Raises:
        ValueError: it is something else, or of a family that this process does not know.
    """
    from bcos_peft import BcosConfig, models

    BcosConfig.from_pretrained(name, revision=revision)  # says what is wrong with anything else
    architecture = _architecture(name, revision)
    cls = getattr(models, architecture, None)
    if cls is None:
        raise ValueError(
            f"{name!r} is a {architecture}, of no family that this package has. "
            "A family of your own is known in Python only, after register_family."
        )
    return cls.from_pretrained(name, revision=revision).eval()


def _load_any(name: str, revision: str | None) -> tuple:
    """A sequence classifier or a causal language model, converted or not, and its tokenizer.

    Raises:
        ValueError: it has another head, or none, or there is no tokenizer with it.
    """
    architecture = _architecture(name, revision)
    head = _head(architecture)
    if head not in ("SequenceClassification", "CausalLM"):
        raise ValueError(
            f"{name!r} is a {architecture}; evaluation takes sequence classifiers and causal language models."
        )
    tokenizer = _load_tokenizer(name, revision)
    return _load_head(name, head, revision), tokenizer


def _load_tokenizer(name: str, revision: str | None):
    """The tokenizer beside a model.

    Raises:
        ValueError: there is none.
    """
    tokenizer = _find_tokenizer(name, revision)
    if tokenizer is None:
        raise ValueError(f"{name!r} has no tokenizer. Save it beside the model: tokenizer.save_pretrained({name!r}).")
    return tokenizer


def _find_tokenizer(name: str, revision: str | None):
    """The tokenizer beside a model, or None."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
    except (OSError, ValueError, KeyError, ImportError):
        return None
    # Without files transformers may make a tokenizer that knows no word.
    return tokenizer if len(tokenizer) > len(tokenizer.all_special_tokens) else None


def _architecture(name: str, revision: str | None) -> str:
    """The class that a model was saved as."""
    from transformers import AutoConfig

    architectures = AutoConfig.from_pretrained(name, revision=revision).architectures
    return architectures[0] if architectures else "model of no architecture"


def _head(architecture: str) -> str | None:
    """The head of a class, as in `_TASKS`; None if it has none of them.

    Example:
        >>> _head("BertForMaskedLM"), _head("GPT2LMHeadModel"), _head("BertModel")
        ('MaskedLM', 'CausalLM', None)
    """
    head = "CausalLM" if architecture.endswith("LMHeadModel") else architecture.rpartition("For")[2]
    return head if head in _TASKS.values() else None


def _load_head(name: str, head: str, revision: str | None, **labels):
    import transformers

    return getattr(transformers, f"AutoModelFor{head}").from_pretrained(name, revision=revision, **labels).eval()
