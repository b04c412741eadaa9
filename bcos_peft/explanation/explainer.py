"""`BcosExplainer`: from text to `Explanation`s."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from bcos_peft._utils.arguments import checked_arguments
from bcos_peft.attribution import (
    Attribution,
    attribute,
    called_part,
    check_baseline,
    collate,
    is_causal_lm,
    max_tokens,
    refuses_padding,
)
from bcos_peft.explanation.explanation import Explanation
from bcos_peft.explanation.places import _check_choices, _named, _one_each, _padded, _Places
from bcos_peft.explanation.span_explainer import _SpanExplainer
from bcos_peft.explanation.targets import Alternatives, _before
from bcos_peft.models import Labels, family_of, find_model
from bcos_peft.text import Encoding, encode, split_inputs


# transformers marks "no limit" with a huge model_max_length.
_NO_LIMIT = 10**6


class BcosExplainer(_SpanExplainer):
    """Explain the predictions of a B-cos model on text.

    Calling it explains a prediction of any model; `explain`, `generate`, `explain_generation` and `explain_span` are
    for causal language models.

    Args:
        model (`torch.nn.Module`): a converted model, or a wrapper around one; on any device.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): the model's tokenizer.
        batch_size (`int`, defaults to 16): texts explained at once. Scores do not depend on it.
        progress (`bool`, *optional*): show a progress bar; default: when there are more than 4 batches.
        baseline (`"zero"` or `"average"`, defaults to `"zero"`):
            What words are compared with. With `"average"` a score says what a word adds to what the vocabulary's mean
            embedding would give in its place, and `Explanation.baseline` what that gives in all places together:
            `sum(scores) + baseline + residual == logit`.

    Raises:
        TypeError: `model` or `tokenizer` is of the wrong kind.
        ValueError: the model is not converted, or `batch_size` or `baseline` is no possible value.

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

    @checked_arguments
    def __init__(
        self,
        model: nn.Module,
        tokenizer,
        batch_size: int = 16,
        progress: bool | None = None,
        baseline: str = "zero",
    ):
        self.bcos_model = find_model(model)
        called_part(model)  # which may refuse it
        if not callable(tokenizer) or not hasattr(tokenizer, "convert_ids_to_tokens"):
            raise TypeError(f"tokenizer must be a transformers tokenizer, got {type(tokenizer).__name__}.")
        if not isinstance(batch_size, Integral) or batch_size < 1:
            raise ValueError(f"batch_size must be a whole number of at least 1, got {batch_size!r}.")
        check_baseline(baseline)
        self.model = model
        self.tokenizer = tokenizer
        self.labels = Labels(self.bcos_model, tokenizer)
        self.batch_size = batch_size
        self.progress = progress
        self.baseline = baseline

    @checked_arguments
    def __call__(
        self,
        inputs: Any,
        *,
        target: int | str | Sequence | None = None,
        foil: int | str | Sequence | None = None,
        position: int | Sequence[int] | None = None,
        span: str | tuple[int, int] | Sequence | None = None,
        split: bool = False,
        truncation: bool = False,
        text_column: str | tuple[str, str] | None = None,
    ) -> Explanation | list:
        """Explain one text, or many.

        Args:
            inputs:
                A string; a pair of strings (a tuple); token ids; a `BatchEncoding` or a dict with `input_ids`; a dict
                `{"text", "text_pair"}`; a list, tensor or any iterable of these; or a `datasets` column, or a dataset
                with `text_column`. Of token ids, which have lost their text, the explained text is what they
                decode to.
            target (`int`, `str` or a list of these, *optional*):
                Class (its number or label), or the vocabulary token of a language model; one for all texts, or one
                for each. `"all"` explains every class. Default (`None`, also in a list): what the model predicts; of
                a model that answers questions the answer, start and end together: the best span of the context that
                does not end before it starts.
            foil (`int`, `str` or a list of these, *optional*): explain the target against this one: `logit[target]
                − logit[foil]`.
            position (`int` or a list, *optional*):
                For outputs per token, the index of the token in `Explanation.tokens`: special tokens are counted,
                padding is not. Default: the mask token of a masked language model, if the text has one; else where
                the target's logit is largest, special tokens left out (but not for `"start"` and `"end"`, where
                models put what has no answer).
            span (`str`, `(int, int)` or a list of these, *optional*):
                Several tokens at once, instead of a position: an entity, whose logits add, or another answer. A
                substring that occurs once, or characters `(start, end)`, as pipelines give them; of the context.
            split (`bool`, defaults to `False`): also give the contributions of word, position and token-type
                embeddings.
            truncation (`bool`, defaults to `False`): explain a part of texts that are longer than the model reads: the
                part that the tokenizer keeps.
            text_column (`str` or a pair, *optional*): the column of a dataset that has the texts, or the two with
                the texts of pairs.

        Returns:
            [`Explanation`] for one text, a list of them for several; with `target="all"` a list of one per class
            in the place of each.

        Raises:
            TypeError: an input is no text.
            ValueError: an input is empty or too long, or a target, foil, position or span does not exist, or does not
                go with the others. Inputs, labels and places are checked before anything is computed.
        """
        items, single = split_inputs(inputs, text_column)
        names = ["inputs" if single else f"inputs[{i}]" for i in range(len(items))]
        limit = self._max_length()
        pairs = not is_causal_lm(self.bcos_model)  # these read one text, in which special tokens may stand
        encodings = [
            encode(item, self.tokenizer, limit, truncation, name, pairs)
            for item, name in zip(items, names, strict=True)
        ]
        every = isinstance(target, str) and target == "all"
        where = _Places(self.labels, self.tokenizer)
        positions = where.positions(position, encodings, names)
        spans = where.spans(span, encodings, names)
        places = list(zip(encodings, positions, strict=True))
        targets = [None] * len(items) if every else self._classes(target, "target", places)
        foils = self._classes(foil, "foil", places)
        answers = [where.of_answers and not every and targets[i] is positions[i] is None for i in range(len(items))]
        _check_choices(targets, foils, positions, spans, answers, where.of_answers, names)
        among = [where.candidates(*row) for row in zip(encodings, answers, names, strict=True)]

        def kind(i: int) -> tuple:
            # Texts of one batch have the same inputs, and the same of the choices left open.
            left_open = (choice[i] is None for choice in (targets, foils, positions, spans))
            return sorted(encodings[i].extra), answers[i], *left_open

        # Texts of like length share a batch, so that little is padded; the longest first, where memory may run out.
        order = sorted(range(len(items)), key=lambda i: (kind(i), -len(encodings[i].input_ids)))
        size = 1 if refuses_padding(self.bcos_model) else self.batch_size
        batches = [
            members[start : start + size]
            for members in (list(group) for _, group in groupby(order, key=kind))
            for start in range(0, len(members), size)
        ]
        explanations: list = [None] * len(items)
        for batch in self._progress(batches):
            answer, choice = answers[batch[0]], "all" if every else self._tensor([targets[i] for i in batch])
            # Start and end are looked for everywhere: models put what has no answer at a special token.
            chosen = [among[i] for i in batch] if answer or not where.of_answers else None
            results = attribute(
                self.model,
                **collate([encodings[i] for i in batch], self.bcos_model, self.tokenizer),
                target="answer" if answer else choice,
                foil=self._tensor([foils[i] for i in batch]),
                position=self._tensor([positions[i] for i in batch]),
                span=self._tensor([spans[i] for i in batch]),
                among=None if chosen is None else self._tensor(_padded(chosen)),
                split=split,
                baseline=self.baseline,
            )
            for row, i in enumerate(batch):
                places = [(row, t) for t in range(results.target.shape[1])] if every else [(row,)]
                found = [self._explanation(encodings[i], results, place) for place in places]
                explanations[i] = found if every else found[0]
        return explanations[0] if single else explanations

    def _max_length(self) -> int | None:
        config = self.bcos_model.config
        limits = (
            self.tokenizer.model_max_length,
            max_tokens(self.bcos_model),
            getattr(config, "max_position_embeddings", None),
        )
        known = [limit for limit in limits if limit is not None and 0 < limit < _NO_LIMIT]
        return min(known) if known else None

    def _classes(self, value: Any, name: str, places: list[tuple[Encoding, int | None]]) -> list[int | None]:
        found: list[int | None] = []
        for one, place in zip(_one_each(value, name, len(places)), places, strict=True):
            if isinstance(one, Alternatives):
                raise TypeError(
                    f"{name}={one!r}: alternatives are for explain(...); call with one target for each text."
                )
            after = self._before(*place) if isinstance(one, str) else None
            found.append(None if one is None else self.labels.index(one, name, after))
        return found

    def _before(self, encoding: Encoding, position: int | None) -> tuple[list[int], str] | None:
        if not self.labels.of_tokens:
            return None
        return _before(encoding, position, family_of(self.bcos_model).causal, self.tokenizer)

    def _progress(self, batches: list) -> Iterable:
        shown = len(batches) > 4 if self.progress is None else self.progress
        if not shown:
            return batches
        from tqdm.auto import tqdm

        return tqdm(batches, desc="Explaining", unit="batch")

    def _tensor(self, values: list) -> Tensor | None:
        return None if values[0] is None else torch.tensor(values, device=self.bcos_model.device)

    def _explanation(self, encoding: Encoding, result: Attribution, at: tuple[int, ...]) -> Explanation:
        row, count = at[0], len(encoding.input_ids)
        target = int(result.target[at])
        # Start and end are no classes of one thing: neither is predicted rather than the other.
        predicted = target if self.labels.of_answers else int(result.logits[row].argmax())
        foil = None if result.foil is None else int(result.foil[row])
        parts = {name: part[at][:count].cpu().double().numpy() for name, part in (result.parts or {}).items()}
        position = None if result.position is None or result.position.dim() > 1 else int(result.position[row])
        after = self._before(encoding, position)
        after = None if after is None or not family_of(self.bcos_model).causal else after[0]
        regression = self.bcos_model.config.problem_type == "regression"
        return Explanation(
            tokens=self.tokenizer.convert_ids_to_tokens(encoding.input_ids),
            scores=result.scores[at][:count].cpu().double().numpy(),
            text=encoding.text,
            offsets=encoding.offsets,
            sequence_ids=encoding.sequence_ids,
            special=encoding.special,
            token_ids=encoding.input_ids,
            target=target,
            predicted=predicted,
            logit=float(result.logit[at]),
            probability=None if regression else float(result.probability[at]),
            foil=foil,
            foil_label=None if foil is None else self.labels.name(foil, after),
            parts=parts or None,
            baseline=None if result.baseline is None else float(result.baseline[at]),
            constants=None if result.constants is None else float(result.constants[at]),
            note=result.note,
            **_named(self.labels, encoding, result, at, target, predicted, after),
        )
