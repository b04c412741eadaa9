"""Measured numbers on a model card: in its metadata, where the hub reads them, and as a table in its text."""

from __future__ import annotations

import logging
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard


_logger = logging.getLogger(__name__)

# Between these two lines the text is ours, on any card.
_BEGIN = "<!-- Numbers that bcos_peft was given. It replaces this section when it is given others. -->"
_END = "<!-- End of the numbers. -->"
_SECTION = re.compile(rf"\s*{re.escape(_BEGIN)}.*?{re.escape(_END)}", re.DOTALL)

_REQUIRED = ("task_type", "dataset_type", "dataset_name", "metric_type", "metric_value")
# The format of the hub has these once for all numbers of the same `EvalResult.unique_identifier`.
_SHARED = ("task_name", "dataset_name", "dataset_args", "source_name", "source_url")


def check_eval_results(eval_results: list[EvalResult] | None) -> list[EvalResult] | None:
    """Refuses, before anything is written, numbers that would not come back from the card as they are.

    Args:
        eval_results (`list[EvalResult]`, *optional*): as `save_pretrained` is given them.

    Returns:
        `list[EvalResult]`, *optional*: with values of numpy and torch as plain ones.

    Raises:
        TypeError: it is no list of [`~huggingface_hub.EvalResult`].
        ValueError: one lacks a value, has one that metadata cannot hold, or calls the same data by another name.

    Example:
        >>> from huggingface_hub import EvalResult
        >>> from bcos_peft.models import check_eval_results
        >>> accuracy = EvalResult("text-classification", "imdb", "IMDb", "accuracy", 0.9)
        >>> check_eval_results([accuracy]) == [accuracy]
        True
    """
    if eval_results is None:
        return None
    given = eval_results if isinstance(eval_results, list | tuple) else [eval_results]
    wrong = [type(one).__name__ for one in given if not isinstance(one, EvalResult)]
    if wrong or given is not eval_results:
        raise TypeError(
            f"eval_results must be a list of huggingface_hub.EvalResult, got {(wrong or ['a single one'])[0]}. Make "
            "them with EvaluationResult.eval_results(...), or by hand: [EvalResult(task_type='text-classification', "
            "dataset_type='stanfordnlp/imdb', dataset_name='IMDb', metric_type='accuracy', metric_value=0.9)]."
        )
    checked: list[EvalResult] = []
    for i, result in enumerate(eval_results):
        if hasattr(result.metric_value, "item"):
            result = replace(result, metric_value=result.metric_value.item())
        for name, value in vars(result).items():
            if not _is_plain(value) and (value is not None or name in _REQUIRED):
                raise ValueError(
                    f"eval_results[{i}] has {name}={value!r}, which the metadata of a card cannot hold. Give texts, "
                    "finite numbers, lists, or dicts with texts as keys."
                )
        alike = next((one for one in checked if one.unique_identifier == result.unique_identifier), result)
        for name in _SHARED:
            if getattr(alike, name) != getattr(result, name):
                raise ValueError(
                    f"eval_results[{i}] has {name}={getattr(result, name)!r}, and another result of the same task and "
                    f"data has {getattr(alike, name)!r}. A card holds one for both: give them the same, or tell the "
                    "data apart by dataset_config, dataset_split or dataset_type."
                )
        checked.append(result)
    return checked


def put_eval_results(card: ModelCard, eval_results: list[EvalResult], name: str, table: bool = True) -> None:
    """Puts numbers on a card, in place of those that it has.

    Args:
        card ([`~huggingface_hub.ModelCard`]): any; changed in place.
        eval_results (`list[EvalResult]`): as `check_eval_results` returns them. Empty: it has none any more.
        name (`str`): the model's, where the card has none.
        table (`bool`, defaults to `True`): add a table to the text. One that is there is brought up to date anyway.

    Example:
        >>> from huggingface_hub import EvalResult, ModelCard
        >>> from bcos_peft.models import put_eval_results
        >>> card = ModelCard("---\\nlicense: mit\\n---\\n# My model\\n")
        >>> put_eval_results(card, [EvalResult("text-classification", "imdb", "IMDb", "accuracy", 0.9)], "my-model")
        >>> card.data.eval_results[0].metric_value
        0.9
        >>> print(card.text.splitlines()[-3])
        | IMDb | accuracy | 0.9 |
    """
    # An empty list would be written as the index of a model without results.
    card.data.eval_results = list(eval_results) or None
    card.data.model_name = (card.data.model_name or name) if eval_results else None
    section = f"\n\n{_BEGIN}\n\n## Measured\n\n{_table(eval_results)}\n\n{_END}" if eval_results else ""
    if _SECTION.search(card.text):
        card.text = _SECTION.sub(lambda _: section, card.text)
    elif table and section:
        card.text = f"{card.text.rstrip()}{section}\n"


def _stored_results(path: Path) -> list[EvalResult]:
    """The numbers on a card, if it is there and can be read."""
    if not path.exists():
        return []
    try:
        return ModelCard.load(path, ignore_metadata_errors=True).data.eval_results or []
    except Exception as error:  # a damaged card is no reason to lose a trained model
        _logger.warning("%s cannot be read (%s). If there are measured numbers on it, they are not kept.", path, error)
        return []


def _is_plain(value: Any) -> bool:
    """Whether YAML gives back what it was given. Of others the hub's library makes YAML that it does not read."""
    if type(value) is dict:
        return all(type(key) is str for key in value) and all(map(_is_plain, value.values()))
    if type(value) is list:
        return all(map(_is_plain, value))
    return type(value) in (str, int, bool) or (type(value) is float and math.isfinite(value))


def _table(eval_results: list[EvalResult]) -> str:
    rows = [[_data(one), one.metric_name or one.metric_type, one.metric_value, _details(one)] for one in eval_results]
    header = ["Data", "Metric", "Value", "How"]
    width = len(header) if any(details for *_, details in rows) else len(header) - 1
    lines = [header, ["---", "---", "---:", "---"], *[[_escape(_shown(cell)) for cell in row] for row in rows]]
    return "\n".join(f"| {' | '.join(line[:width])} |" for line in lines)


def _data(result: EvalResult) -> str:
    parts = [result.dataset_config, result.dataset_split]
    return ", ".join([str(result.dataset_name), *[str(part) for part in parts if part is not None]])


def _details(result: EvalResult) -> str:
    details = {"config": result.metric_config} if result.metric_config is not None else {}
    return ", ".join(f"{name}: {_shown(value)}" for name, value in (details | (result.metric_args or {})).items())


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _escape(cell: str) -> str:
    # A cell ends at a bar, a row at a line's end, and a comment of HTML could end the section.
    return " ".join(cell.replace("|", "\\|").replace("<", "&lt;").split())
