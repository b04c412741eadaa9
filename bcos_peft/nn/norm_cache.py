"""`steady_weights`: while the weights of a model keep still, what depends on them alone is computed once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from torch import nn

from bcos_peft.nn.layers import BcosLayer


class _OfThisLayer(dict):
    """What a layer knows of its own weights. Those of a copy of it are others, so a copy knows nothing."""

    def __reduce_ex__(self, protocol):
        return type(None), ()


_LOCK = Lock()
_USERS: Counter[BcosLayer] = Counter()  # modules are hashed by identity


@contextmanager
def steady_weights(model: nn.Module) -> Iterator[nn.Module]:
    """Promise that no weight of a model changes within a `with` block, which makes short inputs faster.

    A B-cos layer divides by the norms of its rows, and takes them of the weights as they are at that moment. For a
    single token that reads all weights a second time, and reading is what takes the time: a language model would
    write at half the speed. Within the block the norms are taken once. `generate` of a converted model does this
    by itself; for many short texts, one by one, it is yours to say. Outputs are the same, bit for bit.

    Blocks may be nested, and threads may each have one. A weight that is changed in place all the same, as optimizers
    and `load_state_dict` do it, is noticed, except by compiled code; one that is changed through `.data` is not.

    Args:
        model (`torch.nn.Module`): a converted model, or a wrapper around one. Any other is left alone.

    Yields:
        `torch.nn.Module`: the same model.

    Raises:
        TypeError: `model` is not a module.

    Example:
        >>> import torch
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> from bcos_peft import BcosConfig, get_bcos_model, steady_weights
        >>> small = BertConfig(num_hidden_layers=1, hidden_size=16, num_attention_heads=2, intermediate_size=32)
        >>> model = get_bcos_model(BertForSequenceClassification(small), BcosConfig())
        >>> with torch.no_grad(), steady_weights(model):
        ...     sizes = [model(torch.tensor([ids])).logits.shape[1] for ids in ([7, 8], [9])]
        >>> sizes
        [2, 2]
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}.")
    layers = [module for module in model.modules() if isinstance(module, BcosLayer)]
    with _LOCK:
        for layer in layers:
            _USERS[layer] += 1
            if layer.steady is None:
                layer.steady = _OfThisLayer()
    try:
        yield model
    finally:
        with _LOCK:
            for layer in layers:
                _USERS[layer] -= 1
                if not _USERS[layer]:
                    del _USERS[layer]
                    layer.steady = None


class SteadyGeneration:
    """For models that generate: weights keep still meanwhile.

    Example:
        >>> from bcos_peft.nn import SteadyGeneration
        >>> from bcos_peft import BcosConfig, get_bcos_model
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> tiny = LlamaConfig(num_hidden_layers=1, hidden_size=16, num_attention_heads=2, intermediate_size=32)
        >>> isinstance(get_bcos_model(LlamaForCausalLM(tiny), BcosConfig(b=1.1)), SteadyGeneration)
        True
    """

    def generate(self, *args, **kwargs):
        """As in transformers."""
        with steady_weights(self):
            return super().generate(*args, **kwargs)
