"""Gains of quantised layers, beside an adapter: they belong to no checkpoint of the base."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import file_exists, hf_hub_download
from safetensors.torch import load_file, save_file
from torch import nn

from bcos_peft.layers import BcosLayer
from bcos_peft.models import find_bcos_model


__all__ = ["load_gains", "save_gains"]

GAINS = "bcos_gains.safetensors"


def save_gains(model: nn.Module, folder: str | Path) -> None:
    """Write the gains of quantised layers beside the adapter: they belong to no checkpoint of the base."""
    bcos = find_bcos_model(model)
    gains = {
        bcos.bcos_name(name): module.gain.weight.detach().cpu().contiguous()
        for name, module in bcos.named_modules()
        if isinstance(module, BcosLayer) and getattr(module, "gain", None) is not None
    }
    if gains and Path(folder).is_dir():
        save_file(gains, Path(folder) / GAINS)


def load_gains(model: nn.Module, path: str, **options) -> None:
    """Put them back, from a folder or a repository of the hub that has some."""
    file: Path | str | None = Path(path) / GAINS
    if not Path(path).is_dir():
        wanted = {key: options[key] for key in ("revision", "token", "cache_dir") if options.get(key) is not None}
        file = hf_hub_download(path, GAINS, **wanted) if file_exists(path, GAINS, **wanted) else None
    if file is None or not Path(file).exists():
        return
    gains, bcos = load_file(file), find_bcos_model(model)
    for name, module in bcos.named_modules():
        if isinstance(module, BcosLayer) and (gain := gains.get(bcos.bcos_name(name))) is not None:
            if not hasattr(module, "add_gain"):
                raise ValueError(
                    f"The adapter was trained on a quantised base with calibrated rows, but {name!r} is a "
                    f"{type(module).__name__}. Load it with the quantisation of before, which is the default."
                )
            module.add_gain(module.weight.device)
            module.gain.weight.data.copy_(gain)
