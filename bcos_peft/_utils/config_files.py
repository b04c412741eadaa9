"""Where the config of a saved B-cos model is found: in a directory, on the hub, or in its cache."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from bcos_peft._utils.staging import settle


__all__ = ["CONFIG_NAME", "stored_values"]

CONFIG_NAME = "bcos_config.json"


def stored_values(where: str, hub_kwargs: dict[str, Any]) -> Any:
    """What `bcos_config.json` holds, or the `"bcos"` entry of a model's `config.json`.

    Args:
        where (`str`): a directory, or a repository on the hub.
        hub_kwargs (`dict`): passed on to `huggingface_hub.hf_hub_download`.

    Raises:
        ValueError: there is neither, or it is not valid JSON, or the hub cannot be reached.
    """
    from huggingface_hub.errors import LocalEntryNotFoundError

    settle(where)
    unreachable = None
    for file_name in (CONFIG_NAME, "config.json"):
        try:
            path = _find_file(where, file_name, hub_kwargs)
        except LocalEntryNotFoundError as error:  # the hub could not be asked; the other file may be in the cache
            unreachable = error
            continue
        if path is None:
            continue
        values = _read_json(path, file_name, where)
        if file_name == CONFIG_NAME:
            return values
        if isinstance(values, dict) and values.get("bcos") is not None:
            return values["bcos"]
        unreachable = None  # it says enough: a model of another kind
    if unreachable is not None:
        raise ValueError(
            f"{where!r} is not in the cache, and the hub cannot be reached: check the network and HF_HUB_OFFLINE. If "
            "it is a directory, there is none of this name here."
        ) from unreachable
    if os.path.isfile(os.path.join(where, "adapter_config.json")):
        raise ValueError(f"{where!r} is an adapter, not a model: load it with bcos_peft.load({where!r}).")
    if where.startswith((".", os.sep)) and not os.path.exists(where):
        raise ValueError(f"{where!r} is not a B-cos model: there is no such folder.")
    raise ValueError(
        f"{where!r} is not a B-cos model: it has no {CONFIG_NAME} and no 'bcos' entry in a config.json. Convert "
        "a model with get_bcos_model(model, BcosConfig(...)) and save it with save_pretrained."
    )


def _read_json(path: str, file_name: str, where: str) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file_name} in {where!r} is not valid JSON ({error}). Save the model again.") from error


def _find_file(where: str, file_name: str, hub_kwargs: dict[str, Any]) -> str | None:
    if os.path.isdir(where):
        path = os.path.join(where, file_name)
        return path if os.path.isfile(path) else None
    if os.path.exists(where) or where.startswith((".", os.sep)):
        return None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return hf_hub_download(where, file_name, **hub_kwargs)
    except LocalEntryNotFoundError:  # an EntryNotFoundError too, but says nothing about the repository
        raise
    except EntryNotFoundError:
        return None
