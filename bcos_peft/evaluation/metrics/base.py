"""What a metric is: it makes examples of a dataset, and numbers of the scores that a method gives them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bcos_peft.evaluation.questions.question import Question, check_tokenizer, logits, question_of, tokenize
from bcos_peft.models.labels import Labels
from bcos_peft.text.encoding import Encoding


__all__ = ["Example", "Metric", "Texts", "Value", "as_scores", "as_text", "check_scores", "key_of", "unique_keys"]

_TEXTS = 128  # whose logits are held at once: those of a language model have a whole vocabulary

Method = Callable[[nn.Module, Question], Tensor]


@dataclass(frozen=True)
class Value:
    """One of the numbers that a metric gives for each example.

    Args:
        label (`str`): heading of its column.
        higher_is_better (`bool`, *optional*): `None` where neither is good or bad.

    Example:
        >>> from bcos_peft.evaluation import get_metric
        >>> get_metric("comprehensiveness").values["comprehensiveness"].higher_is_better
        True
    """

    label: str
    higher_is_better: bool | None = None

    @property
    def heading(self) -> str:
        """The label with an arrow to where it is better."""
        return self.label + {True: " ↑", False: " ↓", None: ""}[self.higher_is_better]


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
        >>> from bcos_peft.evaluation.metrics.base import Example
        >>> Example("a", "A film.", (Question(torch.tensor([1, 2]), target=0),)).chance
        {}
    """

    key: str
    text: str
    questions: tuple[Question, ...]
    data: Any = None
    chance: dict[str, float] = field(default_factory=dict)


class Metric:
    """Base class of metrics. A metric of your own has a `name`, `values` and the two methods.

    Attributes:
        name (`str`): as `get_metric` knows it.
        values (`dict[str, Value]`): the numbers that it gives, by name; the first is the main one.

    Example:
        >>> from bcos_peft.evaluation.metrics.base import Metric, Value
        >>> class SpecialShare(Metric):
        ...     name, values = "special", {"special": Value("share of [CLS] and [SEP]")}
        ...     def examples(self, texts):
        ...         return texts.examples()
        ...     def measure(self, model, examples, scores, method):
        ...         return [{"special": float(s[0][e.questions[0].special].sum() / s[0].sum())}
        ...                 for e, s in zip(examples, scores)]
        >>> SpecialShare().settings()
        {}
    """

    name: str = ""
    values: dict[str, Value] = {}

    def examples(self, texts: Texts) -> list[Example]:
        """The examples of a dataset.

        Args:
            texts ([`Texts`]): model, tokenizer and dataset.
        """
        raise NotImplementedError

    def measure(
        self, model: nn.Module, examples: Sequence[Example], scores: Sequence[list[Tensor]], method: Method
    ) -> list[dict[str, Any]]:
        """For each example its values by name; further entries (such as a curve) are kept in the saved result.

        Args:
            model (`torch.nn.Module`): that the scores are of.
            examples (`Sequence[Example]`): some of those that `examples` gave.
            scores (`Sequence[list[torch.Tensor]]`): for each example, the scores of each of its questions, `(length,)`
                in float64 on the CPU.
            method: which gave the scores, for metrics that need more of them.
        """
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """Options that change the numbers, as plain values."""
        names = vars(self).keys() - {"name", "values"}
        return {name: getattr(self, name) for name in sorted(names) if not name.startswith("_")}


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
        >>> from bcos_peft.evaluation.metrics.base import Texts
        >>> name = "distilbert/distilbert-base-uncased-finetuned-sst-2-english"
        >>> model = AutoModelForSequenceClassification.from_pretrained(name)
        >>> texts = Texts(model, AutoTokenizer.from_pretrained(name), ["A gripping film.", "Dull."])
        >>> [example.text for example in texts.examples()]
        ['A gripping film.', 'Dull.']
    """

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

    def class_of(self, index: int) -> int:
        """The number of a row's class, from its number or its name; a file may have numbers as text, or as floats.

        Raises:
            ValueError: the row has no label, or there is no such class.
        """
        label, name = self.labels[index], f"the label of dataset[{index}]"
        if label is None or label == "" or label != label:  # a number that is missing is NaN in pandas
            begin = as_text(self.items[index])[:60]  # with count=... the number is that of a row drawn
            raise ValueError(f"{name}, {begin!r}, is missing ({label!r}): give it one, or leave the row out.")
        labels = Labels(self.model, self.tokenizer)
        if isinstance(label, str) and label.isdecimal() and not labels.of_tokens and label not in labels:
            label = int(label)
        if isinstance(label, float) and label.is_integer():
            label = int(label)
        return labels.index(label, name)

    def examples(self) -> list[Example]:
        """One example for each text, with the chosen target; the same for all metrics, to be attributed once."""
        if self._examples is None:
            keys = unique_keys([key_of(item) for item in self.items])
            names = [f"dataset[{i}]" for i in range(len(self.items))]
            encodings = [self.tokenize(item, name) for item, name in zip(self.items, names, strict=True)]
            if self.target == "predicted":
                questions = self._predicted(encodings)
            else:
                questions = [
                    self.ask(encoding, self.target_of(i), where=f"dataset[{i}]")
                    for i, encoding in enumerate(encodings)
                ]
            rows = zip(keys, self.items, questions, strict=True)
            self._examples = [Example(key, as_text(item), (question,)) for key, item, question in rows]
        return self._examples

    def _predicted(self, encodings: list[Encoding]) -> list[Question]:
        """Questions about what is predicted, in few forwards."""
        questions = [self.ask(encoding, target=0, where=f"dataset[{i}]") for i, encoding in enumerate(encodings)]
        found: list[int] = []
        for start in range(0, len(questions), _TEXTS):
            found += logits(self.model, questions[start : start + _TEXTS]).argmax(1).tolist()
        return [replace(question, target=target) for question, target in zip(questions, found, strict=True)]

    def target_of(self, index: int) -> int | str | None:
        """What is explained of a text: its class, one class for all, or `None` for what is predicted.

        Raises:
            ValueError: the text's class is wanted, and its label is missing or unknown to the model.
        """
        if self.target == "label":
            return self.class_of(index)
        return None if self.target == "predicted" else self.target


def as_scores(values: Any, source: str = "scores") -> Tensor:
    """Scores as metrics take them: a tensor of float64 on the CPU, without its graph.

    Args:
        values: a tensor, an array or a list, `(length,)`, or `(1, length)` as captum gives it.
        source (`str`): names it in the error.

    Raises:
        TypeError: these are no numbers.

    Example:
        >>> from bcos_peft.evaluation.metrics.base import as_scores
        >>> as_scores([[1, 2]])
        tensor([1., 2.], dtype=torch.float64)
    """
    if not isinstance(values, Tensor):
        try:
            values = torch.from_numpy(np.array(values, dtype=np.float64))
        except (TypeError, ValueError) as error:
            raise TypeError(f"{source} must be one number for each token, got {values!r:.80}.") from error
    values = values.detach().cpu().double()
    return values[0] if values.dim() == 2 and len(values) == 1 else values


def check_scores(question: Question, scores: Tensor, source: str = "scores") -> None:
    """Raises `ValueError` for scores that do not fit the text or are not finite.

    Args:
        question ([`Question`]): that they are for.
        scores (`torch.Tensor`): what a method gave.
        source (`str`): names it in the error.
    """
    if scores.shape != question.input_ids.shape:
        raise ValueError(
            f"{source} must have the shape of input_ids, {tuple(question.input_ids.shape)}, not {tuple(scores.shape)}."
        )
    if not bool(torch.isfinite(scores).all()):
        raise ValueError(f"{source} must be finite; there is infinity or NaN among them.")


def as_text(item: str | tuple[str, str] | Any) -> str:
    """How a table shows a text or a pair."""
    return item if isinstance(item, str) else " / ".join(item) if isinstance(item, tuple) else str(item)


def key_of(item: Any) -> str:
    """A short name of an example that is the same in every run."""
    return hashlib.sha256(repr(item).encode("utf-8", "replace")).hexdigest()[:12]


def unique_keys(keys: Sequence[str]) -> list[str]:
    """The same keys, with a number behind those that came before: a dataset may have a text twice."""
    seen: dict[str, int] = {}
    found = []
    for key in keys:
        seen[key] = seen.get(key, 0) + 1
        found.append(key if seen[key] == 1 else f"{key}-{seen[key]}")
    return found
