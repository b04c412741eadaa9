"""The input of the linear map: the graph is cut where it enters a model, and gradient × input is read off there."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bcos_peft.discovery import vocabulary_of
from bcos_peft.families import Family
from bcos_peft.nn import widest
from bcos_peft.operations import Constants


_CACHED = 65536  # numbers in float64 that stay in cache
_TOKENS_AT_ONCE = 512  # of the vocabulary: a cache holds their embeddings, which are summed in float32

_START = "decoder_start"  # the token that starts an answer; that of a classifier belongs to no token of its text


@dataclass
class _Leaf:
    """One input of the linear map: what was looked up for every token, or a constant.

    Attributes:
        name: of its part: `"word"`, `"position"`; of a constant, of its parameter, or empty.
        tensor: `(batch, sequence, features)`, or transposed; a constant's is of any shape.
        stage: `"source"` or `"prefix"`, the input of an encoder or of a decoder after it.
        transposed: the sequence comes before the batch.
        is_shared: it is `(sequence, features)`, the same for all rows.
        start: how many places before the tokens there are, for learned inputs that are none.
        reference: `(features,)`, what it is compared with.
    """

    name: str
    tensor: Tensor
    stage: str = "source"
    transposed: bool = False
    start: int = 0
    is_constant: bool = False
    is_shared: bool = False
    reference: Tensor | None = None


@dataclass
class _Leaves:
    """What was cut in one forward pass.

    Args:
        ids: the token ids of each stage, `(batch, sequence)`.
        averaged: words are compared with the average word.
        constants: constants are inputs too.
    """

    ids: dict[str, Tensor]
    averaged: bool = False
    constants: bool = False
    found: list[_Leaf] = field(default_factory=list)
    stage: str = "source"

    @property
    def tensors(self) -> list[Tensor]:
        """What gradients are taken of."""
        return [leaf.tensor for leaf in self.found]

    @contextmanager
    def cut(self, model: PreTrainedModel, family: Family):
        """Cut the graph of the forward passes inside, in this thread."""
        # By all their names: once a model has more tokens, its two stacks may share one embedding.
        present, thread = dict(model.base_model.named_modules(remove_duplicate=False)), get_ident()
        paths, seen = {}, set()
        for name, path in family.parts.items():
            path = _path_in(present, path)
            if path is not None and present[path] not in seen:
                paths[name] = path
                seen.add(present[path])
        if self.averaged and "word" not in paths:
            raise ValueError(
                f"baseline='average' needs the word embedding, and the family of {family.model_type!r} names none: "
                "its parts lack the entry 'word'."
            )
        vocabulary = vocabulary_of(model)

        def hook_of(name: str):
            def hook(module, args, output):
                # That of another thread only predicts; a table of constants that is looked up again is the same.
                if get_ident() != thread:
                    return output
                found, *more = output if isinstance(output, tuple) else (output,)
                leaf = self._leaf(name, args[0] if args else None, found)
                if self.averaged and leaf.name == "word":
                    # Here, where sharded weights are whole and offloaded ones can be called for.
                    leaf.reference = average_embedding(module, vocabulary, output.device)
                self.found.append(leaf)
                # A copy, into which stock code may write.
                return (leaf.tensor.clone(), *more) if isinstance(output, tuple) else leaf.tensor.clone()

            return hook

        def enter_decoder(module, args, kwargs):
            if get_ident() == thread:
                self.stage = "prefix"
                # Classifiers make the answer so far of the source.
                self.ids.setdefault("prefix", next(iter(args), kwargs.get("input_ids")))

        mode = model.__dict__["_linear_mode"]
        with ExitStack() as stack:
            for name, path in paths.items():
                stack.callback(present[path].register_forward_hook(hook_of(name.partition("@")[0])).remove)
            if family.seq2seq:
                stack.callback(model.get_decoder().register_forward_pre_hook(enter_decoder, with_kwargs=True).remove)
            if self.constants or family.positions:
                mode.constants = _StagedConstants(self, dict(model.named_parameters()))
                stack.callback(setattr, mode, "constants", None)
            yield self

    def _leaf(self, name: str, ids: Any, output: Tensor) -> _Leaf:
        mine, batch = self.ids[self.stage], len(self.ids[self.stage])
        # GPT-2 looks token types up among the words, after these.
        first = not any(leaf.name == name and leaf.stage == self.stage for leaf in self.found)
        two = isinstance(ids, Tensor) and ids.dim() == 2  # positions may be called with a shape
        transposed = (
            two
            and ids.shape == mine.T.shape
            and (ids.shape != mine.shape or (torch.equal(ids, mine.T) and not torch.equal(ids, mine)))
        )
        start = 0
        if output.dim() == 3 and output.shape[1] > mine.shape[1]:
            # What else is looked up for the same places begins where the words do.
            alike = [one.start for one in self.found if one.tensor.shape[1:2] == output.shape[1:2]]
            start = alike[0] if alike else _start_of(ids, mine) if two else 0
        # Position embeddings come once for the whole batch; each row needs its own gradient.
        if not transposed and output.dim() == 3:
            output = output.expand(batch, *output.shape[1:])
        leaf = output.detach().requires_grad_()
        name = name if first or name != "word" else "token_type"
        return _Leaf(name, leaf, self.stage, transposed, start, is_shared=output.dim() == 2)

    def drop_unused(self, output: Tensor) -> None:
        """Forget constants that an output does not depend on, such as a mask: what is left belongs to all rows."""
        if any(leaf.is_constant for leaf in self.found):
            gradients = _gradients(output.sum(), self.tensors, retain=True)
            self.found = [leaf for leaf, found in zip(self.found, gradients, strict=True) if found is not None]

    def read_all(self, values: list[Tensor]) -> list[_Read]:
        """Contributions to each of some values, `(batch,)`; the last backward pass frees the graph as it goes."""
        rows = len(values[0])
        if not any(leaf.is_constant or leaf.is_shared for leaf in self.found) or rows == 1:
            last = len(values) - 1
            return [self.read(_gradients(v.sum(), self.tensors, i < last)) for i, v in enumerate(values)]
        # What all rows share says of each row only what a backward pass of its own says.
        each = [[self.read(_gradients(v[row], self.tensors, True), row) for row in range(rows)] for v in values]
        return [_joined(reads) for reads in each]

    def reads_twice(self) -> bool:
        """Whether the decoder reads the source again, moved by one place behind a token that starts it."""
        source, prefix = self.ids["source"], self.ids.get("prefix")
        return prefix is not None and prefix.shape == source.shape and torch.equal(prefix[:, 1:], source[:, :-1])

    def read(self, gradients: Sequence[Tensor | None], row: int | None = None) -> _Read:
        """What each part, and the constants, contribute, by the gradients of one value; of that of a `row`, if there
        is one."""
        read = _Read()
        for leaf, gradient in zip(self.found, gradients, strict=True):
            if gradient is None:
                continue
            if leaf.is_constant:
                wide = widest(leaf.tensor)
                share = (gradient.to(wide) * leaf.tensor.detach().to(wide)).real
                if leaf.tensor.dim():
                    share = share.sum(tuple(range(-leaf.tensor.dim(), 0)))
                read.constants[leaf.name] = read.constants.get(leaf.name, 0) + share
                continue
            scores = _contributions(gradient, leaf.tensor, leaf.reference)
            if leaf.is_shared:
                alone = scores.new_zeros(len(self.ids[leaf.stage]), scores.shape[-1])
                alone[row or 0] = scores
                scores = alone
            scores = scores.transpose(-1, -2) if leaf.transposed else scores
            length = self.ids[leaf.stage].shape[1]
            if scores.shape[-1] < length:  # looked up for something else than the tokens
                read.others[leaf.name] = read.others.get(leaf.name, 0) + scores.sum(-1)
                continue
            inside = scores[..., leaf.start : leaf.start + length]
            outside = scores.sum(-1) - inside.sum(-1)
            if leaf.start:
                read.others[leaf.name] = read.others.get(leaf.name, 0) + outside
            parts = read.parts.setdefault(leaf.stage, {})
            parts[leaf.name] = parts.get(leaf.name, 0) + inside
            if leaf.reference is not None:
                given = (gradient.to(leaf.reference) @ leaf.reference).sum(-1).to(scores.dtype)
                read.baseline = given if read.baseline is None else read.baseline + given
        return read


@dataclass
class _Read:
    """Contributions to one value.

    Attributes:
        parts: of each stage, by part, `(..., batch, sequence)`.
        baseline: `(..., batch)`, what the references give in all tokens' places.
        constants: by name, what constants give.
        others: by part, `(..., batch)`, what learned inputs that are no token give.
    """

    parts: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    baseline: Tensor | None = None
    constants: dict[str, Tensor] = field(default_factory=dict)
    others: dict[str, Tensor] = field(default_factory=dict)

    def join_stages(self) -> None:
        """Give each token of the source what it contributes in the decoder too, which stands one place later there."""
        for name, scores in self.parts.pop("prefix", {}).items():
            later = torch.nn.functional.pad(scores[..., 1:], (0, 1))
            self.parts["source"][name] = self.parts["source"].get(name, 0) + later
            self.others[_START] = self.others.get(_START, 0) + scores[..., 0]


def _gradients(value: Tensor, inputs: list[Tensor], retain: bool) -> Sequence[Tensor | None]:
    return torch.autograd.grad(value, inputs, retain_graph=retain, allow_unused=True)


def _joined(reads: list[_Read]) -> _Read:
    """Those of single rows, of which each has zeros in the places of the others, as one."""
    total = _Read()
    for stage in reads[0].parts:
        names = {name for read in reads for name in read.parts[stage]}
        total.parts[stage] = {name: sum(read.parts[stage].get(name, 0) for read in reads) for name in names}
    if reads[0].baseline is not None:
        total.baseline = sum(read.baseline for read in reads)
    for name in {name: None for read in reads for name in read.constants}:
        total.constants[name] = torch.stack([torch.as_tensor(read.constants.get(name, 0.0)) for read in reads])
    for name in {name for read in reads for name in read.others}:
        total.others[name] = sum(read.others[name] for read in reads)
    return total


class _StagedConstants(Constants):
    """Constants that know which input they belong to: positions, which are inputs, and all others."""

    def __init__(self, leaves: _Leaves, parameters: dict[str, Tensor]):
        super().__init__(frozenset(ids.shape[1] for ids in leaves.ids.values()), parameters)
        self._leaves = leaves

    def keep(self, name: str, leaf: Tensor) -> None:
        position = name == "position"
        if position or self._leaves.constants:
            self._leaves.found.append(_Leaf(name, leaf, self._leaves.stage, is_constant=not position))


def _path_in(present: dict[str, nn.Module], path: str) -> str | None:
    """The path of a part; of a body that is loaded without its head, or the other way round, it may be shorter."""
    if path in present:
        return path
    same = [name for name in present if name and (path.endswith(f".{name}") or name.endswith(f".{path}"))]
    return same[0] if len(same) == 1 else None


def _start_of(ids: Tensor, mine: Tensor) -> int:
    """How many ids stand before those of the tokens: a model may put some of its own in front."""
    length = mine.shape[1]
    for start in range(ids.shape[1] - length + 1):
        if len(ids) == len(mine) and torch.equal(ids[:, start : start + length], mine):
            return start
    return 0


@torch.no_grad()
def average_embedding(embedding: nn.Module, vocabulary: int, device: torch.device) -> Tensor:
    """The mean of what an embedding gives for the tokens of a vocabulary, `(features,)`, in the widest type."""
    total = 0
    for start in range(0, vocabulary, _TOKENS_AT_ONCE):
        tokens = torch.arange(start, min(start + _TOKENS_AT_ONCE, vocabulary), device=device)
        found = embedding.forward(tokens[None])[0]  # a call would run the hooks that ask for this
        part = found.sum(0, dtype=torch.promote_types(found.dtype, torch.float32))
        total = total + part.to(widest(found))
    return total / vocabulary


def _contributions(gradient: Tensor, leaf: Tensor, reference: Tensor | None = None) -> Tensor:
    """Gradient × (input − reference), summed over the embedding dimensions: `(..., sequence)`, in float32 at least."""
    wide, found = widest(leaf), []
    # On a CPU some tokens at a time, whose wide copies stay in cache.
    tokens = leaf.shape[-2]
    at_once = max(1, _CACHED * tokens // leaf.numel()) if leaf.device.type == "cpu" else tokens
    for of_some, some in zip(gradient.split(at_once, -2), leaf.detach().split(at_once, -2), strict=True):
        value = some.to(wide) if reference is None else some.to(wide) - reference
        found.append((of_some.to(wide) * value).sum(-1))
    return torch.cat(found, -1).to(torch.promote_types(leaf.dtype, torch.float32))
