"""Which number of a model's output is explained: target, foil and position, checked and with their defaults."""

from __future__ import annotations

import torch
from torch import Tensor


def _read_logits(output, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Logits, `(batch, classes)` or `(batch, sequence, classes)`; for questions also probabilities over the tokens."""
    if "start_logits" not in output:
        if "logits" not in output:
            raise ValueError(
                f"The model gives a {type(output).__name__}, which has no logits to explain. Load it with its head: "
                "with the AutoModelFor… class of its task."
            )
        return output.logits, None
    logits = torch.stack([output.start_logits, output.end_logits], dim=-1)
    visible = logits.detach() if mask is None else logits.detach().masked_fill(mask[..., None] == 0, float("-inf"))
    return logits, visible.softmax(dim=1)


class _Choice:
    """The explained outputs of a batch.

    Args:
        at: the position, where `logits` are those of it alone.
        among: `(batch, sequence)`, the tokens of which one is chosen where no position is given.

    Attributes:
        all: every output is a target.
        target: `(batch, targets)`.
        foil: `(batch,)` or None.
        position: `(batch,)` or None; `(batch, targets)` where each target has its own.
        logits, probabilities: `(batch, classes)`, at `position`.

    Raises:
        ValueError: an argument does not fit the logits.
    """

    def __init__(
        self,
        logits: Tensor,
        mask: Tensor | None,
        causal: bool,
        target: int | Tensor | str | None,
        foil: int | Tensor | None,
        position: int | Tensor | None,
        probabilities: Tensor | None = None,
        independent: bool = False,
        at: Tensor | None = None,
        among: Tensor | None = None,
    ):
        if isinstance(target, str) and target != "all":
            raise ValueError(f"target must be an int, a tensor or 'all', got {target!r}.")
        self.all = isinstance(target, str)
        if self.all and foil is not None:
            raise ValueError("foil cannot go with target='all': contrast two targets at a time.")
        batch, classes = logits.shape[0], logits.shape[-1]
        device = logits.device
        target = None if self.all else _index("target", target, batch, classes, device)
        self.foil = _index("foil", foil, batch, classes, device)
        self.position = at
        if at is None and logits.dim() == 3:
            # Start and end of an answer are outputs of different tokens, the classes of a token are outputs of one.
            each = self.all and probabilities is not None
            self.position = _position(logits, mask, causal, target, position, among, each)
            logits = _at(logits, self.position)
            probabilities = None if probabilities is None else _at(probabilities, self.position)
        elif at is None and position is not None:
            raise ValueError(
                f"position={position!r} given, but this model has one output for the whole text. Leave it out."
            )
        self.logits = logits
        if probabilities is None:
            one_each = independent or classes == 1
            probabilities = logits.detach().sigmoid() if one_each else logits.detach().softmax(dim=-1)
        self.probabilities = probabilities
        if self.all:
            self.target = torch.arange(classes, device=device).expand(batch, classes)
        else:
            self.target = (logits.argmax(-1) if target is None else target).unsqueeze(1)
        if self.foil is not None and bool((self.foil == self.target[:, 0]).any()):
            row = int((self.foil == self.target[:, 0]).nonzero()[0])
            raise ValueError(
                f"foil equals target in row {row} (both are {int(self.foil[row])}): their difference is zero and has "
                "nothing to explain. Without target=..., the target is what the model predicts."
            )

    @property
    def probability(self) -> Tensor:
        """The probability of each target, `(batch, targets)`."""
        return self.probabilities.gather(1, self.target)

    def values(self) -> list[Tensor]:
        """For each target, the explained numbers of the batch, `(batch,)`: the logit, less that of the foil."""
        values = self.logits.gather(1, self.target)
        if self.foil is not None:
            values = values - self.logits.gather(1, self.foil.unsqueeze(1))
        return list(values.unbind(1))


class _ChosenTokens:
    """The explained values of places of sequences, `(places,)`, and what goes with them: next tokens, and foils."""

    def __init__(self, logits: Tensor, targets, foils):
        known = logits.detach()
        size = logits.shape[-1]
        self.predicted = known.argmax(-1)
        best = self.predicted.tolist()
        targets = [[best[i]] if row is None else list(row) for i, row in enumerate(targets)]
        # One of so many has to be something else than the targets.
        most = min(size, 1 + max(map(len, targets)))
        ranked = known.topk(most, dim=-1).indices.tolist()
        self.targets, self.foils = targets, []
        for row, wanted, best in zip(foils, targets, ranked, strict=True):
            second = [next(i for i in best if i not in set(wanted))] if isinstance(row, str) else row
            self.foils.append(list(second or []))
        for wanted, others in zip(self.targets, self.foils, strict=True):
            if both := sorted({*wanted} & {*others}):
                raise ValueError(
                    f"foil equals target (both have token {both[0]}): their difference is zero and has nothing to "
                    "explain. Without target=..., the target is what the model predicts."
                )
        entries = []
        for place, (wanted, others) in enumerate(zip(self.targets, self.foils, strict=True)):
            entries += [(place, token, 1.0) for token in wanted]
            entries += [(place, token, -len(wanted) / len(others)) for token in others]
        rows, tokens, weights = (torch.tensor(column, device=logits.device) for column in zip(*entries, strict=True))
        dtype = torch.promote_types(logits.dtype, torch.float32)
        parts = logits[rows, tokens].to(dtype) * weights.to(dtype)
        self.values = torch.zeros(len(logits), dtype=dtype, device=logits.device).index_add(0, rows, parts)
        total = torch.logsumexp(known.to(dtype), -1)
        wanted = weights > 0
        shares = (known[rows, tokens].to(dtype) - total[rows]).exp() * wanted
        self.probability = torch.zeros_like(total).index_add(0, rows, shares).clamp(max=1.0)


def _index(name: str, value, batch: int, size: int, device) -> Tensor | None:
    if value is None:
        return None
    index = torch.as_tensor(value, device=device)
    if index.is_floating_point() or index.dtype == torch.bool:
        raise ValueError(f"{name} must be an integer or a tensor of integers, got {value!r}.")
    if index.dim() > 1 or (index.dim() == 1 and len(index) != batch):
        raise ValueError(
            f"{name} must be one integer or one for each of the {batch} rows, got shape {tuple(index.shape)}."
        )
    if bool(((index < 0) | (index >= size)).any()):
        raise ValueError(f"{name} must be between 0 and {size - 1}, got {value!r}.")
    return index.long().expand(batch)


def _next_token_position(mask: Tensor, position: int | Tensor | None) -> Tensor:
    """The token whose next one is explained, `(batch,)`: as given, or the last that is no padding."""
    return mask.shape[1] - 1 - (mask != 0).flip(1).long().argmax(1) if position is None else _given(position, mask)


def _given(position: int | Tensor, mask: Tensor) -> Tensor:
    index = _index("position", position, *mask.shape, mask.device)
    if bool((mask.gather(1, index.unsqueeze(1)) == 0).any()):
        raise ValueError(f"position={position!r} is padding in at least one row.")
    return index


def _position(
    logits: Tensor,
    mask: Tensor | None,
    causal: bool,
    target: Tensor | None,
    position,
    among: Tensor | None = None,
    each: bool = False,
) -> Tensor:
    """The token whose output is explained, `(batch,)`; with `each`, where none is given, `(batch, classes)`."""
    batch, length, _ = logits.shape
    mask = torch.ones(batch, length, device=logits.device) if mask is None else mask.to(logits.device)
    if causal or position is not None:
        return _next_token_position(mask, position)
    mask = _candidates(mask, among)
    if each:
        return logits.masked_fill(~mask[..., None], float("-inf")).argmax(1)
    best = logits.amax(-1) if target is None else logits.gather(2, target[:, None, None].expand(-1, length, 1))[..., 0]
    return best.masked_fill(~mask, float("-inf")).argmax(1)


def _candidates(mask: Tensor, among: Tensor | None) -> Tensor:
    """The tokens that may be chosen, `(batch, sequence)` of bool: no padding, and of those that were named."""
    if among is None:
        return mask != 0
    if not isinstance(among, Tensor) or among.shape != mask.shape:
        got = tuple(among.shape) if isinstance(among, Tensor) else type(among).__name__
        raise ValueError(f"among must be a tensor of the shape of input_ids, {tuple(mask.shape)}, got {got}.")
    found = (among.to(mask.device) != 0) & (mask != 0)
    if bool((empty := ~found.any(1)).any()):
        raise ValueError(f"among leaves no token in row {int(empty.nonzero()[0])}: there is none to choose.")
    return found


def _at(values: Tensor, position: Tensor) -> Tensor:
    """Of `(batch, sequence, classes)` those at a position, `(batch, classes)`: one for a row, or for each class."""
    index = position[:, None, None].expand(-1, 1, values.shape[-1]) if position.dim() == 1 else position[:, None]
    return values.gather(1, index)[:, 0]
