"""The model card, `README.md`, that is saved with a B-cos model."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from bcos_peft.config import BcosConfig


_CARD_NAME = "README.md"

# A card with this line is replaced at the next save; any other was written by somebody and stays.
_MARK = "<!-- Written by bcos_peft, which replaces this file at every save. Delete this line to keep your changes. -->"

# The end of a class name, and what the hub calls the task.
_PIPELINE_TAGS = {
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMaskedLM": "fill-mask",
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
}
_LICENCE_FIELDS = ("license", "license_name", "license_link")


def _render_card(
    config: BcosConfig, architecture: str, auto_class: str, model_id: str, tags: list[str], licence: dict[str, str]
) -> ModelCard:
    """The card of a converted model, without numbers.

    Args:
        config ([`BcosConfig`]): how it was converted.
        architecture (`str`): the name of its class.
        auto_class (`str`): the name of the Auto class that loads it.
        model_id (`str`): what to load it by: a repository on the hub, or a directory.
        tags (`list[str]`): for the hub's search.
        licence (`dict[str, str]`): as `_base_licence` gives; empty if unknown.

    Returns:
        [`~huggingface_hub.ModelCard`]: its metadata, and its text in Markdown.

    Example:
        >>> from bcos_peft import BcosConfig
        >>> base = BcosConfig(base_model_name_or_path="google-bert/bert-base-uncased")
        >>> card = _render_card(base, "BcosBertForMaskedLM", "AutoModelForMaskedLM", "me/bcos-bert", ["bcos"], {})
        >>> card.data.base_model, card.text.splitlines()[3]
        ('google-bert/bert-base-uncased', '# bcos-bert')
    """
    base = config.base_model_name_or_path
    task = next((tag for end, tag in _PIPELINE_TAGS.items() if architecture.endswith(end)), "feature-extraction")
    metadata = ModelCardData(
        base_model=base if _is_repository(base) else None,  # the hub refuses a path
        library_name="transformers",
        pipeline_tag=task,
        tags=tags,
        **(licence or {"license": "unknown"}),
    )
    settings = {
        key: value
        for key, value in config.to_dict().items()
        if key not in ("base_model_name_or_path", "bcos_version", "probe_residual")
    }
    card = ModelCard.from_template(
        metadata,
        # Not by its path: older versions of the hub's library read that in the encoding of the machine.
        template_str=(Path(__file__).parent / "templates" / "model_card.md.j2").read_text(encoding="utf-8"),
        mark=_MARK,
        title=_last_part(model_id),
        base_link=_base_link(base),
        auto_class=auto_class,
        model_id=model_id,
        explainable=task != "feature-extraction",
        licence=_licence_in_words(licence),
        architecture=architecture,
        b=_b_in_words(config),
        residual=_residual_in_words(config.probe_residual),
        version=config.bcos_version or "unknown",
        settings=json.dumps(settings, indent=2),
    )
    card.text += "\n"  # jinja2 cuts off the last one
    return card


def _is_generated(card: str) -> bool:
    """Whether a card is one of `_render_card`, which may be replaced.

    Example:
        >>> _is_generated("# My model")
        False
    """
    return _MARK in card


def _base_licence(base: str | None, online: bool) -> dict[str, str]:
    """The licence that the card of the base model states.

    Args:
        base (`str`, *optional*): a directory, or a repository on the hub.
        online (`bool`): ask the hub; otherwise look in its cache only.

    Returns:
        `dict[str, str]`: `license`, and `license_name` and `license_link` if they are stated; empty if unknown,
        whatever the reason.

    Example:
        >>> _base_licence(None, online=False)
        {}
    """
    try:
        path = _base_card(base, online)
        fields = {} if path is None else ModelCard.load(path, ignore_metadata_errors=True).data.to_dict()
        return {name: str(fields[name]) for name in _LICENCE_FIELDS if fields.get(name)}
    except Exception:  # no network, a private repository, a damaged card: no reason to lose a trained model
        return {}


def _base_card(base: str | None, online: bool) -> str | None:
    """Where the card of the base model lies, if it is to be had."""
    if base and os.path.isdir(base):
        path = os.path.join(base, _CARD_NAME)
    elif not _is_repository(base):
        return None
    else:
        path = hf_hub_download(base, _CARD_NAME) if online else try_to_load_from_cache(base, _CARD_NAME)
    return path if isinstance(path, str) and os.path.isfile(path) else None


def _is_repository(name: str | None) -> bool:
    if not name or os.path.exists(name):
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _last_part(model_id: str) -> str:
    return model_id.rstrip("/").rpartition("/")[2]


def _base_link(base: str | None) -> str | None:
    if _is_repository(base):
        return f"[{base}](https://huggingface.co/{base})"
    # Of a path only the last part: the rest says something of the machine, not of the model.
    name = base and _last_part(base.replace("\\", "/"))
    return f"`{name}` (a local directory)" if name else None


def _licence_in_words(licence: dict[str, Any]) -> str:
    if not licence:
        return "unknown; find it out before you share this model"
    return " ".join(filter(None, [licence.get("license_name") or licence["license"], licence.get("license_link")]))


def _b_in_words(config: BcosConfig) -> str:
    if not config.align:
        return "1 (biases removed, nothing else: `align=False`)"
    return f"{config.b:g}" + (", with exceptions: `b_pattern` below" if config.b_pattern else "")


def _residual_in_words(residual: float | None) -> str:
    if residual is None:
        return "not measured (converted with `verify=False`)"
    return f"{residual:.1e} of the sum of absolute contributions, on a short probe at conversion"
