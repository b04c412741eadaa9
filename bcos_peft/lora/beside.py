"""What is trained beside an adapter: gains of B-cos layers, norms, a head. No checkpoint of the base has them.

All adapters of a base share them, but for the gains in an adapter's own `modules_to_save`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bcos_peft.models import BESIDE, find_bcos_model
from bcos_peft.nn import BcosLayer, is_quantized


_GAIN = ".gain.weight"


def _save_beside(model: nn.Module, folder: str | Path, state_dict: Mapping[str, Tensor] | None = None) -> None:
    """Write what was trained outside the adapters, and all gains, into the folder of an adapter, or remove a file of
    such weights that was another adapter's.

    Args:
        model: with adapters.
        folder: where the adapter is; it may not exist, if another process saves.
        state_dict: the weights of `model`, gathered, where they lie on several processes.

    Raises:
        ValueError: a weight is not here, and not in `state_dict`.
    """
    if not Path(folder).is_dir():
        return
    bcos = find_bcos_model(model)
    ids = {id(parameter): name for name, parameter in model.named_parameters(remove_duplicate=False)}
    state_dict = state_dict or {}
    weights = {}
    for key, parameter in _outside(bcos):
        value = state_dict.get(ids[id(parameter)], parameter).detach()
        if hasattr(value, "device_mesh") or not value.numel():
            raise ValueError(
                f"{key!r} was trained beside the adapter, and its values lie on several processes. Save with "
                "trainer.save_model(...), or give save_pretrained(..., state_dict=...) the gathered weights."
            )
        weights[key] = value.cpu().contiguous().clone()
    if weights:
        save_file(weights, Path(folder) / BESIDE)
    else:
        (Path(folder) / BESIDE).unlink(missing_ok=True)


def _outside(bcos) -> Iterator[tuple[str, nn.Parameter]]:
    """What an adapter's own file does not have, by the name in a model without adapters."""
    trained = getattr(bcos, "bcos_trained", set())
    adapters = [name for name, module in bcos.named_modules() if hasattr(module, "adapter_layer_names")]
    for name, parameter in bcos.named_parameters():
        key = bcos.bcos_name(name)
        if name.endswith(_GAIN):  # those of modules_to_save too, which peft would load before there is room for them
            yield key, parameter
        elif parameter.requires_grad or key in trained:
            inside = [name[len(adapter) + 1 :] for adapter in adapters if name.startswith(f"{adapter}.")]
            if all(rest.startswith("base_layer.") for rest in inside):
                yield key, parameter


def _load_beside(model: nn.Module, adapter: str, path: str, again: bool = False, **options) -> Callable[[], None]:
    """Put them back, from a folder or a repository of the hub that has some.

    Args:
        model: with adapters.
        adapter: the one that they were saved beside.
        path: where.
        again: the adapter was in the model before, which goes back to an earlier state. Other adapters follow.
        **options: which revision, and how it is downloaded.

    Returns:
        A function that undoes it.

    Raises:
        ValueError: the adapter was trained on quantised weights, and its gains mean nothing on others; or the weights
            would change what other adapters compute. Nothing was changed.
    """
    bcos, undo = find_bcos_model(model), []

    def restore() -> None:
        for step in reversed(undo):
            step()

    file = _find(path, options)
    weights = load_file(file) if file is not None else {}
    gains = {key.removesuffix(_GAIN) for key in weights if key.endswith(_GAIN)}
    layers = {name: module for name, module in bcos.named_modules() if isinstance(module, BcosLayer)}
    layers = {name: module for name, module in layers.items() if bcos.bcos_name(name) in gains}
    layers = {name: module for name, module in layers.items() if _concerns(name, adapter)}
    if _of_quantised(model):
        for name, module in layers.items():
            if not is_quantized(module):
                raise ValueError(
                    f"The adapter was trained on a quantised base with calibrated rows, but {name!r} is a "
                    f"{type(module).__name__}. Load it with the quantisation of before, which is the default."
                )
    for module in layers.values():
        if getattr(module, "gain", None) is None:
            module.add_gain(module.weight.device)
            module.gain.requires_grad_(False)
            undo.append(partial(module._modules.pop, "gain", None))
    found = [
        (name, parameter, weights[bcos.bcos_name(name)])
        for name, parameter in bcos.named_parameters()
        if bcos.bcos_name(name) in weights and ".lora_" not in name and _concerns(name, adapter)
    ]
    others = [name for name in model.peft_config if name != adapter and not again]
    changed = next((name for name, parameter, value in found if others and _differ(name, parameter, value)), None)
    if changed is not None:
        restore()
        raise ValueError(
            f"The adapter {adapter!r} was trained with other values of {bcos.bcos_name(changed)!r} than the model "
            f"has. All adapters of a base share its gains, norms and head, so {others[0]!r} would give other logits. "
            "The model was not changed. Load the adapter on a base of its own: bcos_peft.load(path)."
        )
    with torch.no_grad():
        for _, parameter, value in found:
            undo.append(partial(parameter.data.copy_, parameter.detach().clone()))
            parameter.data.copy_(value)
    if weights:
        undo.append(partial(setattr, bcos, "bcos_trained", getattr(bcos, "bcos_trained", set())))
        bcos.bcos_trained = getattr(bcos, "bcos_trained", set()) | weights.keys()
    return restore


def _concerns(name: str, adapter: str) -> bool:
    """Whether a part of the model is an adapter's own, or every adapter's."""
    parts = name.split(".")
    if "modules_to_save" in parts:
        return parts[parts.index("modules_to_save") + 1] == adapter
    return "original_module" not in parts  # what the adapters' copies were made from


def _differ(name: str, parameter: nn.Parameter, value: Tensor) -> bool:
    """Whether putting a value in place would change what another adapter has to do with."""
    if parameter.is_meta or "modules_to_save" in name.split("."):
        return False
    return not torch.equal(parameter, value.to(parameter))


def _of_quantised(model: nn.Module) -> bool:
    return any((getattr(config, "bcos", None) or {}).get("quantization") for config in model.peft_config.values())


def _find(path: str, options: dict) -> Path | str | None:
    name = f"{options['subfolder']}/{BESIDE}" if options.get("subfolder") else BESIDE
    if Path(path).is_dir():
        return Path(path) / name if (Path(path) / name).exists() else None
    wanted = ("revision", "token", "cache_dir", "local_files_only")
    try:
        return hf_hub_download(path, name, **{key: options[key] for key in wanted if options.get(key) is not None})
    except EntryNotFoundError:  # without a network: not in the cache. If there is one, the logits will tell.
        return None
