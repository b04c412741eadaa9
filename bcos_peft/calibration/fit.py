"""Fitting layers of a model to the outputs that are wanted of them: their weights are read, written and kept."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bcos_peft.calibration.least_squares import _Fit, _fit_layers, _Layer
from bcos_peft.nn import BcosConv1D, BcosExperts, BcosLayer, StockExperts, is_quantized


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


def _is_trained(module: nn.Module) -> bool:
    """Whether a layer has a weight of its own that can be trained."""
    return not is_quantized(module) and not isinstance(module, (BcosExperts, StockExperts))


class _LayerFits:
    """Fits layers that read the same input, and keeps what was found for each.

    Args:
        model ([`~transformers.PreTrainedModel`]): the model of the layers.
        weights (`_Weights`): keeps the old ones.
        method (`str`): `"auto"`, `"ridge"` or `"rows"`; quantised layers have their rows scaled in any case.
        dtype (`torch.dtype`): of the inputs and outputs.

    Example:
        >>> import torch
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> small = BertConfig(num_hidden_layers=1, hidden_size=16, num_attention_heads=2, intermediate_size=32)
        >>> model = BertForSequenceClassification(small)
        >>> fits = _LayerFits(model, _Weights(model), "ridge", torch.float32)
        >>> x = torch.randn(200, 16, generator=torch.Generator().manual_seed(0))
        >>> with torch.no_grad():
        ...     fits.fit(x, {"classifier": (x[:, :2] + model.classifier.bias, None)}, torch.arange(200) % 5 == 0)
        >>> fits.found["classifier"].error < 0.001
        True
    """

    def __init__(self, model: PreTrainedModel, weights: _Weights, method: str, dtype: torch.dtype):
        self._model, self._weights, self._method, self._dtype = model, weights, method, dtype
        self.found: dict[str, _Fit] = {}

    def fit(self, x: Tensor, targets: dict[str, tuple[Tensor, Tensor | None]], held_out: Tensor) -> None:
        """Give layers the weights with which they come closest.

        Args:
            x (`torch.Tensor`): `(tokens, in)`, what all of them read.
            targets (`dict[str, tuple]`): by the layer's name what is wanted, `(tokens, out)`, and how much each token
                counts, `(tokens,)`, or `None`.
            held_out (`torch.Tensor`): `(tokens,)`, bool: the tokens that choose the strength of the fit.
        """
        modules = {name: self._model.get_submodule(name) for name in targets}
        layers = []
        for name, (target, importance) in targets.items():
            module = modules[name]
            bias = getattr(module, "bias", None)
            b = module.b if isinstance(module, BcosLayer) else None
            target = target if bias is None else target - bias.to(target)
            layers.append(_Layer(_matrix(module).to(self._dtype), b, target, importance))
        self._weights.save(modules)
        quantised = any(map(is_quantized, modules.values()))
        fits = _fit_layers(x, layers, held_out, "rows" if quantised else self._method)
        for (name, module), fit in zip(modules.items(), fits, strict=True):
            self.found[name] = fit
            self._weights.write(module, fit.weight)
