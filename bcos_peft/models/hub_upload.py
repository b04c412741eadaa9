"""What a folder or a repository has already: weights that go, a card that stays; and the commit to the hub."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard, hf_hub_download

from bcos_peft.models.card import _CARD_NAME, _is_generated


BESIDE = "bcos_weights.safetensors"  # what was trained beside an adapter, in its folder
_ADAPTER = "adapter_config.json"

_SHARD = re.compile(r"-\d{5}-of-\d{5}(?=\.safetensors$)")


def _is_written_by_hand(card: Path) -> bool:
    """Whether a model card is there that this package did not write."""
    return card.exists() and not _is_generated(card.read_text(encoding="utf-8", errors="replace"))


def _stale_weights(written: list[str], existing: list[str]) -> list[str]:
    """Which of the existing files hold, or list, weights that the written ones replace."""
    stale = set()
    for name in written:
        if name.endswith(".safetensors"):
            whole = _SHARD.sub("", name)
            head, *variant = whole.removesuffix(".safetensors").split(".", 1)
            index = ".".join([head, "safetensors.index", *variant, "json"])
            stale |= {other for other in existing if other == index or _SHARD.sub("", other) == whole}
        if name.rpartition("/")[2] == _ADAPTER:  # what lies beside it was another's
            stale |= {name.removesuffix(_ADAPTER) + BESIDE}.intersection(existing)
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
            if tags:
                card = ModelCard.load(theirs)
                card.data.tags = list(dict.fromkeys([*(card.data.tags or []), *tags]))
                content[_CARD_NAME] = str(card).encode()
    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=value) for name, value in content.items()]
    operations += [CommitOperationDelete(path_in_repo=name) for name in _stale_weights(names, existing)]
    return api.create_commit(
        repo_id,
        operations,
        commit_message=commit_message or "Upload model",
        commit_description=commit_description,
        revision=revision,
        create_pr=create_pr,
    )
