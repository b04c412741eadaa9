"""Any method's scores as `Explanation`s, to be shown, saved, and judged by people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from bcos_peft._utils.arguments import checked_arguments
from bcos_peft.evaluation.methods import Bcos, get_method
from bcos_peft.evaluation.questions import as_scores, check_scores, logits, probabilities, question_of, tokenize
from bcos_peft.explanation import Explanation
from bcos_peft.models import Labels


@checked_arguments
def explain_with(
    model: nn.Module,
    tokenizer,
    texts: Iterable[Any],
    method,
    target: int | str | Sequence | None = None,
    foil: int | str | None = None,
    truncation: bool = False,
) -> list[Explanation]:
    """Explanations of texts by any attribution method.

    Only exact contributions (the method `"bcos"`) sum to the logit, with their baseline if they have one. Of other
    methods the `residual` says what is missing, and their pages warn about it.

    Args:
        model (`torch.nn.Module`): a classifier or a causal language model; converted or not.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): the model's tokenizer.
        texts (`Iterable`): texts, or pairs of texts.
        method: a name as of [`get_method`], what that gives, or any callable of the model and a [`Question`].
        target (`int`, `str` or a list of these, *optional*): class or token, one for all or one for each text. Default
            (`None`, also in a list): what the model predicts.
        foil (`int` or `str`, *optional*): what the target is compared with.
        truncation (`bool`, defaults to `False`): cut texts that are too long.

    Returns:
        `list[Explanation]`

    Raises:
        TypeError: `texts` is a single text.
        ValueError: a text is empty or too long, there is no such method or target, or not one for each text. Nothing
            was explained then.

    Example:
        >>> from transformers import AutoModelForSequenceClassification, AutoTokenizer
        >>> from bcos_peft.evaluation import explain_with
        >>> name = "distilbert/distilbert-base-uncased-finetuned-sst-2-english"
        >>> model = AutoModelForSequenceClassification.from_pretrained(name)
        >>> tokenizer = AutoTokenizer.from_pretrained(name)
        >>> (explanation,) = explain_with(model, tokenizer, ["A gripping film."], "occlusion")
        >>> explanation.tokens[0], explanation.scores[0]
        ('[CLS]', np.float64(0.0))
    """
    if isinstance(texts, str):
        raise TypeError(f"texts must be a list of texts, and not a single text; write [{texts!r:.40}].")
    if isinstance(method, str):
        method = get_method(method, tokenizer)
    texts = list(texts)
    targets = list(target) if isinstance(target, (list, tuple)) else [target] * len(texts)
    if len(targets) != len(texts):
        raise ValueError(f"target has {len(targets)} entries for {len(texts)} texts; give one for all, or one each.")
    encodings = [tokenize(model, tokenizer, text, truncation, f"texts[{i}]") for i, text in enumerate(texts)]
    questions = [question_of(model, tokenizer, *row, foil) for row in zip(encodings, targets, strict=True)]
    labels = Labels(model, tokenizer)
    found = []
    for encoding, question in zip(encodings, questions, strict=True):
        scores = as_scores(method(model, question))
        check_scores(question, scores)
        row = logits(model, [question])[0]
        predicted = int(row.argmax())
        after = encoding.input_ids if labels.of_tokens else None
        value = row[question.target] - (0 if question.foil is None else row[question.foil])
        regression = model.config.problem_type == "regression"  # its output is no logit of anything
        relative = isinstance(method, Bcos) and method.baseline == "average"
        found.append(
            Explanation(
                tokens=tokenizer.convert_ids_to_tokens(encoding.input_ids),
                scores=scores.numpy(),
                text=encoding.text,
                offsets=encoding.offsets,
                sequence_ids=encoding.sequence_ids,
                special=encoding.special,
                token_ids=encoding.input_ids,
                target=question.target,
                target_label=labels.name(question.target, after),
                predicted=predicted,
                predicted_label=labels.name(predicted, after),
                logit=float(value),
                probability=None if regression else float(probabilities(model, [question])[0, question.target]),
                foil=question.foil,
                foil_label=None if question.foil is None else labels.name(question.foil, after),
                baseline=float(value) - method.total(model, question) if relative else None,
            )
        )
    return found
