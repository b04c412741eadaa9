"""Which texts a model is calibrated on, and what each is for."""

from __future__ import annotations

import random
from collections.abc import Set
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from bcos_peft.calibration.data import _replay
from bcos_peft.calibration.running import _is_language_model, _modes


@dataclass(frozen=True)
class _Texts:
    """Texts as token ids, by number.

    Args:
        rows (`list[dict[str, list]]`): all of them; first those that were given.
        given (`int`): how many were.
        told (`set[int]`): given ones that only tell how well it went.
        fitted (`list[int]`): those that are fitted on.
        chooses (`set[int]`): which of these are held out while strengths are chosen.

    Example:
        >>> rows = [{"input_ids": [1, 2]}, {"input_ids": [3]}]
        >>> _Texts(rows, given=2, told={1}, fitted=[0], chooses={0}).tokens(0, 2)
        3
    """

    rows: list[dict[str, list]]
    given: int
    told: set[int]
    fitted: list[int]
    chooses: set[int]

    def tokens(self, start: int, end: int) -> int:
        """How many tokens the texts of these numbers have."""
        return sum(len(row["input_ids"]) for row in self.rows[start:end])


def _gather(model: PreTrainedModel, rows: list[dict[str, list]], more: int) -> _Texts:
    """The texts given, and `more` tokens that a language model writes itself, or that are variations of the texts.

    A tenth of the texts given only tells how well it went; of all others, a fifth chooses the strength of each fit.
    Variations of texts that choose choose too.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> small = BertConfig(num_hidden_layers=1, hidden_size=16, num_attention_heads=2, intermediate_size=32)
        >>> rows = [{"input_ids": [101, 2000 + i, 3000, 102]} for i in range(10)]
        >>> texts = _gather(BertForSequenceClassification(small), rows, more=36)
        >>> texts.tokens(0, 10), texts.tokens(10, len(texts.rows)), sorted(texts.told)
        (40, 36, [9])
    """
    told = set(range(9, len(rows), 10)) or {len(rows) - 1}
    fitted = [i for i in range(len(rows)) if i not in told]
    texts = _Texts(list(rows), len(rows), told, fitted, set(fitted[::5]))
    if more and _is_language_model(model):
        own = _written(model, more)
        _add(texts, [row for i, row in enumerate(own) if i % 5], chooses=False)
        _add(texts, own[::5], chooses=True)
    elif more:
        vocabulary = model.get_input_embeddings().num_embeddings
        kept = {getattr(model.config, "pad_token_id", None)} - {None}
        parts = [[i for i in fitted if (i in texts.chooses) == chooses] for chooses in (False, True)]
        for chooses, part in enumerate(parts):
            share = round(more * len(part) / (len(parts[0]) + len(parts[1])))
            made = _variations([rows[i] for i in part], share, vocabulary, kept)
            _add(texts, made, chooses=bool(chooses))
    return texts


def _add(texts: _Texts, rows: list[dict[str, list]], chooses: bool) -> None:
    added = range(len(texts.rows), len(texts.rows) + len(rows))
    texts.rows.extend(rows)
    texts.fitted.extend(added)
    texts.chooses.update(added if chooses else ())


def _written(model: PreTrainedModel, tokens: int) -> list[dict[str, list]]:
    restore_modes = _modes(model)
    model.eval()
    try:
        with torch.no_grad():
            return _replay(model, tokens)
    finally:
        restore_modes()


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
