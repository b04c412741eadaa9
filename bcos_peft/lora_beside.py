"""What is trained beside an adapter: gains of B-cos layers, norms, a head. No checkpoint of the base has them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bcos_peft.layers import BcosLayer
from bcos_peft.models import find_bcos_model
from bcos_peft.quantization import is_quantized


__all__ = ["load_beside", "save_beside"]

BESIDE = "bcos_weights.safetensors"
_GAIN = ".gain.weight"


def save_beside(model: nn.Module, folder: str | Path, state_dict: Mapping[str, Tensor] | None = None) -> None:
    """Write what was trained outside the adapters, and all gains, into the folder of an adapter.

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


def load_beside(model: nn.Module, path: str, **options) -> Callable[[], None]:
    """Put them back, from a folder or a repository of the hub that has some.

    Returns:
        A function that undoes it.

    Raises:
        ValueError: the adapter was trained on quantised weights, and its gains mean nothing on others.
    """
    bcos, undo = find_bcos_model(model), []
    file = _find(path, options)
    weights = load_file(file) if file is not None else {}
    gains = {key.removesuffix(_GAIN) for key in weights if key.endswith(_GAIN)}
    layers = {name: module for name, module in bcos.named_modules() if isinstance(module, BcosLayer)}
    layers = {name: module for name, module in layers.items() if bcos.bcos_name(name) in gains}
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
    with torch.no_grad():
        for name, parameter in bcos.named_parameters():
            value = weights.get(bcos.bcos_name(name))
            if value is not None and ".lora_" not in name:
                undo.append(partial(parameter.data.copy_, parameter.detach().clone()))
                parameter.data.copy_(value)
    if weights:
        bcos.bcos_trained = getattr(bcos, "bcos_trained", set()) | weights.keys()

    def restore() -> None:
        for step in reversed(undo):
            step()

    return restore


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
