"""What an explanation costs: passes through the model, time and memory."""

from __future__ import annotations

import time
import weakref
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from bcos_peft.evaluation.questions import Question


@dataclass
class Cost:
    """What a method has cost so far.

    A *call* is one pass through the model, a *row* one text in it: ten texts in a batch are one call and ten rows.

    Args:
        examples (`int`): questions answered.
        seconds (`float`): time for all of them.
        forward_calls (`int`), forward_rows (`int`): passes forwards.
        backward_calls (`int`), backward_rows (`int`): passes backwards.
        peak_memory (`int`, *optional*): bytes, the most that one question needed beyond what was there before it (the
            model). On a GPU what its allocator reports; on the CPU the bytes of all tensors alive at a time,
            without the scratch space inside of operations. `None`: not measured.

    Example:
        >>> from bcos_peft.evaluation import Cost
        >>> cost = Cost(examples=2, seconds=1.0, forward_rows=100)
        >>> cost.seconds_per_example, cost.to_dict()["forward_rows_per_example"]
        (0.5, 50.0)
    """

    examples: int = 0
    seconds: float = 0.0
    forward_calls: int = 0
    forward_rows: int = 0
    backward_calls: int = 0
    backward_rows: int = 0
    peak_memory: int | None = None

    def __add__(self, other: Cost) -> Cost:
        """Both together; of peak memory the greater."""
        total = {name: value + getattr(other, name) for name, value in asdict(self).items() if name != "peak_memory"}
        peaks = [peak for peak in (self.peak_memory, other.peak_memory) if peak is not None]
        return Cost(**total, peak_memory=max(peaks, default=None))

    @property
    def seconds_per_example(self) -> float:
        """Mean seconds for one question."""
        return self._each("seconds")

    def to_dict(self) -> dict[str, Any]:
        """The fields, and for each count its mean over the examples, `..._per_example`."""
        means = {f"{name}_per_example": self._each(name) for name in asdict(self) if name.endswith(("calls", "rows"))}
        return {**asdict(self), "seconds_per_example": self.seconds_per_example, **means}

    def _each(self, name: str) -> float:
        return getattr(self, name) / self.examples if self.examples else float("nan")


class Metered:
    """A method that counts what it costs. It is a method itself: it has the same name and gives the same scores.

    Args:
        method: any method: a callable `(model, question) -> scores` with a `name`.
        memory_examples (`int`, defaults to 1): on the CPU, where measuring memory slows a run down, so many first
            examples are run a second time for it, outside of the time and the counts. 0: no memory on the CPU.

    Attributes:
        cost ([`Cost`]): what all calls so far have cost.

    Example:
        >>> import torch
        >>> from bcos_peft.evaluation import Metered, Question, get_method
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(num_hidden_layers=1, hidden_size=16, num_attention_heads=2, intermediate_size=32)
        >>> method = Metered(get_method("integrated_gradients", steps=20, batch_size=10))
        >>> scores = method(BertForSequenceClassification(config), Question(torch.tensor([7, 8, 9]), target=1))
        >>> method.cost.forward_rows, method.cost.forward_calls, method.cost.backward_rows, method.cost.backward_calls
        (20, 2, 20, 2)
    """

    def __init__(self, method, memory_examples: int = 1):
        self.method = method
        self.name = method.name
        self.memory_examples = memory_examples
        self.cost = Cost()

    def __getattr__(self, name: str):
        if name == "method":  # while unpickled
            raise AttributeError(name)
        return getattr(self.method, name)

    def __call__(self, model: nn.Module, question: Question) -> Tensor:
        cost = self.cost
        device = next(model.parameters()).device
        on_gpu = device.type == "cuda"
        if on_gpu:
            torch.cuda.synchronize(device)
            before = torch.cuda.memory_allocated(device)
            torch.cuda.reset_peak_memory_stats(device)
        with model.register_forward_hook(self._count, with_kwargs=True):
            start = time.perf_counter()
            scores = self.method(model, question)
            if on_gpu:
                torch.cuda.synchronize(device)
            cost.seconds += time.perf_counter() - start
        cost.examples += 1
        if on_gpu:
            self._remember(torch.cuda.max_memory_allocated(device) - before)
        elif cost.examples <= self.memory_examples:
            with _LiveBytes(model) as live:
                self.method(model, question)
            self._remember(live.peak)
        return scores

    def _remember(self, peak: int) -> None:
        self.cost.peak_memory = max(self.cost.peak_memory or 0, peak)

    def _count(self, module, args, kwargs, output) -> None:
        logits = output if isinstance(output, Tensor) else output["logits"] if "logits" in output else output[0]
        texts = kwargs.get("input_ids", args[0] if args else None)
        rows = len(logits) if texts is None else len(texts)
        self.cost.forward_calls += 1
        self.cost.forward_rows += rows

        def backward(gradient: Tensor) -> None:
            self.cost.backward_calls += 1
            self.cost.backward_rows += rows

        if logits.requires_grad:
            logits.register_hook(backward)


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that are made inside and alive at the same time; `peak` is the most."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.now = self.peak = 0
        self._known = WeakIdKeyDictionary()
        for tensor in [*model.parameters(), *model.buffers()]:
            self._known[tensor.untyped_storage()] = True

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage) -> None:
        if storage in self._known:
            return
        self._known[storage] = True
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, size)

    def _drop(self, size: int) -> None:
        self.now -= size


def add_costs(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Two costs as `Cost.to_dict` gives them, added."""
    names = [one.name for one in fields(Cost)]
    one, two = (Cost(**{name: cost[name] for name in names if name in cost}) for cost in (first, second))
    return (one + two).to_dict()
