"""Comprehensiveness and sufficiency: what a prediction is without the highest tokens, or with only them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from bcos_peft._utils.checks import valid_count
from bcos_peft.evaluation.data import Example, Texts
from bcos_peft.evaluation.metrics.base import Metric, Value, _Method
from bcos_peft.evaluation.metrics.curves import _FRACTIONS, _area, perturbation_curves


_WAYS = ("mask", "pad", "delete")


def _values(name: str, higher_is_better: bool) -> dict[str, Value]:
    what = name.capitalize().replace("_", " ")
    return {
        name: Value(f"{what} (area)", higher_is_better),
        f"{name}_aopc": Value(f"{what} (AOPC)", higher_is_better),
    }


class _Perturbation(Metric):
    _keep = False

    def __init__(
        self,
        perturbation: str | None = None,
        fractions: Sequence[float] = _FRACTIONS,
        output: str = "probability",
        batch_size: int = 32,
        label: str | None = None,
    ):
        if perturbation is not None and perturbation not in _WAYS:
            raise ValueError(f"perturbation must be one of {', '.join(map(repr, _WAYS))}, got {perturbation!r}.")
        if len(fractions) < 2 or list(fractions) != sorted(set(fractions)) or fractions[0] <= 0 or fractions[-1] > 1:
            raise ValueError(f"fractions must be at least two numbers in rising order, in (0, 1]; got {fractions!r}.")
        valid_count("batch_size", batch_size, least=1)
        self.perturbation, self.fractions, self.output = perturbation, tuple(fractions), output
        self._batch_size, self._special = batch_size, False
        self._way, self._fill = perturbation, None
        if label is not None:
            self.name, self.values = label, _values(label, not self._keep)

    def examples(self, texts: Texts) -> list[Example]:
        """One for each text; without texts of which deleting would leave nothing, with a warning."""
        ids = {way: getattr(texts.tokenizer, f"{way}_token_id") for way in ("mask", "pad")} | {"delete": None}
        known = [way for way in _WAYS if way == "delete" or ids[way] is not None]
        self._way = known[0] if self.perturbation is None else self.perturbation
        if self._way not in known:
            raise ValueError(
                f"perturbation={self._way!r} needs a {self._way} token, and the tokenizer has none; choose one of "
                f"{', '.join(map(repr, known))}."
            )
        self._fill = ids[self._way]
        examples = texts.examples()
        if self._fill is not None:
            return examples
        found = [example for example in examples if len(example.questions[0]) > 1]
        if not found:
            raise ValueError(f"{self.name}: every text is one token, and perturbation='delete' would leave nothing.")
        if len(found) < len(examples):
            warnings.warn(
                f"{self.name} leaves out {len(examples) - len(found)} of {len(examples)} texts: they are one token, "
                "and perturbation='delete' would leave nothing of it.",
                stacklevel=2,
            )
        return found

    def measure(
        self, model: nn.Module, examples: Sequence[Example], scores: Sequence[list[Tensor]], method: _Method
    ) -> list[dict[str, Any]]:
        """Area, AOPC and the whole curve."""
        curves = perturbation_curves(
            model,
            [example.questions[0] for example in examples],
            [values[0] for values in scores],
            fill=self._fill,
            keep=self._keep,
            fractions=self.fractions,
            perturb_special=self._special,
            output=self.output,
            batch_size=self._batch_size,
        )
        return [
            {
                self.name: _area(curve, self.fractions),
                f"{self.name}_aopc": float(curve.mean()),
                "curve": curve.tolist(),
            }
            for curve in curves
        ]

    def settings(self) -> dict[str, Any]:
        """The options, with the way of perturbing that was chosen for the tokenizer."""
        return {**super().settings(), "perturbation": self._way}


class Comprehensiveness(_Perturbation):
    """By how much the prediction falls when the highest tokens are taken away. Larger is better.

    Two numbers: the area under the curve over the fractions, as the B-cos LM paper has it (over 10–90 % at most 0.8),
    and the mean over the fractions (AOPC, at most 1).

    Args:
        perturbation (`"mask"`, `"pad"` or `"delete"`, *optional*): what happens to a token: it becomes the mask token,
            becomes the padding token (and is still attended to), or is left out. Default: mask, pad where there is no
            mask token, delete where there is neither.
        fractions (`Sequence[float]`, defaults to 0.1 … 0.9): of the tokens that are not special, rounded, at least
            one token.
        output (`str`, defaults to `"probability"`): or `"logit"`.
        batch_size (`int`, defaults to 32): texts in one forward.
        label (`str`, *optional*): another name for its numbers, to have it twice in a table with different options.

    Example:
        >>> from bcos_peft.evaluation import Comprehensiveness
        >>> Comprehensiveness(perturbation="delete").settings()["perturbation"]
        'delete'

    Source: DeYoung et al. (ERASER, arXiv 1911.03429), section 4.2; B-cos LM (arXiv 2502.12992).
    """

    name = "comprehensiveness"
    values = _values("comprehensiveness", True)


class Sufficiency(_Perturbation):
    """By how much the prediction falls when only the highest tokens stay. Smaller is better.

    Args:
        perturbation (`"mask"`, `"pad"` or `"delete"`, *optional*): as for `Comprehensiveness`.
        fractions (`Sequence[float]`, defaults to 0.1 … 0.9): how many tokens stay.
        output (`str`, defaults to `"probability"`): or `"logit"`.
        batch_size (`int`, defaults to 32): texts in one forward.
        perturb_special (`bool`, defaults to `False`): also perturb [CLS] and [SEP], as the code of the B-cos LM paper
            does; for comparison with its figures.
        label (`str`, *optional*): another name for its numbers, to have it twice in a table with different options.

    Example:
        >>> from bcos_peft.evaluation import Sufficiency
        >>> Sufficiency(perturb_special=True).values["sufficiency"].heading
        'Sufficiency (area) ↓'

    Source: DeYoung et al. (ERASER, arXiv 1911.03429), section 4.2; B-cos LM (arXiv 2502.12992).
    """

    name = "sufficiency"
    values = _values("sufficiency", False)
    _keep = True

    def __init__(
        self,
        perturbation: str | None = None,
        fractions: Sequence[float] = _FRACTIONS,
        output: str = "probability",
        batch_size: int = 32,
        perturb_special: bool = False,
        label: str | None = None,
    ):
        super().__init__(perturbation, fractions, output, batch_size, label)
        self.perturb_special = self._special = perturb_special
