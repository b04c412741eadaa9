"""Perturbation curves: what a prediction is with more and more of the highest tokens gone, or with only them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from bcos_peft.evaluation.metrics.ranking import _top_tokens
from bcos_peft.evaluation.questions import Question, check_scores, logits, probabilities


_FRACTIONS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_ROWS = 512  # texts whose probabilities are held at once: those of a language model have a whole vocabulary


def _count_of(fraction: float, tokens: int) -> int:
    """How many of a text's tokens a fraction is: rounded, a half upwards, and at least one.

    Args:
        fraction (`float`): 0 to 1.
        tokens (`int`): of the text, without special ones.

    Example:
        >>> [_count_of(0.1, tokens) for tokens in (0, 1, 14, 15, 25)]
        [0, 1, 1, 2, 3]
    """
    # A product such as 0.7 * 45 may lie just below its half.
    return min(tokens, max(1, int(np.floor(fraction * tokens + 0.5 + 1e-9))))


def _perturb(question: Question, tokens: Tensor, fill: int | None) -> Question:
    """The question with some tokens replaced, or left out.

    Args:
        question ([`Question`]): about a text.
        tokens (`torch.Tensor`): indices of the tokens to perturb.
        fill (`int`, *optional*): the token id that takes their place; `None` deletes them.

    Returns:
        [`Question`]

    Example:
        >>> import torch
        >>> from bcos_peft.evaluation import Question
        >>> question = Question(torch.tensor([1, 7, 8, 2]), target=0)
        >>> _perturb(question, torch.tensor([1]), fill=4).input_ids.tolist()
        [1, 4, 8, 2]
        >>> _perturb(question, torch.tensor([1]), fill=None).input_ids.tolist()
        [1, 8, 2]
    """
    hit = torch.zeros(len(question), dtype=torch.bool)
    hit[tokens] = True
    if fill is None:
        return question.keep(~hit)
    ids = question.input_ids.masked_fill(hit.to(question.input_ids.device), fill)
    return Question(ids, question.target, question.foil, question.special, question.extra)


def _area(values: Sequence[float], fractions: Sequence[float] = _FRACTIONS) -> float:
    """Area under a curve by the trapezoid rule; over 10–90 % at most 0.8.

    Args:
        values (`Sequence[float]`): the curve.
        fractions (`Sequence[float]`): where, in rising order.

    Example:
        >>> round(_area([1.0] * 9), 6)
        0.8
    """
    values, fractions = np.asarray(values, float), np.asarray(fractions, float)
    return float(((values[1:] + values[:-1]) / 2 * np.diff(fractions)).sum())


def perturbation_curves(
    model: nn.Module,
    questions: Sequence[Question],
    scores: Sequence[Tensor],
    fill: int | None,
    keep: bool = False,
    fractions: Sequence[float] = _FRACTIONS,
    perturb_special: bool = False,
    output: str = "probability",
    batch_size: int = 32,
) -> list[np.ndarray]:
    """For each text, by how much the target falls when a growing part of its tokens is perturbed.

    All fractions of all texts go through the model together; fractions that come to as many tokens, once.

    Args:
        model (`torch.nn.Module`): classifier or causal language model.
        questions (`Sequence[Question]`): the texts, with targets; foils are left aside.
        scores (`Sequence[torch.Tensor]`): `(length,)` for each text. The largest go first (or stay); ties go in the
            order of the text.
        fill (`int`, *optional*): id of the mask or padding token; `None` deletes.
        keep (`bool`, defaults to `False`): perturb all but the highest tokens (sufficiency), not those
            (comprehensiveness).
        fractions (`Sequence[float]`): parts of the tokens that are not special.
        perturb_special (`bool`, defaults to `False`): with `keep`, special tokens are perturbed as well.
        output (`str`, defaults to `"probability"`): or `"logit"`.
        batch_size (`int`, defaults to 32): texts in one forward.

    Returns:
        `list[np.ndarray]`: `(fractions,)` each: output of the whole text less that of the perturbed one.

    Raises:
        ValueError: a score is not finite or has another length, or the only token would be deleted.

    Example:
        >>> from transformers import AutoModelForSequenceClassification, AutoTokenizer
        >>> from bcos_peft.evaluation import ask
        >>> from bcos_peft.evaluation.metrics import perturbation_curves
        >>> name = "distilbert/distilbert-base-uncased-finetuned-sst-2-english"
        >>> tokenizer = AutoTokenizer.from_pretrained(name)
        >>> model = AutoModelForSequenceClassification.from_pretrained(name)
        >>> question = ask(model, tokenizer, "A gripping film.")
        >>> (curve,) = perturbation_curves(model, [question], [question.input_ids.double()], tokenizer.mask_token_id)
        >>> curve.shape
        (9,)

    Source: DeYoung et al. (ERASER, arXiv 1911.03429), section 4.2; B-cos LM (arXiv 2502.12992).
    """
    if output not in ("probability", "logit"):
        raise ValueError(f"output must be 'probability' or 'logit', got {output!r}.")
    rows: list[Question] = []
    owners: list[tuple[int, int]] = []  # of each row: the text, and how many tokens count (-1: the whole text)
    for i, (question, values) in enumerate(zip(questions, scores, strict=True)):
        check_scores(question, values)
        ranked = question.ranked
        order = _top_tokens(values.cpu(), ranked, len(ranked))
        special = torch.ones(len(question), dtype=torch.bool)
        special[ranked] = False
        rows.append(question)
        owners.append((i, -1))
        for count in sorted({_count_of(fraction, len(ranked)) for fraction in fractions}):
            tokens = order[count:] if keep else order[:count]
            if keep and perturb_special:
                tokens = torch.cat([tokens, special.nonzero().flatten()])
            if fill is None and len(tokens) == len(question):
                if len(tokens) == 1:
                    raise ValueError(
                        f"questions[{i}] is one token and no special ones, and fill=None would leave nothing of it; "
                        "leave the text out, or give the id of a mask or padding token."
                    )
                tokens = tokens[:-1]  # a model cannot read an empty text: its lowest token stays
            rows.append(_perturb(question, tokens, fill))
            owners.append((i, count))
    found: dict[tuple[int, int], float] = {}
    read = probabilities if output == "probability" else logits
    for start in range(0, len(rows), _ROWS):
        part = rows[start : start + _ROWS]
        values = read(model, part, batch_size=batch_size)
        targets = torch.tensor([question.target for question in part], device=values.device)
        chosen = values.gather(1, targets[:, None])[:, 0].double().cpu().tolist()
        found.update(zip(owners[start : start + _ROWS], chosen, strict=True))
    return [
        np.array(
            [found[i, -1] - found[i, _count_of(fraction, len(question.ranked))] for fraction in fractions],
        )
        for i, question in enumerate(questions)
    ]
