"""What attribution methods share: they leave the model as it was, and see it as a function of word embeddings."""

from __future__ import annotations

import warnings
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bcos_peft._utils.imports import import_extra
from bcos_peft.attribution import average_embedding, frozen
from bcos_peft.evaluation.questions import Question, evaluating, logits


_BASELINES = ("mask", "pad", "zero", "average")


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """A way to score the tokens of a text; any callable with a `name` that takes these arguments can stand for one.

    Args:
        name (`str`): what tables call it.

    Example:
        >>> import torch
        >>> from bcos_peft.evaluation import Question, get_method
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(num_hidden_layers=1, hidden_size=16, num_attention_heads=2, intermediate_size=32)
        >>> method = get_method("saliency")
        >>> method.name, method(BertForSequenceClassification(config), Question(torch.tensor([7, 8, 9]), 0)).shape
        ('saliency', torch.Size([3]))
    """

    name: str = ""
    needs: ClassVar[tuple[str, ...]] = ()
    """Modules of other packages. They are imported with the method, so that no example's time has their loading."""

    def __post_init__(self) -> None:
        for module in self.needs:
            import_extra(module, "This method needs")

    def __call__(self, model: nn.Module, question: Question) -> Tensor:
        """Scores of the tokens for the target (against the foil).

        Args:
            model (`torch.nn.Module`): a classifier or a causal language model. Mode, gradients, hooks and config come
                back as they were.
            question ([`Question`]): what is explained.

        Returns:
            `torch.Tensor`: `(length,)`, on the CPU, in float32 at least.
        """
        with evaluating(model), frozen(model), warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning, module="captum")
            scores = self._scores(_Probe(model, question)).detach().cpu()
        return scores.to(torch.promote_types(scores.dtype, torch.float32))

    @abstractmethod
    def _scores(self, probe: _Probe) -> Tensor: ...

    def total(self, model: nn.Module, question: Question) -> float | None:
        """What the scores should sum to by the method's own theory; `None` where it has none to say."""
        return None

    def residual(self, model: nn.Module, question: Question, scores: Tensor) -> float | None:
        """`total − Σ scores`, in logit units: by how much the method misses its own completeness; `None` without."""
        total = self.total(model, question)
        return None if total is None else total - float(scores.double().sum())

    @property
    def settings(self) -> dict[str, Any]:
        """The options, for the record."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class BaselineMethod(Method):
    """A method that compares the text with one from which words are gone. Special tokens stay, and score 0.

    Args:
        name (`str`): what tables call it.
        baseline (`str`, defaults to `"zero"`): what stands for a word that is gone: the embedding of `"mask"` or
            `"pad"`, `"zero"`, a row of zeros, or `"average"`, the mean embedding of the vocabulary. Positions and the
            attention mask stay those of the text.
        baseline_id (`int`, *optional*): the id of the mask or padding token. [`get_method`] finds it.

    Raises:
        ValueError: there is no such baseline, or its token is not known.

    Example:
        >>> from bcos_peft.evaluation import get_method
        >>> get_method("occlusion", baseline="mask", baseline_id=103).baseline
        'mask'
    """

    baseline: str = "zero"
    baseline_id: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.baseline not in _BASELINES:
            raise ValueError(f"baseline={self.baseline!r} is unknown; there are: {', '.join(_BASELINES)}.")
        if self.baseline == "mask" and self.baseline_id is None:
            raise ValueError(
                "baseline='mask' needs the mask token: pass tokenizer=... of a model that has one, or its id as "
                "baseline_id=.... Without one, as for most language models, baseline='zero' works everywhere."
            )

    def _reference(self, probe: _Probe) -> Tensor:
        return probe.reference(self.baseline, self.baseline_id)

    def _difference(self, model: nn.Module, question: Question) -> float:
        with evaluating(model), frozen(model):
            probe = _Probe(model, question)
            both = torch.stack([probe.embeddings, self._reference(probe)])
            values = probe.score(both, grad=False)
        return float(values[0] - values[1])


def _in_place(embeddings: Tensor, text: Tensor, ids: Any, output: Tensor) -> Tensor | None:
    """What was looked up, with other embeddings in the places of a text; None where it is not found.

    A classifier that has a decoder reads its text there again, one place later and without its last token; some models
    lengthen a text to whole windows.
    """
    if not isinstance(ids, Tensor) or ids.dim() != 2 or output.dim() != 3:
        return embeddings if output.shape == embeddings.shape else None
    for start in (0, 1):
        count = min(len(text), ids.shape[1] - start)
        same = count >= len(text) - start and bool(
            (ids[:, start : start + count] == text[:count].to(ids.device)).all()
        )
        if same:
            return torch.cat([output[:, :start], embeddings[:, :count], output[:, start + count :]], 1)
    return None


class _Probe:
    """The score of one question, as a function of the word embeddings or of which words are there.

    Word embeddings are changed where the embedding layer gives them; the ids stay. So positions (RoBERTa's are counted
    from the ids), the attention mask and the token that a decoder's classifier reads are those of the text.
    """

    def __init__(self, model: nn.Module, question: Question):
        if not hasattr(model, "get_input_embeddings"):
            raise ValueError(f"{type(model).__name__} has no get_input_embeddings(), where words enter the model.")
        self.model, self.question = model, question
        self.table = model.get_input_embeddings()
        # The stacks of an encoder-decoder have modules of their own for one table.
        same = [one for one in model.modules() if getattr(one, "weight", None) is self.table.weight]
        self.tables = [one for one in same if isinstance(one, type(self.table))]
        self.device = self.table.weight.device
        self.features = question.ranked.to(self.device)
        """Indices of the tokens that may be perturbed, `(features,)`."""
        self.embeddings = self._look_up(question.input_ids)
        """`(length, dimensions)`"""

    def _look_up(self, ids: Tensor) -> Tensor:
        with torch.no_grad():
            return self.table(ids.to(self.device)[None])[0]

    def reference(self, baseline: str, token: int | None) -> Tensor:
        """The embeddings `(length, dimensions)` of a text without words: special tokens are those of the text."""
        if baseline == "pad" and token is None:
            token = getattr(self.model.config, "pad_token_id", None)
            if token is None:
                raise ValueError(
                    "baseline='pad', but the model has no padding token; pass baseline_id=..., or 'zero'."
                )
        if baseline == "zero":
            gone = torch.zeros_like(self.embeddings)
        elif baseline == "average":
            average = average_embedding(self.table, self.table.weight.shape[0], self.device)
            gone = average.to(self.embeddings).expand_as(self.embeddings)
        else:
            gone = self._look_up(torch.full_like(self.question.input_ids, token))
        found = self.embeddings.clone()
        found[self.features] = gone[self.features]
        return found

    def score(self, embeddings: Tensor, grad: bool = True) -> Tensor:
        """The scores, `(rows,)`, of word embeddings `(rows, length, dimensions)`."""

        def hook(module, args, output):
            found = _in_place(embeddings, self.question.input_ids, args[0] if args else None, output)
            if found is None:
                raise ValueError(f"{type(self.model).__name__} looks words up in a way that is not supported here.")
            return found

        with ExitStack() as stack:
            for table in self.tables:
                stack.callback(table.register_forward_hook(hook).remove)
            rows = len(embeddings)
            values = logits(self.model, [self.question] * rows, batch_size=rows, grad=grad)
        target, foil = self.question.target, self.question.foil
        return values[:, target] if foil is None else values[:, target] - values[:, foil]

    def score_of(self, present: Tensor, reference: Tensor) -> Tensor:
        """The scores, `(rows,)`, where only some words are there: `present` is `(rows, features)`, 0 or 1."""
        kept = torch.ones(len(present), len(self.question), dtype=torch.bool, device=self.device)
        kept[:, self.features] = present.to(self.device).bool()
        return self.score(torch.where(kept[..., None], self.embeddings, reference), grad=False)

    def spread(self, values: Tensor) -> Tensor:
        """Scores of the features, `(features,)`, as scores of all tokens, `(length,)`: 0 for special ones."""
        found = torch.zeros(len(self.question), dtype=values.dtype, device=self.device)
        found[self.features] = values.to(self.device)
        return found


@contextmanager
def _seeded(seed: int, question: Question) -> Iterator[None]:
    """Random numbers that depend on a seed and on the text only; what is drawn outside is not disturbed."""
    mixed = zlib.crc32(question.input_ids.cpu().numpy().tobytes(), seed)
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(mixed)
        yield


def _captum_attr() -> ModuleType:
    """The module `captum.attr`."""
    return import_extra("captum.attr", "This method needs")
