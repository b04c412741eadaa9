"""More texts for models that cannot write their own: variations of the ones given."""

from __future__ import annotations

import random
from collections.abc import Set


_REPLACED = 0.2  # share of the tokens that become any of the vocabulary


def _variations(
    rows: list[dict[str, list]], tokens: int, vocabulary: int, kept: Set[int] = frozenset()
) -> list[dict[str, list]]:
    """Texts made of given ones, about `tokens` in all: half of a text's words and half of another's, every second time
    in any order, and a fifth of them replaced by random ones.

    They mean nothing, and need not: what is asked of each layer of a converted model is what the original's gave for
    the same input, so inputs that spread are worth more than inputs that make sense.

    Args:
        rows (`list[dict[str, list]]`): texts, with `input_ids`. Token ids that are in all of them, as `[CLS]` and
            `[SEP]` are, stay where they are.
        tokens (`int`): when there is enough.
        vocabulary (`int`): number of token ids.
        kept (`Set[int]`): token ids that are neither moved nor put anywhere, such as that of padding.

    Returns:
        `list[dict[str, list]]`: the same for the same arguments; as long as the texts are, in their order.

    Example:
        >>> rows = [{"input_ids": [1, 10, 11, 12, 2]}, {"input_ids": [1, 20, 21, 2]}]
        >>> made = _variations(rows, tokens=16, vocabulary=100)
        >>> [len(row["input_ids"]) for row in made], made[0]["input_ids"][0]
        ([5, 4, 5, 4], 1)

    Source: data-free quantisation draws inputs from noise or from the model (ZeroQ, arXiv 2001.00281; LLM-QAT, arXiv
    2305.17888). Encoders write nothing.
    """
    generator = random.Random(0)
    kept = set(kept) | set.intersection(*(set(row["input_ids"]) for row in rows))
    words = [[token for token in row["input_ids"] if token not in kept] for row in rows]
    others = [token for token in range(vocabulary) if token not in kept]
    made, count = [], 0
    while others and any(words) and count < tokens:
        row, mine = rows[len(made) % len(rows)], words[len(made) % len(rows)]
        theirs = generator.choice([found for found in words if found])
        half, length = len(mine) // 2, len(mine)
        pool = (mine[:half] + (theirs * length)[: length - half]) if mine else []
        if generator.random() < 0.5:
            generator.shuffle(pool)
        drawn = iter([generator.choice(others) if generator.random() < _REPLACED else token for token in pool])
        made.append(row | {"input_ids": [token if token in kept else next(drawn) for token in row["input_ids"]]})
        count += len(row["input_ids"])
    return made
