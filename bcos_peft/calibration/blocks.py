"""Running a model block by block: what each block is called with, what its layers read and give, and which of them
write to the residual stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from bcos_peft._utils.patterns import matches_any
from bcos_peft.calibration.running import (
    _Call,
    _Capture,
    _hidden,
    _run_block,
    _take_hidden,
)
from bcos_peft.families import Family
from bcos_peft.models import Plan


def _find_blocks(model: PreTrainedModel) -> dict[str, nn.Module]:
    """The transformer blocks by name, in order.

    Raises:
        ValueError: if there are none, or some of them are the same in part.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> small = BertConfig(num_hidden_layers=2, hidden_size=16, num_attention_heads=2, intermediate_size=32)
        >>> list(_find_blocks(BertModel(small)))
        ['encoder.layer.0', 'encoder.layer.1']
    """
    blocks: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(block + ".") for block in blocks)
        if isinstance(module, GradientCheckpointingLayer) and not inside:
            blocks[name] = module
    blocks = blocks or _listed(model)
    if not blocks:
        raise ValueError(
            f"Calibration goes block by block, and {type(model).__name__} has no blocks (modules that derive from "
            "transformers' GradientCheckpointingLayer, or lists of modules of one class). Convert it without "
            "calibration_data."
        )
    seen: dict[int, str] = {}
    for name, block in blocks.items():
        for parameter in block.parameters():
            first = seen.setdefault(id(parameter), name)
            if first != name:
                raise ValueError(
                    f"Calibration fits one block after another, and in {type(model).__name__} {first!r} and {name!r} "
                    "share layers. Convert it without calibration_data."
                )
    return blocks


def _listed(model: PreTrainedModel) -> dict[str, nn.Module]:
    """The entries of the outermost lists of modules of one class that have layers in them."""
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(block + ".") for block in found)
        if isinstance(module, nn.ModuleList) and not inside and len({type(entry) for entry in module}) == 1:
            if any(isinstance(part, nn.Linear) for part in module[0].modules()):
                found |= {f"{name}.{i}": entry for i, entry in enumerate(module)}
    return found


def _layers_outside(model: PreTrainedModel, plan: Plan, blocks: dict[str, nn.Module], family: Family) -> list[str]:
    """Linear layers that are in no block, but for language-modelling heads, which are never fitted."""
    embedded = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    return [
        name
        for name in (*plan.bcos, *plan.plain)
        if not any(name.startswith(block + ".") for block in blocks)
        and not matches_any(family.lm_heads, name)
        and id(getattr(model.get_submodule(name), "weight", None)) not in embedded
    ]


class _Stage:
    """Where the data stands: the input of the next block, batch by batch, and what else blocks are called with. Enter
    it around a forward pass of the whole model, once for each batch."""

    def __init__(self, model: PreTrainedModel, blocks: dict[str, nn.Module], outside: list[str]):
        self._blocks, self._first = blocks, next(iter(blocks))
        self._outside = {name: model.get_submodule(name) for name in outside}
        self.hidden: list[Tensor] = []
        self.outputs: dict[str, list[Tensor]] = {name: [] for name in outside}
        self.before_blocks: set[str] = set()
        # Inputs of blocks that do not read what the one before gave: something is between them.
        self.entering: dict[str, list[Tensor]] = {}
        self._calls: dict[str, list[_Call]] = {name: [] for name in blocks}
        self._last: Tensor | None = None

    def __enter__(self):
        self._capture = _Capture(self._outside)
        self._capture.__enter__()
        self._hooks = []
        for name, block in self._blocks.items():
            self._hooks.append(block.register_forward_pre_hook(self._before(name), with_kwargs=True))
            self._hooks.append(block.register_forward_hook(self._after))
        return self

    def __exit__(self, *_):
        self._capture.__exit__()
        for hook in self._hooks:
            hook.remove()

    def _before(self, name: str) -> Callable:
        def hook(module, args, kwargs):
            hidden, rest, kwargs = _take_hidden(args, kwargs)
            if name == self._first:
                self.hidden.append(hidden)
                self.before_blocks.update(self._capture.outputs)
            elif hidden is not self._last and not torch.equal(hidden, self._last):
                self.entering.setdefault(name, []).append(hidden)
            self._calls[name].append((rest, kwargs))

        return hook

    def _after(self, module, args, output):
        self._last = _hidden(output)

    def outputs_to(self, flatten: Callable[[Tensor], Tensor]) -> None:
        """Keep the outputs of the layers outside, after a pass."""
        for name, output in self._capture.outputs.items():
            if self._capture.calls[name] == 1:
                self.outputs[name].append(flatten(output))

    def call(self, name: str, batch: int) -> _Call:
        """The arguments of a block, with the hidden states as they stand now."""
        args, kwargs = self._calls[name][batch]
        return (self.hidden[batch], *args), kwargs

    def done(self, name: str) -> None:
        """Forget what a block was called with."""
        del self._calls[name]


def _repairs(
    block: nn.Module, linears: dict[str, nn.Module], args: tuple, kwargs: dict[str, Any]
) -> dict[str, nn.Module]:
    """Which layers write to the residual stream, each with a module that reads the stream before it.

    Found by looking: a layer's output and the input of an earlier module sum to the input of a later one, or to
    what the block gives.
    """
    leaves = {m for m in block.modules() if not any(True for _ in m.children()) and any(True for _ in m.parameters())}
    with _Capture(linears, leaves) as capture:
        final = _run_block(block, args, kwargs)
    after = [value for value in (*capture.inputs.values(), final) if torch.is_tensor(value)]
    found = {}
    for name, output in capture.outputs.items():
        if capture.calls[name] != 1 or not torch.is_tensor(output) or not output.any():
            continue  # what is zero, as of a layer that was pruned, would seem to write to every stream
        for module, before in capture.inputs.items():
            if module is linears[name] or before.shape != output.shape:
                continue
            total = before + output
            if any(value.shape == total.shape and _close(value[:1], total[:1]) for value in after):
                found[name] = module
                break
    return found


def _close(left: Tensor, right: Tensor) -> bool:
    scale = right.abs().amax()
    return bool((left - right).abs().amax() <= 4 * torch.finfo(right.dtype).eps * scale) and bool(scale > 0)
