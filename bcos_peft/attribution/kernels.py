"""Fused kernels, whose operations cannot be seen: set aside for torch's own while a model is explained, or refused."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel


# Flash and flex attention, paged caches, kernels from the hub ("owner/name"). Others are written in torch.
_FUSED = re.compile(r"flash|flex|paged|/")


@contextmanager
def _torch_attention(model: PreTrainedModel) -> Iterator[None]:
    """Attention by `sdpa`, or `eager` where a model has no other, in the place of fused kernels."""
    known = [vars(module).get("config") for module in model.modules()]
    configs = {id(config): config for config in known if isinstance(config, PretrainedConfig)}
    before = [(config, config._attn_implementation) for config in configs.values()]
    fused = [(config, name) for config, name in before if name is not None and _FUSED.search(name)]
    try:
        for config, _ in fused:
            config._attn_implementation = "sdpa" if model._supports_sdpa else "eager"
        yield
    finally:
        for config, name in fused:
            config._attn_implementation = name


def _refuse_fused_scans(named: list[tuple[str, nn.Module]]) -> None:
    """Raises `ValueError` for a state-space layer that would run kernels of mamba-ssm or causal-conv1d."""
    for name, module in named:
        home = vars(sys.modules[type(module).__module__])
        fast = hasattr(type(module), "cuda_kernels_forward") and home.get("is_fast_path_available")
        if fast and any(parameter.is_cuda for parameter in module.parameters()):
            raise ValueError(
                f"Cannot explain: module {name!r} ({type(module).__name__}) runs fused kernels on the GPU, whose "
                "operations cannot be seen. Move the model to the CPU to explain it, model.cpu(), or load it where "
                "mamba-ssm and causal-conv1d are not installed."
            )
