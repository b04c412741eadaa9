"""The LoRA layer over a B-cos layer: the update is part of the cosine. Needs peft."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import VARIANT_KWARG_KEYS
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from bcos_peft.nn import LowRank


class BcosLora(LoraLinear):
    """peft's LoRA on a [`~bcos_peft.nn.layers.BcosLinear`] or its transposed form, inside the non-linearity.

    `y_i = |cos(x, v_i)|^(b-1) · v_i·x` with `V = W + s·B·A`, so that merging changes nothing. Everything else is
    peft's: parameter names, initialisation, scaling, several adapters, merging, saving.

    Dropout acts on what `A` sees, as in peft: in training the numerator of the cosine has its noise, and the norms
    are those of evaluation.

    Example:
        >>> import peft
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> from bcos_peft import BcosConfig, get_bcos_model
        >>> small = BertConfig(num_hidden_layers=1, hidden_size=16, num_attention_heads=2, intermediate_size=32)
        >>> model = get_bcos_model(BertForSequenceClassification(small), BcosConfig())
        >>> model = peft.get_peft_model(model, peft.LoraConfig(target_modules=["intermediate.dense", "query"]))
        >>> layer = model.base_model.model.bert.encoder.layer[0]
        >>> type(layer.intermediate.dense).__name__, type(layer.attention.self.query).__name__
        ('BcosLora', 'Linear')

    Source: LoRA (arXiv 2106.09685), section 4.1, in the B-cos transform (arXiv 2205.10268), equation 3.
    """

    @property
    def fan_in_fan_out(self) -> bool:
        """Whether the weight is `(in, out)`: the layer knows, whatever the adapter's config says."""
        return isinstance(self.get_base_layer(), Conv1D)

    @fan_in_fan_out.setter
    def fan_in_fan_out(self, value: bool) -> None:
        pass

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self._check_forward_args(x, *args, **kwargs)
        adapter_names = kwargs.pop("adapter_names", None)
        for key in VARIANT_KWARG_KEYS:
            kwargs.pop(key, None)
        if self.disable_adapters and self.merged:
            self.unmerge()
        if self.disable_adapters or self.merged:
            return self.base_layer(x)
        if adapter_names is not None:
            return self._mixed_batch_forward(x, adapter_names=adapter_names)
        return self._updated(x, self.active_adapters)

    def _updated(self, x: Tensor, adapters: list[str]) -> Tensor:
        adapters = [name for name in adapters if name in self.lora_A]
        if not adapters:
            return self.base_layer(x)
        hidden, down, up = [], [], []
        for name in adapters:
            lora_a = self.lora_A[name]
            hidden.append(lora_a(self.lora_dropout[name](self._cast_input_dtype(x, lora_a.weight.dtype))))
            down.append(lora_a.weight)
            up.append(self.lora_B[name].weight * self.scaling[name])
        return self.base_layer(x, LowRank(_joined(hidden, -1), _joined(down, 0), _joined(up, 1)))

    def _mixed_batch_forward(self, x: Tensor, *args: Any, adapter_names: list[str], **kwargs: Any) -> Tensor:
        """Rows of one batch through different adapters; `"__base__"` stands for none."""
        result = None
        for name in dict.fromkeys(adapter_names):
            rows = torch.tensor([i for i, other in enumerate(adapter_names) if other == name], device=x.device)
            y = self._updated(x.index_select(0, rows), [name])
            if result is None:
                result = y.new_empty(len(x), *y.shape[1:])
            result = result.index_copy(0, rows, y)
        return result


def _joined(tensors: list[Tensor], dim: int) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim)
