"""Which texts a model is calibrated on, and what each is for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from bcos_peft.calibration.blocks import _modes
from bcos_peft.calibration.data import _replay
from bcos_peft.calibration.report import _is_language_model
from bcos_peft.calibration.variations import _variations


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
