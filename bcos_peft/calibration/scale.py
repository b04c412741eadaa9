"""How sure a calibrated language model is of its predictions: one number, which scales its last norm.

What calibration cannot undo is noise in the last hidden states. A model that takes it for signal is surer than it
should be; logits that are a little smaller are closer to the original's predictions.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bcos_peft.calibration.distill import _Head
from bcos_peft.nn import BcosNorm


_RANGE = (0.5, 2.0)
_PROBED = 1024  # tokens


class _PredictionScale:
    """Fits that number to what the original predicted.

    Args:
        model ([`~transformers.PreTrainedModel`]): a causal language model, before its conversion.

    Example:
        >>> import torch
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> small = LlamaConfig(num_hidden_layers=1, hidden_size=16, num_attention_heads=2, intermediate_size=32)
        >>> model, ids = LlamaForCausalLM(small), torch.arange(8)[None]
        >>> scale = _PredictionScale(model)
        >>> scale.record(lambda: model(ids)).logits.shape
        torch.Size([1, 8, 32000])
        >>> scale.fit(lambda: model(ids), torch.ones(8, dtype=torch.bool)) is None  # its norm is not a converted one
        True

    Source: temperature scaling (Guo et al., arXiv 1706.04599), here towards another model's predictions.
    """

    def __init__(self, model: PreTrainedModel):
        self._model = model
        self._head = _Head(model)
        self._wanted: list[Tensor] = []

    def record(self, read: Callable[[], object]) -> object:
        """Call `read`, in which the original predicts, and keep what reaches its head."""
        self._wanted, _, result = self._watch(read)
        return result

    def fit(self, read: Callable[[], object], mask: Tensor) -> tuple[BcosNorm, float] | None:
        """The last norm, and the factor that brings the predictions during `read` closest to those recorded;
        `None` where the head does not read a norm.

        The divergence KL(original ‖ calibrated) is convex in the factor.

        Args:
            read (`Callable`): in which the converted model predicts the same tokens.
            mask (`torch.Tensor`): `(tokens,)`, bool: False where there is padding.
        """
        found, norm, _ = self._watch(read)
        if norm is None:
            return None
        wanted, found = (torch.cat(hidden)[mask.to(hidden[0].device)] for hidden in (self._wanted, found))
        some = slice(None, None, -(-len(found) // _PROBED))
        wanted, found = wanted[some], found[some]
        return norm, _best_factor(lambda factor: float(self._head.divergence(wanted, factor * found)) / len(found))

    def _watch(self, read: Callable[[], object]) -> tuple[list[Tensor], BcosNorm | None, object]:
        inputs: list[Tensor] = []
        last: dict[str, object] = {"norm": None, "output": None, "feeds": None}

        def normed(module, args, output):
            last.update(norm=module, output=output)

        def headed(module, args):
            output = last["output"]
            same = output is not None and output.data_ptr() == args[0].data_ptr() and output.shape == args[0].shape
            last["feeds"] = last["norm"] if same else None
            inputs.append(args[0].detach().flatten(0, 1))

        hooks = [m.register_forward_hook(normed) for m in self._model.modules() if isinstance(m, BcosNorm)]
        hooks.append(self._model.get_output_embeddings().register_forward_pre_hook(headed))
        try:
            result = read()
        finally:
            for hook in hooks:
                hook.remove()
        return inputs, last["feeds"], result


def _best_factor(divergence: Callable[[float], float], tolerance: float = 0.01) -> float:
    """Where a convex function of one number is least, by golden section between 0.5 and 2; 1 if that is no better.

    Example:
        >>> round(_best_factor(lambda factor: (factor - 0.9) ** 2), 2)
        0.9
    """
    golden = (math.sqrt(5) - 1) / 2
    low, high = _RANGE
    inner = [high - golden * (high - low), low + golden * (high - low)]
    values = [divergence(point) for point in inner]
    while high - low > tolerance:
        if values[0] < values[1]:
            high, inner = inner[1], [inner[1] - golden * (inner[1] - low), inner[0]]
            values = [divergence(inner[0]), values[0]]
        else:
            low, inner = inner[0], [inner[1], inner[0] + golden * (high - inner[0])]
            values = [values[1], divergence(inner[1])]
    best = (low + high) / 2
    return best if divergence(best) < divergence(1.0) else 1.0
