"""Fitting layers of a model to the outputs that are wanted of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bcos_peft.calibration.least_squares import _Fit, _fit_layers, _Layer
from bcos_peft.calibration.weights import _matrix, _Weights
from bcos_peft.families import BcosExperts
from bcos_peft.nn import BcosLayer, is_quantized


def _is_trained(module: nn.Module) -> bool:
    """Whether a layer has a weight of its own that can be trained."""
    return not is_quantized(module) and not isinstance(module, BcosExperts)


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
        >>> from bcos_peft.calibration.weights import _Weights
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
