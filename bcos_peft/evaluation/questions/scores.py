"""Scores of tokens, as metrics take them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from bcos_peft.evaluation.questions.question import Question


def as_scores(values: Any, source: str = "scores") -> Tensor:
    """Scores as metrics take them: a tensor of float64 on the CPU, without its graph.

    Args:
        values: a tensor, an array or a list, `(length,)`, or `(1, length)` as captum gives it.
        source (`str`): names it in the error.

    Raises:
        TypeError: these are no numbers.

    Example:
        >>> from bcos_peft.evaluation.questions import as_scores
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
