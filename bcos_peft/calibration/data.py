"""Calibration data: from what a user passes to batches of token ids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, cycle
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from bcos_peft.calibration.answers import _prefix, _reads_answers, _with_answers
from bcos_peft.calibration.running import _is_language_model
from bcos_peft.models import family_of
from bcos_peft.text import is_frame, split_inputs


_MAX_LENGTH = 512  # tokens of one text that are used
_MIN_ROWS = 8  # fewer cannot be parted into rows to fit on, to choose by and to report on
_BATCH = 1024  # tokens, with padding
_REPLAY_LENGTH = 128
_OF_ANSWERS = ("decoder_input_ids", "labels")
_TEXT_COLUMNS = ("text", "sentence", "content", "messages", "prompt")


def calibration_rows(
    data: Any,
    tokenizer,
    model: PreTrainedModel,
    max_tokens: int,
    max_length: int | None = None,
    prompts: Sequence[str] = ("",),
) -> list[dict[str, list]]:
    """Token ids, and what else the model reads, of each text: in the order of the data, up to `max_tokens` in all.

    Args:
        data: an iterable of texts, of pairs of texts (of an encoder-decoder a source and an answer), of token ids, of
            chats, of dicts with `input_ids` or `text`; of batches, as a data loader gives them; or a
            `datasets.Dataset`. What has no text is skipped.
        tokenizer: needed for texts.
        model: of its config comes the length that it reads.
        max_tokens (`int`): where to stop reading.
        max_length (`int`, *optional*): of a text, in tokens, where the model's user wants fewer than it can read.
        prompts (`Sequence[str]`): what is put before single texts, in turn.

    Raises:
        TypeError: `data` is none of these, or there is text and no tokenizer.
        ValueError: fewer than 8 rows, an item that cannot be read, or a token id that the model does not have.

    Example:
        >>> from transformers import BertConfig, BertForMaskedLM
        >>> from bcos_peft.calibration import calibration_rows
        >>> small = BertConfig(num_hidden_layers=1, hidden_size=16, num_attention_heads=2, intermediate_size=32)
        >>> rows = calibration_rows([[1, 2, 3]] * 9, None, BertForMaskedLM(small), max_tokens=24)
        >>> len(rows), rows[0]
        (8, {'input_ids': [1, 2, 3]})
    """
    limit = min(
        _MAX_LENGTH, max_length or _MAX_LENGTH, getattr(model.config, "max_position_embeddings", None) or _MAX_LENGTH
    )
    padding = getattr(model.base_model.get_input_embeddings(), "padding_idx", None)
    if padding:  # models that count positions from the padding id on read fewer tokens than they have positions
        limit = min(limit, (getattr(model.config, "max_position_embeddings", None) or _MAX_LENGTH) - padding - 1)
    least = 2 if _is_language_model(model) else 1  # what comes after a token is predicted
    answers = _reads_answers(model, family_of(model))
    rows, tokens = [], 0
    turns = cycle(prompts)
    for item in _items(data):
        item = next(turns) + item if isinstance(item, str) else item
        row = _encode(item, tokenizer, limit, model, answers)
        if len(row["input_ids"]) < least:
            continue
        _check_ids(row["input_ids"], model)
        tokens += len(row["input_ids"])
        if tokens > max_tokens and len(rows) >= _MIN_ROWS:
            break
        rows.append(row)
    if len(rows) < _MIN_ROWS:
        raise ValueError(
            f"calibration_data has {len(rows)} texts; at least {_MIN_ROWS} are needed, and a few hundred are better. "
            "Cut long texts into pieces."
        )
    return _with_answers(rows, model) if answers else rows


def _check_ids(ids: list[int], model: PreTrainedModel) -> None:
    count = model.get_input_embeddings().num_embeddings
    if wrong := [token for token in ids if not 0 <= token < count]:
        raise ValueError(
            f"calibration_data has token id {wrong[0]}, and the model has ids 0 to {count - 1}. Use the model's own "
            "tokenizer, or enlarge the model first: model.resize_token_embeddings(len(tokenizer))."
        )


def _items(data: Any) -> Iterator:
    if is_frame(data):  # whose items are the names of its columns
        raise TypeError(
            f"calibration_data is a DataFrame with the columns {', '.join(map(str, data.columns))}. Pass "
            "datasets.Dataset.from_pandas(df), or a column of texts: df['text'].tolist()."
        )
    if hasattr(data, "column_names"):
        data = _texts(data)
    elif isinstance(data, (str, bytes, Mapping)) or not isinstance(data, Iterable):
        raise TypeError(
            "calibration_data must be an iterable of texts or batches, or a datasets.Dataset, got "
            f"{type(data).__name__}."
        )
    for item in data:
        for each in _split(item):
            if not (isinstance(each, str) and not each.strip()):
                yield each


def _texts(dataset: Any) -> Iterator:
    """What the rows of a dataset have to be read."""
    names = dataset.column_names
    if isinstance(names, Mapping):
        raise ValueError(
            f"calibration_data is a dict of datasets; pass one of its splits: {', '.join(map(repr, names))}."
        )
    rows = iter(dataset)
    if names is None:  # a stream that does not know its columns beforehand
        first = next(rows, None)
        if first is None:
            return rows
        names, rows = list(first), chain([first], rows)
    if "input_ids" in names:
        return rows
    column = next((name for name in _TEXT_COLUMNS if name in names), None)
    if column is None:
        raise ValueError(
            f"calibration_data has no column of texts; it has {', '.join(map(str, names))}. Pass the column "
            "itself, as in calibration_data=dataset['my_column']."
        )
    if column == "prompt" and "completion" in names:
        return (row["prompt"] + row["completion"] for row in rows)
    return (row[column] for row in rows)


def _split(item: Any) -> list:
    """A text, a chat, or the rows of a batch."""
    if _is_chat(item):
        return [item]
    if isinstance(item, Mapping) and "input_ids" in item:
        if any(key in item for key in _OF_ANSWERS) and not hasattr(item["input_ids"][0], "__len__"):
            return [dict(item)]  # a row of an encoder-decoder
        item = {key: item[key] for key in item if key in ("input_ids", "attention_mask", "token_type_ids")}
    elif isinstance(item, Mapping) and "text" not in item:
        raise ValueError(
            f"calibration_data has a dict with {sorted(map(str, item))}, which has neither 'input_ids' nor 'text'."
        )
    try:
        return split_inputs(item)[0]
    except (TypeError, ValueError) as error:
        raise type(error)(f"calibration_data has an item that cannot be read: {error}") from error


def _is_chat(item: Any) -> bool:
    return isinstance(item, list) and bool(item) and all(isinstance(turn, Mapping) and "role" in turn for turn in item)


def _encode(item: Any, tokenizer, limit: int, model: PreTrainedModel, answers: bool) -> dict[str, list]:
    if isinstance(item, dict):
        mask = item.get("attention_mask") or [1] * len(item["input_ids"])
        given = next((list(item[key]) for key in _OF_ANSWERS if item.get(key) is not None), None)
        if given is not None and answers:
            prefix = given if "decoder_input_ids" in item else _prefix([i for i in given if i >= 0], model)
            item = {"input_ids": item["input_ids"]}
            return {**_encode(item | {"attention_mask": mask}, tokenizer, limit, model, answers)} | {
                "decoder_input_ids": prefix[:limit]
            }
        return {
            key: [value for value, kept in zip(values, mask, strict=True) if kept][:limit]
            for key, values in item.items()
            if key in ("input_ids", "token_type_ids")
        }
    if tokenizer is None:
        raise TypeError("calibration_data has texts, which need tokenizer=...; or pass batches with 'input_ids'.")
    if _is_chat(item):
        if getattr(tokenizer, "chat_template", None) is None:
            raise ValueError("calibration_data has chats, and the tokenizer has no chat template. Pass texts instead.")
        return {"input_ids": list(tokenizer.apply_chat_template(item, return_dict=False))[:limit]}
    first, second = item if isinstance(item, tuple) else (item, None)
    if answers and second is not None:
        source = tokenizer(first, truncation=True, max_length=limit)["input_ids"]
        answer = tokenizer(text_target=second, truncation=True, max_length=limit)["input_ids"]
        return {"input_ids": list(source), "decoder_input_ids": _prefix(list(answer), model)}
    encoded = tokenizer(first, second, truncation=True, max_length=limit)
    return {key: list(encoded[key]) for key in ("input_ids", "token_type_ids") if key in encoded}


def _replay(model: PreTrainedModel, tokens: int) -> list[dict[str, list]]:
    """Texts that a causal language model writes, from random first tokens at temperature 1: about `tokens` in all.

    The same for the same model; the random state of the process is left alone.

    Source: data-free quantisation-aware training (LLM-QAT, arXiv 2305.17888), section 2.1, has the idea.
    """
    length = min(_REPLAY_LENGTH, getattr(model.config, "max_position_embeddings", None) or _REPLAY_LENGTH)
    count = tokens // length
    if count == 0:
        return []
    device = model.get_input_embeddings().weight.device
    first = torch.randint(model.config.vocab_size, (count, 1), generator=torch.Generator().manual_seed(0)).to(device)
    devices = [device] if device.type == "cuda" else []
    config = GenerationConfig(max_new_tokens=length - 1, do_sample=True, top_k=0, temperature=1.0, pad_token_id=0)
    with _plain_generation(model), torch.random.fork_rng(devices=devices):
        torch.manual_seed(0)
        written = model.generate(first, attention_mask=torch.ones_like(first), generation_config=config)
    return [{"input_ids": row} for row in written.tolist()]


@contextmanager
def _plain_generation(model: PreTrainedModel) -> Iterator[None]:
    """No defaults of the model's own: what is `None` in a config that is passed comes from there, and texts would end
    at its end tokens, be filled with padding, and follow its penalties."""
    own, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


def _into_batches(rows: list[dict[str, list]], tokens: int = _BATCH) -> list[list[int]]:
    """Indices of rows of like length, in batches of about so many tokens; the same for the same rows."""
    order = sorted(range(len(rows)), key=lambda i: (sorted(rows[i]), len(rows[i]["input_ids"]), i))
    batches: list[list[int]] = []
    for i in order:
        full = not batches or (len(batches[-1]) + 1) * len(rows[i]["input_ids"]) > tokens
        if full or sorted(rows[batches[-1][0]]) != sorted(rows[i]):
            batches.append([])
        batches[-1].append(i)
    return batches


def _collate(rows: list[dict[str, list]], padding: int, device: torch.device) -> dict[str, Tensor]:
    """Right-padded tensors with their attention mask."""
    length = max(len(row["input_ids"]) for row in rows)
    fill = {"input_ids": padding, "token_type_ids": 0}
    batch = {
        key: torch.tensor([row[key] + [fill[key]] * (length - len(row[key])) for row in rows], device=device)
        for key in rows[0]
        if key in fill
    }
    if "decoder_input_ids" in rows[0]:
        answers = [row["decoder_input_ids"] for row in rows]
        # Another length than that of the sources: by it one tells which of them something belongs to.
        longest = max(map(len, answers))
        longest += longest == length
        padded = [ids + [padding] * (longest - len(ids)) for ids in answers]
        mask = [[1] * len(ids) + [0] * (longest - len(ids)) for ids in answers]
        batch["decoder_input_ids"] = torch.tensor(padded, device=device)
        batch["decoder_attention_mask"] = torch.tensor(mask, device=device)
    batch["attention_mask"] = torch.tensor(
        [[1] * len(row["input_ids"]) + [0] * (length - len(row["input_ids"])) for row in rows], device=device
    )
    return batch
