"""What methods and metrics ask of a model: the logit of one text, or those of many texts in few forwards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from bcos_peft._utils.arguments import checked_arguments
from bcos_peft._utils.checks import valid_count
from bcos_peft.evaluation.questions.forward import _forward, _parameters_of, predicts_next_token
from bcos_peft.models import Labels
from bcos_peft.text import Encoding, encode, special_ids, split_inputs


# transformers marks "no limit" with a huge model_max_length.
_NO_LIMIT = 10**6


@dataclass(frozen=True, eq=False)
class Question:
    """What is asked of a model about one text: why `target` (rather than `foil`)?

    Args:
        input_ids (`torch.Tensor`): `(length,)`, token ids without padding.
        target (`int`): class of a classifier, token of a language model's vocabulary.
        foil (`int`, *optional*): what the target is compared with: `logit[target] − logit[foil]` is attributed.
        special (`torch.Tensor`, *optional*): `(length,)`, which tokens are never perturbed and not ranked ([CLS],
            [SEP], the beginning of a text, the marks of a chat template); `None`: there are none.
        extra (`dict[str, torch.Tensor]`): further inputs of the model with one entry for each token, `(length,)`, such
            as `token_type_ids`.

    Raises:
        ValueError: a tensor is not of shape `(length,)`, or `foil` is `target`.

    Example:
        >>> import torch
        >>> from bcos_peft.evaluation import Question
        >>> question = Question(torch.tensor([101, 7592, 102]), target=1, special=torch.tensor([True, False, True]))
        >>> len(question), question.ranked.tolist()
        (3, [1])
        >>> question.keep(torch.tensor([True, False, True])).input_ids.tolist()
        [101, 102]
    """

    input_ids: Tensor
    target: int
    foil: int | None = None
    special: Tensor | None = None
    extra: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.input_ids.dim() != 1 or not len(self.input_ids):
            raise ValueError(f"input_ids must have shape (length,), length > 0; got {tuple(self.input_ids.shape)}.")
        for name, value in {"special": self.special, **self.extra}.items():
            if value is not None and value.shape != self.input_ids.shape:
                raise ValueError(
                    f"{name} must have the shape of input_ids, {tuple(self.input_ids.shape)}, not {tuple(value.shape)}"
                )
        if self.foil is not None and self.foil == self.target:
            raise ValueError(f"foil={self.foil} is the target: their difference is zero and has nothing to explain.")

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def ranked(self) -> Tensor:
        """Indices of the tokens that may be perturbed and are ranked, `(tokens,)`: all but the special ones."""
        if self.special is None:
            return torch.arange(len(self))
        return (~self.special).nonzero().flatten().cpu()

    def keep(self, mask: Tensor) -> Question:
        """The question about a part of the text: the tokens where `mask`, `(length,)` of bool, is true."""
        return replace(
            self,
            input_ids=self.input_ids[mask],
            special=None if self.special is None else self.special[mask],
            extra={name: value[mask] for name, value in self.extra.items()},
        )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """The model in evaluation mode for the time of a `with` block; afterwards every module is as it was."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield model
    finally:
        for module, training in modes:
            module.training = training


@checked_arguments
def ask(
    model: nn.Module,
    tokenizer,
    text: str | tuple[str, str] | Any,
    target: int | str | None = None,
    foil: int | str | None = None,
    truncation: bool = False,
) -> Question:
    """The question why a model predicts what it predicts for a text, or why another target.

    Args:
        model (`torch.nn.Module`): a classifier, or a causal language model; converted or not.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): the model's tokenizer.
        text (`str`, `tuple[str, str]` or token ids): a text, a pair of texts, or ids with their special tokens.
        target (`int` or `str`, *optional*): class (number or label) or token (id, or a text of one token, which goes
            on with `text`). Default: the predicted class, or the most likely next token.
        foil (`int` or `str`, *optional*): what the target is compared with.
        truncation (`bool`, defaults to `False`): cut a text that is too long for the model.

    Returns:
        [`Question`]

    Raises:
        ValueError: the text is empty, of special tokens only, or too long, or there is no such target.
        TypeError: `tokenizer` is no tokenizer of transformers.

    Example:
        >>> from transformers import AutoModelForSequenceClassification, AutoTokenizer
        >>> from bcos_peft.evaluation import ask
        >>> name = "distilbert/distilbert-base-uncased-finetuned-sst-2-english"
        >>> model = AutoModelForSequenceClassification.from_pretrained(name)
        >>> question = ask(model, AutoTokenizer.from_pretrained(name), "A gripping film.", target="POSITIVE")
        >>> question.target, question.special[0].item(), question.special[1].item()
        (1, True, False)
    """
    encoding = tokenize(model, tokenizer, text, truncation)
    return question_of(model, tokenizer, encoding, target, foil)


def tokenize(model: nn.Module, tokenizer, text: Any, truncation: bool = False, where: str = "text") -> Encoding:
    """One text as lists of token ids, character spans and flags of special tokens, no longer than the model reads."""
    check_tokenizer(tokenizer)
    (item,), _ = split_inputs([text])
    pairs = not predicts_next_token(model)
    return encode(item, tokenizer, max_length(model, tokenizer), truncation, where, pairs)


def check_tokenizer(tokenizer) -> None:
    """Raises `TypeError` for what is no tokenizer, such as `None`."""
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise TypeError(f"tokenizer must be a transformers tokenizer, got {type(tokenizer).__name__}.")


def max_length(model: nn.Module, tokenizer) -> int | None:
    """How many tokens the model reads; `None` where nothing says so."""
    config = getattr(model, "config", None)
    limits = (tokenizer.model_max_length, getattr(config, "max_position_embeddings", None))
    known = [limit for limit in limits if isinstance(limit, int) and 0 < limit < _NO_LIMIT]
    return min(known) if known else None


def question_of(
    model: nn.Module,
    tokenizer,
    encoding: Encoding,
    target: int | str | None,
    foil: int | str | None = None,
    where: str = "text",
) -> Question:
    """The question about a tokenized text; `where` names it in errors."""
    labels = Labels(model, tokenizer)
    after = labels.after(encoding)
    written = special_ids(tokenizer)  # the text may have special tokens of its own, as chat templates write them
    special = [flag or token in written for flag, token in zip(encoding.special, encoding.input_ids, strict=True)]
    if all(special):
        raise ValueError(f"{where} has special tokens only, {encoding.text!r}: there is nothing to explain.")
    question = Question(
        input_ids=torch.tensor(encoding.input_ids),
        target=0 if target is None else labels.index(target, "target", after),
        special=torch.tensor(special),
        extra={name: torch.tensor(values) for name, values in encoding.extra.items() if name in _parameters_of(model)},
    )
    if target is None:
        question = replace(question, target=int(logits(model, [question])[0].argmax()))
    return question if foil is None else replace(question, foil=labels.index(foil, "foil", after))


def score(model: nn.Module, question: Question) -> Tensor:
    """The number that methods attribute, with its graph: `logit[target]`, or `logit[target] − logit[foil]`.

    Args:
        model (`torch.nn.Module`): as for `ask`. It runs in evaluation mode, and comes back as it was.
        question ([`Question`]): about one text.

    Returns:
        `torch.Tensor`: a scalar, in logit units.

    Example:
        >>> from transformers import AutoModelForSequenceClassification, AutoTokenizer
        >>> from bcos_peft.evaluation import ask, score
        >>> name = "distilbert/distilbert-base-uncased-finetuned-sst-2-english"
        >>> model = AutoModelForSequenceClassification.from_pretrained(name)
        >>> tokenizer = AutoTokenizer.from_pretrained(name)
        >>> question = ask(model, tokenizer, "A gripping film.", target="POSITIVE", foil="NEGATIVE")
        >>> score(model, question).requires_grad
        True
    """
    row = logits(model, [question], grad=True)[0]
    return row[question.target] if question.foil is None else row[question.target] - row[question.foil]


@checked_arguments
def probabilities(
    model: nn.Module, questions: Sequence[Question], input_ids: Sequence[Tensor] | None = None, batch_size: int = 32
) -> Tensor:
    """Probabilities of all classes (or tokens), 0 to 1: softmax, or sigmoid for a single or for independent labels.

    Args:
        model (`torch.nn.Module`): as for `logits`.
        questions (`Sequence[Question]`): as for `logits`.
        input_ids (`Sequence[torch.Tensor]`, *optional*): as for `logits`.
        batch_size (`int`, defaults to 32): as for `logits`.

    Returns:
        `torch.Tensor`: `(questions, classes)`.

    Example:
        >>> from transformers import AutoModelForSequenceClassification, AutoTokenizer
        >>> from bcos_peft.evaluation import ask, probabilities
        >>> name = "distilbert/distilbert-base-uncased-finetuned-sst-2-english"
        >>> model = AutoModelForSequenceClassification.from_pretrained(name)
        >>> question = ask(model, AutoTokenizer.from_pretrained(name), "A gripping film.")
        >>> round(probabilities(model, [question]).sum().item(), 4)
        1.0
    """
    values = logits(model, questions, input_ids, batch_size)
    problem = getattr(getattr(model, "config", None), "problem_type", None)
    if problem == "multi_label_classification" or values.shape[1] == 1:
        return values.sigmoid()
    return values.softmax(dim=-1)


@checked_arguments
def logits(
    model: nn.Module,
    questions: Sequence[Question],
    input_ids: Sequence[Tensor] | None = None,
    batch_size: int = 32,
    grad: bool = False,
) -> Tensor:
    """Logits of many texts, padded and in batches of texts of like length.

    Args:
        model (`torch.nn.Module`): as for `ask`. It runs in evaluation mode, and comes back as it was.
        questions (`Sequence[Question]`): the texts; targets and foils are not looked at.
        input_ids (`Sequence[torch.Tensor]`, *optional*): token ids to read in place of the questions' own, each of
            its question's length, as when words are masked.
        batch_size (`int`, defaults to 32): texts in one forward.
        grad (`bool`, defaults to `False`): keep the graph.

    Returns:
        `torch.Tensor`: `(questions, classes)`; for a causal language model the logits that follow the last token,
        `(questions, vocabulary)`. In float32 at least, on the model's device.

    Raises:
        ValueError: the override does not fit, or the model has outputs per token and does not predict the next one.

    Example:
        >>> import torch
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> from bcos_peft.evaluation import Question, logits
        >>> config = LlamaConfig(num_hidden_layers=1, hidden_size=16, num_attention_heads=2, vocab_size=50)
        >>> texts = [torch.tensor([3, 4, 5]), torch.tensor([6])]
        >>> logits(LlamaForCausalLM(config), [Question(ids, target=0) for ids in texts]).shape
        torch.Size([2, 50])
    """
    if not questions:
        raise ValueError("questions is empty: there is nothing to compute.")
    valid_count("batch_size", batch_size, least=1)
    if input_ids is None:
        rows = [question.input_ids for question in questions]
    else:
        rows = list(input_ids)
        if [len(row) for row in rows] != [len(question) for question in questions]:
            raise ValueError("input_ids must have one row for each question, of its length; use Question.keep to cut.")
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    with evaluating(model), nullcontext() if grad else torch.no_grad():
        found = [_forward(model, [rows[i] for i in batch], [questions[i].extra for i in batch]) for batch in batches]
    found = torch.cat(found)
    back = torch.tensor(sorted(range(len(order)), key=order.__getitem__), device=found.device)
    return found[back]
