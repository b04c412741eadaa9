"""More texts for models that cannot write their own: variations of the ones given."""

from __future__ import annotations

import random
from collections.abc import Set

import torch
from torch import Tensor, nn


__all__ = ["neighbours", "variations"]

_REPLACED = 0.5  # share of the tokens that become another
_NEIGHBOURS = 10  # to draw from
_ROWS = 64  # of similarities, which are in memory at a time


def variations(
    rows: list[dict[str, list]], tokens: int, embeddings: Tensor, kept: Set[int] = frozenset()
) -> list[dict[str, list]]:
    """Texts made of given ones, about `tokens` in all: half of the words are replaced by others whose embeddings are
    near, as `film` by `movie`, `films` or `cinema`.

    What they say does not matter: what is asked of each layer of a converted model is what the original's gave for the
    same input. That inputs are like those that the model is for does: words in any order, or any words, say less.

    Args:
        rows (`list[dict[str, list]]`): texts, with `input_ids`. Token ids that are in all of them, as `[CLS]` and
            `[SEP]` are, stay where they are.
        tokens (`int`): when there is enough.
        embeddings (`torch.Tensor`): `(token ids, width)`, the model's.
        kept (`Set[int]`): token ids that are neither replaced nor put anywhere, such as that of padding.

    Returns:
        `list[dict[str, list]]`: the same for the same arguments; as long as the texts are, in their order, again and
        again.

    Example:
        >>> import torch
        >>> from bcos_peft.calibration_variations import variations
        >>> rows = [{"input_ids": [1, 10, 11, 12, 2]}, {"input_ids": [1, 20, 21, 2]}]
        >>> made = variations(rows, 16, torch.randn(100, 8, generator=torch.Generator().manual_seed(0)))
        >>> [len(row["input_ids"]) for row in made], made[0]["input_ids"][0]
        ([5, 4, 5, 4], 1)

    Source: Wang & Yang, EMNLP 2015 (doi 10.18653/v1/D15-1306), who augment labelled texts so. Here, without labels, a
    word may as well become its opposite.
    """
    generator = random.Random(0)
    kept = set(kept) | set.intersection(*(set(row["input_ids"]) for row in rows))
    near = neighbours({token for row in rows for token in row["input_ids"]} - kept, embeddings, kept)
    made, count = [], 0
    while any(near.values()) and count < tokens:
        row = rows[len(made) % len(rows)]
        ids = [
            generator.choice(near[token]) if near.get(token) and generator.random() < _REPLACED else token
            for token in row["input_ids"]
        ]
        made.append(row | {"input_ids": ids})
        count += len(ids)
    return made


def neighbours(tokens: Set[int], embeddings: Tensor, kept: Set[int]) -> dict[int, list[int]]:
    """For each token the ten whose embeddings, without the mean of all, have the largest cosine with its own; none of
    `kept`.

    Example:
        >>> import torch
        >>> from bcos_peft.calibration_variations import neighbours
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.9, 0.1], [-1.0, 0.1], [-0.9, -0.2]])
        >>> neighbours({0, 3}, embeddings, kept={1})[3]
        [2, 0]
    """
    embeddings = embeddings.detach().float()
    directions = nn.functional.normalize(embeddings - embeddings.mean(0), dim=-1)
    away = [token for token in sorted(kept) if 0 <= token < len(embeddings)]
    count = min(_NEIGHBOURS, len(embeddings) - len(away) - 1)
    found: dict[int, list[int]] = {}
    if count < 1:
        return found
    for part in torch.tensor(sorted(tokens), device=embeddings.device).split(_ROWS):
        cosines = directions[part] @ directions.t()
        cosines[:, away] = -torch.inf
        cosines[torch.arange(len(part)), part] = -torch.inf
        found |= zip(part.tolist(), cosines.topk(count).indices.tolist(), strict=True)
    return found
