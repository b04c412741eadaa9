"""What an encoder-decoder is calibrated on: sources, and answers to them, given or written by the model itself."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from bcos_peft.calibration.running import _modes
from bcos_peft.discovery import needs_prefix
from bcos_peft.families import Family


_LENGTH = 32  # tokens of an answer that the model writes
_AT_ONCE = 16


def _reads_answers(model: PreTrainedModel, family: Family) -> bool:
    """Whether a model has to be given an answer beside the source."""
    return family.seq2seq and needs_prefix(model)


def _start_of(model: PreTrainedModel) -> int:
    """The token that answers start with."""
    known = (model.config.to_dict().get("decoder_start_token_id"), model.config.to_dict().get("bos_token_id"), 0)
    return next(token for token in known if isinstance(token, int))


def _prefix(answer: list[int], model: PreTrainedModel) -> list[int]:
    """What the decoder reads of an answer: its start, and all but its last token."""
    return [_start_of(model), *answer[:-1]]


@torch.no_grad()
def _with_answers(rows: list[dict[str, list]], model: PreTrainedModel) -> list[dict[str, list]]:
    """Rows with `decoder_input_ids`: those that have none get what the model writes, greedily."""
    open_rows = [row for row in rows if "decoder_input_ids" not in row]
    restore_modes = _modes(model)
    model.eval()
    try:
        for start in range(0, len(open_rows), _AT_ONCE):
            some = open_rows[start : start + _AT_ONCE]
            length = max(len(row["input_ids"]) for row in some)
            padding = model.config.to_dict().get("pad_token_id") or 0
            ids = [row["input_ids"] + [padding] * (length - len(row["input_ids"])) for row in some]
            mask = [[1] * len(row["input_ids"]) + [0] * (length - len(row["input_ids"])) for row in some]
            written = model.generate(
                input_ids=torch.tensor(ids, device=model.device),
                attention_mask=torch.tensor(mask, device=model.device),
                max_new_tokens=_LENGTH,
                do_sample=False,
                num_beams=1,
            )
            for row, answer in zip(some, written.tolist(), strict=True):
                row["decoder_input_ids"] = _without_padding(answer, padding)
    finally:
        restore_modes()
    return rows


def _without_padding(answer: list[int], padding: int) -> list[int]:
    """An answer without the padding that follows it, and without its last token, after which nothing is asked."""
    while len(answer) > 2 and answer[-1] == padding:
        answer = answer[:-1]
    return answer[:-1] if len(answer) > 1 else answer
