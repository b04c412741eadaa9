"""Token ids that suit any model, and what to read of its outputs."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel


_LENGTHS = (12, 16, 32, 8, 64)  # some models read whole blocks of tokens only
_ROWS = 4


def example_inputs(model: PreTrainedModel, seq2seq: bool, length: int = 8, rows: int = 2) -> dict[str, Tensor]:
    """Token ids, `(rows, length)`, none of them padding; of an encoder-decoder also the answer so far.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> from bcos_peft.discovery import example_inputs
        >>> small = BertConfig(num_hidden_layers=1, hidden_size=16, num_attention_heads=2, intermediate_size=32)
        >>> example_inputs(BertModel(small), False)["input_ids"].shape
        torch.Size([2, 8])
    """
    ids = ordinary_ids(model, rows * length).view(rows, length)
    end = getattr(model.config, "eos_token_id", None)
    found = {"input_ids": ids.to(model.device)}
    if seq2seq and isinstance(end, int):  # classifiers read the end of a text
        found["input_ids"][:, -1] = end
    if seq2seq and _takes(model, "decoder_input_ids") and needs_prefix(model):
        start = getattr(model.config, "decoder_start_token_id", None)
        prefix = found["input_ids"][:, : max(2, length // 2)].flip(1).clone()
        prefix[:, 0] = start if isinstance(start, int) else 1
        found["decoder_input_ids"] = prefix
    if _takes(model, "use_cache"):
        found["use_cache"] = False
    return found


def ordinary_ids(model: PreTrainedModel, count: int) -> Tensor:
    """Token ids, `(count,)`, none of which is padding, or begins or ends a text."""
    vocabulary = vocabulary_of(model)
    ids = (torch.arange(count) * 7919 + 13) % vocabulary
    special = {getattr(model.config, f"{name}_token_id", None) for name in ("pad", "bos", "eos", "sep", "cls")}
    special = torch.tensor(sorted(one for one in special if isinstance(one, int)), dtype=torch.long)
    other = next((i for i in range(4, vocabulary) if i not in special), vocabulary - 1)
    return torch.where(torch.isin(ids, special), other, ids)


def needs_prefix(model: PreTrainedModel) -> bool:
    """Whether an encoder-decoder has to be given the answer so far: its classifiers make it of the source."""
    return not type(model).__name__.endswith(
        ("ForSequenceClassification", "ForQuestionAnswering", "ForTokenClassification")
    )


def is_headless(model: PreTrainedModel) -> bool:
    """Whether a model is a body that gives hidden states. Some classes with a head are their own `base_model`."""
    named = type(model).__name__.endswith("Model")
    return named and model.base_model is model and model.get_output_embeddings() is None


def vocabulary_of(model: PreTrainedModel) -> int:
    """How many tokens a model knows."""
    try:
        return model.get_input_embeddings().weight.shape[0]
    except (NotImplementedError, AttributeError):
        return getattr(model.config, "vocab_size", 256)  # of characters, which need no table


def _takes(model: PreTrainedModel, name: str) -> bool:
    """Whether a model's forward has an argument."""
    return name in inspect.signature(type(model).forward).parameters


def _run_somehow(model: PreTrainedModel, seq2seq: bool) -> tuple[dict[str, Any], Any]:
    """A forward pass on the first inputs that the model can read: some want whole blocks of tokens."""
    for index, length in enumerate(_LENGTHS):
        inputs = example_inputs(model, seq2seq, length, 1 if _reads_one(model) else _ROWS)
        # A mask where none is needed is one more thing that may not fit; some classes cannot do without.
        for more in ({}, {"attention_mask": torch.ones_like(inputs["input_ids"])}):
            try:
                return inputs | more, model(**inputs, **more)
            except (ValueError, RuntimeError, IndexError, AssertionError, TypeError):
                if index == len(_LENGTHS) - 1 and more:
                    raise


def _reads_one(model: PreTrainedModel) -> bool:
    """Classifiers on decoders refuse a batch without a padding token."""
    return getattr(model.config, "pad_token_id", None) is None


def outputs_of(output: Any) -> list[Tensor]:
    """What a model predicts: logits, or the last hidden states of one without a head."""
    for names in (("logits",), ("prediction_logits",), ("start_logits", "end_logits"), ("last_hidden_state",)):
        found = [output[name] for name in names if name in output and isinstance(output[name], Tensor)]
        if found:
            return found
    return [value for value in output.values() if isinstance(value, Tensor) and value.is_floating_point()][:1]
