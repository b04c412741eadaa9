"""A dataset as a model reads it: examples, with what is asked about each."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from bcos_peft._utils.arguments import checked_arguments
from bcos_peft.evaluation.questions import Question, check_tokenizer, logits, question_of, tokenize
from bcos_peft.models import Labels
from bcos_peft.text import Encoding


_TEXTS = 128  # whose logits are held at once: those of a language model have a whole vocabulary


@dataclass(frozen=True, eq=False)
class Example:
    """What a method is asked for one row of a result, and what the metric needs to judge its scores.

    Args:
        key (`str`): names the example in all results, whatever the model: by it methods are compared pair by pair.
        text (`str`): for the per-example table.
        questions (`tuple[Question, ...]`): each is attributed; most metrics have one.
        data (`Any`, *optional*): the metric's own.
        chance (`dict[str, float]`): values under random order, where they are known.

    Example:
        >>> import torch
        >>> from bcos_peft.evaluation import Question
        >>> from bcos_peft.evaluation.data import Example
        >>> Example("a", "A film.", (Question(torch.tensor([1, 2]), target=0),)).chance
        {}
    """

    key: str
    text: str
    questions: tuple[Question, ...]
    data: Any = None
    chance: dict[str, float] = field(default_factory=dict)


class Texts:
    """A dataset with the model and tokenizer that read it. Metrics take their examples from it.

    Args:
        model (`torch.nn.Module`): classifier or causal language model.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): its tokenizer.
        items (`Sequence`): texts, pairs of texts, or rows of the kind that a metric needs.
        labels (`Sequence[int | str]`, *optional*): the right class of each. Default: the items' own, of rationales.
        target (`"predicted"`, `"label"`, `int` or `str`): what is explained of each text.
        truncation (`bool`, defaults to `True`): cut texts that are too long for the model.

    Raises:
        ValueError: there are no items, or `target="label"` without labels.
        TypeError: `tokenizer` is no tokenizer of transformers.

    Example:
        >>> from transformers import AutoModelForSequenceClassification, AutoTokenizer
        >>> from bcos_peft.evaluation.data import Texts
        >>> name = "distilbert/distilbert-base-uncased-finetuned-sst-2-english"
        >>> model = AutoModelForSequenceClassification.from_pretrained(name)
        >>> texts = Texts(model, AutoTokenizer.from_pretrained(name), ["A gripping film.", "Dull."])
        >>> [example.text for example in texts.examples()]
        ['A gripping film.', 'Dull.']
    """

    @checked_arguments
    def __init__(
        self,
        model: nn.Module,
        tokenizer,
        items: Sequence,
        labels: Sequence[int | str] | None = None,
        target: int | str = "predicted",
        truncation: bool = True,
    ):
        check_tokenizer(tokenizer)
        if not len(items):
            raise ValueError("The dataset is empty: there is nothing to evaluate.")
        if labels is None and all(getattr(item, "label", None) is not None for item in items):
            labels = [item.label for item in items]  # rows that know their class, such as rationales
        if target == "label" and labels is None:
            missing = [i for i, item in enumerate(items) if getattr(item, "label", None) is None]
            if len(missing) < len(items):
                raise ValueError(f"target='label': dataset[{missing[0]}] has no label; give it one, or leave it out.")
            raise ValueError("target='label' needs label_column=...: the dataset has no labels.")
        if labels is not None and len(labels) != len(items):
            raise ValueError(f"There are {len(labels)} labels for {len(items)} texts.")
        self.model, self.tokenizer, self.items, self.labels = model, tokenizer, items, labels
        self.target, self.truncation = target, truncation
        self._examples: list[Example] | None = None

    def tokenize(self, text: str | tuple[str, str], where: str = "text") -> Encoding:
        """A text as token ids with their places in it."""
        return tokenize(self.model, self.tokenizer, text, self.truncation, where)

    def ask(
        self,
        encoding: Encoding,
        target: int | str | None = None,
        foil: int | str | None = None,
        where: str = "text",
    ) -> Question:
        """A question about a tokenized text; without a target, about what is predicted."""
        return question_of(self.model, self.tokenizer, encoding, target, foil, where)

    def keys(self, items: Sequence | None = None) -> list[str]:
        """Short names of rows, the same in every run; by default of the dataset's."""
        return _unique_keys([_key_of(item) for item in (self.items if items is None else items)])

    def class_of(self, index: int, encoding: Encoding) -> int:
        """The number of a row's class, from its number or its name; a file may have numbers as text, or as floats.

        Of a language model the name is the text that goes on with the row's, whose tokens `encoding` has.

        Raises:
            ValueError: the row has no label, or there is no such class.
        """
        label, name = self.labels[index], f"the label of dataset[{index}]"
        if label is None or label == "" or label != label:  # a number that is missing is NaN in pandas
            begin = _as_text(self.items[index])[:60]  # with count=... the number is that of a row drawn
            raise ValueError(f"{name}, {begin!r}, is missing ({label!r}): give it one, or leave the row out.")
        labels = Labels(self.model, self.tokenizer)
        if isinstance(label, str) and label.isdecimal() and not labels.of_tokens and label not in labels:
            label = int(label)
        if isinstance(label, float) and label.is_integer():
            label = int(label)
        return labels.index(label, name, labels.after(encoding))

    def examples(self) -> list[Example]:
        """One example for each text, with the chosen target; the same for all metrics, to be attributed once."""
        if self._examples is None:
            keys = self.keys()
            names = [f"dataset[{i}]" for i in range(len(self.items))]
            encodings = [self.tokenize(item, name) for item, name in zip(self.items, names, strict=True)]
            if self.target == "predicted":
                questions = self._predicted(encodings)
            else:
                questions = [
                    self.ask(encoding, self.target_of(i, encoding), where=f"dataset[{i}]")
                    for i, encoding in enumerate(encodings)
                ]
            rows = zip(keys, self.items, questions, strict=True)
            self._examples = [Example(key, _as_text(item), (question,)) for key, item, question in rows]
        return self._examples

    def _predicted(self, encodings: list[Encoding]) -> list[Question]:
        """Questions about what is predicted, in few forwards."""
        questions = [self.ask(encoding, target=0, where=f"dataset[{i}]") for i, encoding in enumerate(encodings)]
        found: list[int] = []
        for start in range(0, len(questions), _TEXTS):
            found += logits(self.model, questions[start : start + _TEXTS]).argmax(1).tolist()
        return [replace(question, target=target) for question, target in zip(questions, found, strict=True)]

    def target_of(self, index: int, encoding: Encoding) -> int | str | None:
        """What is explained of a tokenized text: its class, one class for all, or `None` for what is predicted.

        Raises:
            ValueError: the text's class is wanted, and its label is missing or unknown to the model.
        """
        if self.target == "label":
            return self.class_of(index, encoding)
        return None if self.target == "predicted" else self.target


def _as_text(item: str | tuple[str, str] | Any) -> str:
    """How a table shows a text or a pair."""
    return item if isinstance(item, str) else " / ".join(item) if isinstance(item, tuple) else str(item)


def _key_of(item: Any) -> str:
    """A short name of an example that is the same in every run."""
    return hashlib.sha256(repr(item).encode("utf-8", "replace")).hexdigest()[:12]


def _unique_keys(keys: Sequence[str]) -> list[str]:
    """The same keys, with a number behind those that came before: a dataset may have a text twice."""
    seen: dict[str, int] = {}
    found = []
    for key in keys:
        seen[key] = seen.get(key, 0) + 1
        found.append(key if seen[key] == 1 else f"{key}-{seen[key]}")
    return found
