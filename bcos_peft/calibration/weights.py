"""Reading and writing the weights of layers of every kind, and putting old ones back."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from bcos_peft.nn import BcosConv1D, is_quantized


def _matrix(module: nn.Module) -> Tensor:
    """A view of the weight, `(out, in)`; of a quantised one, what it stands for."""
    if is_quantized(module):
        return module.dequantized()
    return module.weight.t() if isinstance(module, BcosConv1D) else module.weight


class _Weights:
    """The weights of a model while it is calibrated. Old ones wait on disk, so that memory does not hold the model
    twice."""

    def __init__(self, model: nn.Module):
        self._model = model
        self._folder = tempfile.TemporaryDirectory(prefix="bcos-calibration-")
        self._files: list[Path] = []
        self._gained: list[nn.Module] = []
        # On some CPUs the first prediction would round 4-bit weights again.
        self._packing = [m for m in model.modules() if getattr(m, "support_avx512bf16_for_cpu", False)]
        for module in self._packing:
            module.support_avx512bf16_for_cpu = False

    def save(self, modules: dict[str, nn.Module]) -> None:
        """Keep the weights of modules, by name, as they are."""
        path = Path(self._folder.name) / f"{len(self._files)}.pt"
        weights = {f"{name}.{key}": value for name, m in modules.items() for key, value in m.named_parameters()}
        torch.save({name: weight.detach() for name, weight in weights.items()}, path)
        self._files.append(path)

    def write(self, module: nn.Module, weight: Tensor) -> None:
        """Give a module a new weight, `(out, in)`. A quantised one stays as it is, and the lengths of its rows become
        a gain beside it."""
        if not is_quantized(module):
            _matrix(module).copy_(weight)
            return
        old = _matrix(module).to(weight)
        factors = (weight * old).sum(1) / old.square().sum(1).clamp_min(torch.finfo(old.dtype).tiny)
        if (factors - 1).abs().max() > 1e-6:
            self._gained.append(module)
            module.scale_rows(factors)

    def restore(self) -> None:
        """Put everything back, and forget it."""
        with torch.no_grad():
            for path in reversed(self._files):
                for name, weight in torch.load(path, weights_only=True).items():
                    self._model.get_parameter(name).copy_(weight)
        for module in self._gained:
            module._modules.pop("gain", None)
        for module in self._packing:
            module.support_avx512bf16_for_cpu = True
        self.close()

    def close(self) -> None:
        """Forget the old weights."""
        self._files.clear()
        self._folder.cleanup()
