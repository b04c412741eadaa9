"""Sensitivity to the parameters: an explanation that stays the same for a randomised model does not explain it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bcos_peft.evaluation.data import Example, Texts
from bcos_peft.evaluation.metrics.base import Metric, Value, _Method
from bcos_peft.evaluation.metrics.ranking import _spearman
from bcos_peft.evaluation.questions import as_scores


def _randomization_stages(model: nn.Module) -> list[tuple[str, list[nn.Parameter]]]:
    """The model's parameters in parts, from the output to the input: head, blocks from the last on, embeddings.

    Args:
        model (`torch.nn.Module`): its blocks are the longest-running `ModuleList` in it, by parameters.

    Returns:
        `list[tuple[str, list[nn.Parameter]]]`: name and parameters of each part; a tied parameter is in one only.

    Raises:
        ValueError: a parameter is not of floating point, as in quantised models.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(num_hidden_layers=2, hidden_size=16, num_attention_heads=2, intermediate_size=32)
        >>> [name for name, _ in _randomization_stages(BertForSequenceClassification(config))]
        ['head', 'block 1', 'block 0', 'embeddings']
    """
    named = list(model.named_parameters())
    wrong = [name for name, value in named if not value.is_floating_point()]
    if wrong:
        raise ValueError(f"Parameter {wrong[0]!r} is quantised and cannot be randomised; load the model unquantised.")
    lists = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        return [("all", [value for _, value in named])]
    path, blocks = max(lists, key=lambda entry: sum(value.numel() for value in entry[1].parameters()))
    inside = [i for i, (name, _) in enumerate(named) if name.startswith(f"{path}.")]
    stages = {"head": [value for _, value in named[inside[-1] + 1 :]]}
    for index in reversed(range(len(blocks))):
        start = f"{path}.{index}."
        stages[f"block {index}"] = [value for name, value in named if name.startswith(start)]
    stages["embeddings"] = [value for _, value in named[: inside[0]]]
    return [(name, values) for name, values in stages.items() if values]


@contextmanager
def cascading_randomization(model: nn.Module, seed: int = 0) -> Iterator[Iterator[str]]:
    """Randomises a model part by part, from the output to the input; at the end every parameter is as it was.

    Each parameter is drawn from a normal distribution of its own mean and standard deviation, so that scales stay.

    Args:
        model (`torch.nn.Module`): changed in place meanwhile.
        seed (`int`, defaults to 0): of the draws; they are the same for a parameter whatever the order.

    Yields:
        an iterator over the names of the parts: each step randomises one more.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> from bcos_peft.evaluation.metrics import cascading_randomization
        >>> config = BertConfig(num_hidden_layers=1, hidden_size=16, num_attention_heads=2, intermediate_size=32)
        >>> model = BertForSequenceClassification(config)
        >>> before = model.classifier.weight.clone()
        >>> with cascading_randomization(model) as stages:
        ...     for name in stages:
        ...         changed = not model.classifier.weight.equal(before)
        >>> changed, model.classifier.weight.equal(before)
        (True, True)

    Source: Adebayo et al. (arXiv 1810.03292), section 3.
    """
    kept: list[tuple[nn.Parameter, Tensor]] = []

    def steps() -> Iterator[str]:
        for number, (name, parameters) in enumerate(_randomization_stages(model)):
            generator = torch.Generator().manual_seed(seed * 10_007 + number)
            for parameter in parameters:
                kept.append((parameter, parameter.detach().clone()))
                wide = parameter.detach().float()
                spread = wide.std() if wide.numel() > 1 else wide.abs().mean()
                noise = torch.randn(wide.shape, generator=generator).to(wide.device)
                with torch.no_grad():
                    parameter.copy_(wide.mean() + spread * noise)
            yield name

    try:
        yield steps()
    finally:
        with torch.no_grad():
            for parameter, value in kept:
                parameter.copy_(value)


class ParameterRandomization(Metric):
    """How like the scores of a randomised model are to those of the model itself. Smaller is better.

    The rank correlation (Spearman, by its size) of the scores of the tokens that are not special, before and after:
    with all parameters random, and as the mean over a cascade from the head down to the embeddings. The target stays.
    A method near 1 does not look at the model. A method near 0 does; that its scores are right, this cannot tell.
    Scores that are all equal, before and after, have not changed either: they count 1.

    Args:
        seed (`int`, defaults to 0): of the random parameters.
        absolute (`bool`, defaults to `False`): compare the sizes of the scores, without their signs.

    Example:
        >>> from bcos_peft.evaluation import ParameterRandomization
        >>> list(ParameterRandomization().values)
        ['randomization', 'randomization_cascade']

    Source: Adebayo et al. (arXiv 1810.03292), section 3.
    """

    name = "parameter_randomization"
    values = {
        "randomization": Value("Correlation, all random", False),
        "randomization_cascade": Value("Correlation, cascade", False),
    }

    def __init__(self, seed: int = 0, absolute: bool = False):
        self.seed, self.absolute = seed, absolute

    def examples(self, texts: Texts) -> list[Example]:
        """One for each text of at least three tokens; fewer have no order to speak of."""
        found = [example for example in texts.examples() if len(example.questions[0].ranked) >= 3]
        if not found:
            raise ValueError("No text has three tokens, and fewer have no order to compare.")
        return found

    def measure(
        self, model: nn.Module, examples: Sequence[Example], scores: Sequence[list[Tensor]], method: _Method
    ) -> list[dict[str, Any]]:
        """The correlation at the end, its mean over the cascade, and each stage with its sign."""
        questions = [example.questions[0] for example in examples]
        before = [self._ranked(question, values[0]) for question, values in zip(questions, scores, strict=True)]
        curves: list[list[float]] = [[] for _ in examples]
        names = []
        with cascading_randomization(model, self.seed) as stages:
            for name in stages:
                names.append(name)
                for question, old, curve in zip(questions, before, curves, strict=True):
                    curve.append(_likeness(old, self._ranked(question, as_scores(method(model, question)))))
        return [
            {
                "randomization": abs(curve[-1]),
                "randomization_cascade": sum(map(abs, curve)) / len(curve),
                "curve": curve,
                "stages": names,
            }
            for curve in curves
        ]

    def _ranked(self, question, scores: Tensor) -> Tensor:
        values = scores[question.ranked]
        return values.abs() if self.absolute else values


def _likeness(first: Tensor, second: Tensor) -> float:
    """The rank correlation; 1 where both are constant, and a method so says the same of every model."""
    if all(bool((values == values[0]).all()) for values in (first, second)):
        return 1.0
    return _spearman(first, second)
