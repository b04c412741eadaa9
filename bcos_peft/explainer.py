"""`BcosExplainer`: from text to `Explanation`s."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bcos_peft.attribution import Attribution, attribute, max_tokens
from bcos_peft.encoding import Encoding, encode, split_inputs
from bcos_peft.explanation import Explanation
from bcos_peft.models import find_bcos_model


__all__ = ["BcosExplainer"]

# transformers marks "no limit" with a huge model_max_length.
_NO_LIMIT = 10**6


class BcosExplainer:
    """Explain the predictions of a B-cos model on text.

    Args:
        model (`torch.nn.Module`): a converted model, or a wrapper around one; on any device.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): the model's tokenizer.
        batch_size (`int`, defaults to 16): texts explained at once. Scores do not depend on it.
        progress (`bool`, *optional*): show a progress bar; default: when there are more than 4 batches.

    Raises:
        TypeError: `model` or `tokenizer` is of the wrong kind.
        ValueError: the model is not converted.

    Example:
        >>> from transformers import AutoModelForSequenceClassification, AutoTokenizer
        >>> from bcos_peft import BcosConfig, BcosExplainer, get_bcos_model
        >>> name = "google-bert/bert-base-uncased"
        >>> model = get_bcos_model(AutoModelForSequenceClassification.from_pretrained(name), BcosConfig())
        >>> explainer = BcosExplainer(model, AutoTokenizer.from_pretrained(name))
        >>> explanation = explainer("A gripping, beautifully shot film.")
        >>> abs(explanation.residual) < 1e-4
        True

    Source: B-cos LM (arXiv 2502.12992), section 3.
    """

    def __init__(self, model: nn.Module, tokenizer, batch_size: int = 16, progress: bool | None = None):
        self.bcos_model = find_bcos_model(model)
        if not callable(tokenizer) or not hasattr(tokenizer, "convert_ids_to_tokens"):
            raise TypeError(f"tokenizer must be a transformers tokenizer, got {type(tokenizer).__name__}.")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
        self.model = model
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.progress = progress

    def __call__(
        self,
        inputs: Any,
        *,
        target: int | str | Sequence | None = None,
        foil: int | str | Sequence | None = None,
        position: int | Sequence[int] | None = None,
        split: bool = False,
        truncation: bool = False,
        text_column: str | None = None,
    ) -> Explanation | list:
        """Explain one text, or many.

        Args:
            inputs:
                A string; a pair of strings (a tuple); token ids; a `BatchEncoding` or a dict with `input_ids`; a dict
                `{"text", "text_pair"}`; a list of these; or a `datasets` column, or a dataset with `text_column`.
            target (`int`, `str` or a list of these, *optional*):
                Class (its number or label), or the vocabulary token of a language model, one for all texts or one
                for each. `"all"` explains every class. Default: what the model predicts.
            foil (`int`, `str` or a list of these, *optional*): explain the target against this one: `logit[target]
                − logit[foil]`.
            position (`int` or a list, *optional*):
                For outputs per token, the index of the token, special tokens counted. Default: the mask token, if
                there is one; else where the target's logit is largest.
            split (`bool`, defaults to `False`): also give the contributions of word, position and token-type
                embeddings.
            truncation (`bool`, defaults to `False`): explain the beginning of texts that are longer than the model
                reads.
            text_column (`str`, *optional*): the column of a dataset that has the texts.

        Returns:
            [`Explanation`] for one text, a list of them for several; with `target="all"` a list of one per class
            in the place of each.

        Raises:
            TypeError: an input is no text.
            ValueError: an input is empty or too long, or a target, foil or position does not exist.
        """
        items, single = split_inputs(inputs, text_column)
        encodings = [encode(item, self.tokenizer, self._max_length(), truncation) for item in items]
        choices = [
            self._per_item(value, name, len(items))
            for value, name in ((target, "target"), (foil, "foil"), (position, "position"))
        ]
        explanations: list = [None] * len(items)
        # Texts of like length share a batch, so that little is padded.
        order = sorted(range(len(items)), key=lambda i: len(encodings[i].input_ids))
        for start in self._progress(range(0, len(order), self.batch_size)):
            batch = order[start : start + self.batch_size]
            results = self._explain([encodings[i] for i in batch], *[[c[i] for i in batch] for c in choices], split)
            for i, result in zip(batch, results, strict=True):
                explanations[i] = result
        return explanations[0] if single else explanations

    def _max_length(self) -> int | None:
        limits = (
            self.tokenizer.model_max_length,
            max_tokens(self.bcos_model),
            self.bcos_model.config.max_position_embeddings,
        )
        known = [limit for limit in limits if limit is not None and limit < _NO_LIMIT]
        return min(known) if known else None

    def _per_item(self, value, name: str, count: int) -> list:
        if isinstance(value, (str, int)) or value is None:
            return [value] * count
        values = value.tolist() if isinstance(value, Tensor) else list(value)
        if len(values) != count:
            raise ValueError(f"{name} has {len(values)} entries for {count} texts; give one for all, or one for each.")
        return values

    def _progress(self, starts: range):
        shown = len(starts) > 4 if self.progress is None else self.progress
        if not shown:
            return starts
        from tqdm.auto import tqdm

        return tqdm(starts, desc="Explaining", unit="batch")

    def _explain(self, encodings: list[Encoding], target: list, foil: list, position: list, split: bool) -> list:
        batch = self._collate(encodings)
        every = target[0] == "all"
        result = attribute(
            self.model,
            **batch,
            target="all" if every else self._targets(target, "target", batch),
            foil=None if every and foil[0] is None else self._targets(foil, "foil", batch),
            position=self._positions(encodings, position),
            split=split,
        )
        rows = range(len(encodings))
        if every:
            return [
                [self._explanation(encodings[r], result, (r, t)) for t in range(result.target.shape[1])] for r in rows
            ]
        return [self._explanation(encodings[r], result, (r,)) for r in rows]

    def _collate(self, encodings: list[Encoding]) -> dict[str, Tensor]:
        """Right-padded tensors on the model's device."""
        length = max(len(encoding.input_ids) for encoding in encodings)
        pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else 0
        rows: dict[str, list] = {"input_ids": [], "attention_mask": []}
        for encoding in encodings:
            missing = length - len(encoding.input_ids)
            rows["input_ids"].append(encoding.input_ids + [pad] * missing)
            rows["attention_mask"].append([1] * (length - missing) + [0] * missing)
            for name, values in encoding.extra.items():
                rows.setdefault(name, []).append(values + [0] * missing)
        return {name: torch.tensor(values, device=self.bcos_model.device) for name, values in rows.items()}

    def _targets(self, values: list, name: str, batch: dict) -> Tensor | None:
        if values[0] is None:
            if any(value is not None for value in values):
                raise ValueError(
                    f"{name} is given for some texts of a batch and missing for others; give it for all or none."
                )
            return None
        return torch.tensor([self._class_index(value, name) for value in values], device=batch["input_ids"].device)

    def _class_index(self, value: int | str, name: str) -> int:
        if isinstance(value, int):
            return value
        if value in self._label_ids():
            return self._label_ids()[value]
        if self._is_language_model():
            ids = self.tokenizer(value, add_special_tokens=False)["input_ids"]
            if len(ids) == 1:
                return ids[0]
            raise ValueError(
                f"{name}={value!r} is {len(ids)} tokens for this tokenizer; a language model's target is one token."
            )
        raise ValueError(
            f"{name}={value!r} is not a label of the model; it has {', '.join(map(repr, self._label_ids()))}."
        )

    def _positions(self, encodings: list[Encoding], position: list) -> Tensor | None:
        if position[0] is None and self._is_language_model() and self.tokenizer.mask_token_id is not None:
            masks = [[i for i, t in enumerate(e.input_ids) if t == self.tokenizer.mask_token_id] for e in encodings]
            if any(len(found) > 1 for found in masks):
                raise ValueError("A text has several mask tokens: say with position=... which one to explain.")
            if all(masks):
                position = [found[0] for found in masks]
        return None if position[0] is None else torch.tensor(position, device=self.bcos_model.device)

    def _is_language_model(self) -> bool:
        return self.bcos_model.get_output_embeddings() is not None

    def _label_ids(self) -> dict[str, int]:
        if self._answers_questions():
            return {"start": 0, "end": 1}
        return {} if self._is_language_model() else self.bcos_model.config.label2id

    def _answers_questions(self) -> bool:
        return type(self.bcos_model).__name__.endswith("ForQuestionAnswering")

    def _label(self, index: int) -> str:
        if self._is_language_model():
            return self.tokenizer.decode([index])
        if self._answers_questions():
            return ("start", "end")[index]
        return str(self.bcos_model.config.id2label.get(index, index))

    def _explanation(self, encoding: Encoding, result: Attribution, at: tuple[int, ...]) -> Explanation:
        row, count = at[0], len(encoding.input_ids)
        target, predicted = int(result.target[at]), int(result.logits[row].argmax())
        foil = None if result.foil is None else int(result.foil[row])
        scores = result.scores[at][:count].double().cpu().numpy()
        return Explanation(
            tokens=self.tokenizer.convert_ids_to_tokens(encoding.input_ids),
            scores=scores,
            text=encoding.text,
            offsets=encoding.offsets,
            sequence_ids=encoding.sequence_ids,
            special=encoding.special,
            token_ids=encoding.input_ids,
            target=target,
            target_label=self._label(target),
            predicted=predicted,
            predicted_label=self._label(predicted),
            logit=float(result.logit[at]),
            probability=float(result.probability[at]),
            foil=foil,
            foil_label=None if foil is None else self._label(foil),
            position=None if result.position is None else int(result.position[row]),
            parts={name: part[at][:count].double().cpu().numpy() for name, part in (result.parts or {}).items()}
            or None,
        )
