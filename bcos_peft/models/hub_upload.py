"""What a folder or a repository has already: weights that go, a card that stays; and the commit to the hub."""

from __future__ import annotations

import json
import re
from pathlib import Path

from huggingface_hub import (
    CommitInfo,
    CommitOperationAdd,
    CommitOperationDelete,
    EvalResult,
    HfApi,
    ModelCard,
    hf_hub_download,
)
from transformers import AutoConfig, PretrainedConfig
from transformers.models.auto import modeling_auto
from transformers.models.auto.auto_factory import _BaseAutoModelClass

from bcos_peft._utils.staging import settle
from bcos_peft.models.card import _CARD_NAME, _is_generated, _last_part
from bcos_peft.models.card_results import _stored_results, put_eval_results


BESIDE = "bcos_weights.safetensors"  # what was trained beside an adapter, in its folder
_ADAPTER = "adapter_config.json"

_STUB = "modeling_bcos"
_STUB_TEXT = '''\
"""Lets transformers load this B-cos model with `trust_remote_code=True`. All code is in the package bcos-peft."""

try:
    from bcos_peft.models import {names}
except ImportError as error:
    raise ImportError(
        "This is a B-cos model. Loading it needs the package bcos-peft: `pip install --upgrade bcos-peft`."
    ) from error

__all__ = {quoted}
'''

_SHARD = re.compile(r"-\d{5}-of-\d{5}(?=\.safetensors$)")


def _is_written_by_hand(card: Path) -> bool:
    """Whether a model card is there that this package did not write."""
    return card.exists() and not _is_generated(card.read_text(encoding="utf-8", errors="replace"))


def _with_additions(
    path: Path, repo_id: str, tags: list[str] | None = None, eval_results: list[EvalResult] | None = None
) -> ModelCard:
    """A card that somebody wrote, with more in its metadata. Its text stays."""
    card = ModelCard.load(path)
    if tags:
        card.data.tags = list(dict.fromkeys([*(card.data.tags or []), *tags]))
    if eval_results is not None:
        put_eval_results(card, eval_results, _last_part(repo_id), table=False)
    return card


def _with_numbers_of(theirs: Path, ours: Path, repo_id: str) -> bytes | Path:
    """Our card, with the numbers of the generated one that it replaces, if it has none itself."""
    numbers = _stored_results(theirs)
    if not numbers or _is_written_by_hand(ours) or _stored_results(ours):
        return ours
    card = ModelCard.load(ours)
    put_eval_results(card, numbers, _last_part(repo_id))
    return str(card).encode()


def stale_weights(written: list[str], existing: list[str]) -> list[str]:
    """Which of the existing files hold, or list, weights that the written ones replace."""
    stale = set()
    for name in written:
        if name.endswith(".safetensors"):
            whole = _SHARD.sub("", name)
            head, *variant = whole.removesuffix(".safetensors").split(".", 1)
            index = ".".join([head, "safetensors.index", *variant, "json"])
            stale |= {other for other in existing if other == index or _SHARD.sub("", other) == whole}
        if name.rpartition("/")[2] == _ADAPTER:  # what lies beside it was another's
            beside = (BESIDE, "adapter_model.safetensors", "adapter_model.bin")
            stale |= {name.removesuffix(_ADAPTER) + other for other in beside}.intersection(existing)
    return sorted(stale - set(written))


def upload(
    directory: Path,
    names: list[str],
    repo_id: str,
    *,
    private: bool | None = None,
    token: bool | str | None = None,
    revision: str | None = None,
    tags: list[str] | None = None,
    eval_results: list[EvalResult] | None = None,
    commit_message: str | None = None,
    commit_description: str | None = None,
    create_pr: bool = False,
) -> CommitInfo:
    """Commit files of a folder to the hub, and delete weights that they make stale; a card written by hand stays."""
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    if revision is not None and not revision.startswith("refs/pr"):
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    existing = api.list_repo_files(repo_id, revision=revision)
    content: dict[str, Path | bytes] = {name: directory / name for name in names}
    if _CARD_NAME in existing:
        theirs = Path(hf_hub_download(repo_id, _CARD_NAME, revision=revision, token=token))
        if _is_written_by_hand(theirs):
            content.pop(_CARD_NAME, None)
            if tags or eval_results is not None:
                content[_CARD_NAME] = str(_with_additions(theirs, repo_id, tags, eval_results)).encode()
        elif _CARD_NAME in content and eval_results is None:
            content[_CARD_NAME] = _with_numbers_of(theirs, directory / _CARD_NAME, repo_id)
    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=value) for name, value in content.items()]
    operations += [CommitOperationDelete(path_in_repo=name) for name in stale_weights(names, existing)]
    return api.create_commit(
        repo_id,
        operations,
        commit_message=commit_message or "Upload model",
        commit_description=commit_description,
        revision=revision,
        create_pr=create_pr,
    )


def _auto_model_classes() -> list[type[_BaseAutoModelClass]]:
    """The `AutoModel…` classes of transformers."""
    candidates = (getattr(modeling_auto, name) for name in modeling_auto.__all__ if name.startswith("AutoModel"))
    return [cls for cls in candidates if isinstance(cls, type) and getattr(cls, "_model_mapping", None) is not None]


def _auto_classes_of(model) -> list[str]:
    config, cls = type(model.config), type(model)
    names = [auto.__name__ for auto in _auto_model_classes() if auto._model_mapping.get(config, None) is cls]
    return sorted(names, key=lambda name: (not cls.__name__.endswith(name.removeprefix("Auto")[5:]), "Pre" in name))


def _add_stub(model, directory: Path) -> None:
    if model.config.auto_map:
        names = sorted({reference.rpartition(".")[2] for reference in model.config.auto_map.values()})
        text = _STUB_TEXT.format(names=", ".join(names), quoted=json.dumps(names))
        (directory / f"{_STUB}.py").write_text(text, encoding="utf-8")


class _UnfinishedConfig(PretrainedConfig):
    """Of a folder whose files were being changed when the process was killed: asks for it again when they are back."""

    model_type = "bcos_unfinished_save"

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        path = kwargs.pop("name_or_path", None) or config_dict.get("_name_or_path")
        if path is None or not settle(path):
            raise OSError(
                f"A save into {path!r} was interrupted. Load the model with its class of bcos_peft.models, which puts "
                "back what was there, or save it again."
            )
        kwargs.pop("_from_auto", None)
        return AutoConfig.from_pretrained(path, **kwargs)


# Files without which nobody reads the others, and what they say while those are being changed.
GATES = {"adapter_config.json": None, "config.json": json.dumps({"model_type": _UnfinishedConfig.model_type})}
