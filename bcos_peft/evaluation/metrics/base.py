"""What a metric is: it makes examples of a dataset, and numbers of the scores that a method gives them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from bcos_peft.evaluation.data import Example, Texts
from bcos_peft.evaluation.questions import Question


_Method = Callable[[nn.Module, Question], Tensor]


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


class Metric:
    """Base class of metrics. A metric of your own has a `name`, `values` and the two methods.

    Attributes:
        name (`str`): as `get_metric` knows it.
        values (`dict[str, Value]`): the numbers that it gives, by name; the first is the main one.

    Example:
        >>> from bcos_peft.evaluation.metrics import Metric, Value
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
        self, model: nn.Module, examples: Sequence[Example], scores: Sequence[list[Tensor]], method: _Method
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
