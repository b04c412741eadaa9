"""Methods that take gradients with respect to word embeddings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bcos_peft._utils.checks import valid_count
from bcos_peft.evaluation.similarity.base import PairScores, SimilarityMethod, _of_words
from bcos_peft.evaluation.similarity.reader import WordReader
from bcos_peft.text import Encoding


@dataclass(frozen=True, kw_only=True)
class SimilarityInputXGradient(SimilarityMethod):
    """Gradient of the cosine × word embedding: signed, and exact only for models linear in them.

    Args:
        name (`str`): what tables call it.

    Example:
        >>> from bcos_peft.evaluation.similarity import get_similarity_method
        >>> get_similarity_method("input_x_gradient").name
        'input_x_gradient'

    Source: Shrikumar et al. (arXiv 1605.01713).
    """

    name: str = "input_x_gradient"

    def _scores(self, reader: WordReader, a: str, b: str) -> PairScores:
        texts = [reader.encoding(text) for text in (a, b)]
        inputs = [reader.word_embeddings(text).requires_grad_() for text in texts]
        left, right = (reader.embed_words(text, one[None])[0] for text, one in zip(texts, inputs, strict=True))
        gradients = torch.autograd.grad(left @ right, inputs)
        _count_backward(reader, 1, 2)
        found = [_numbers((one * g).sum(-1)) for one, g in zip(inputs, gradients, strict=True)]
        return PairScores(_of_words(reader, a, found[0]), _of_words(reader, b, found[1]))


@dataclass(frozen=True, kw_only=True)
class IntegratedJacobians(SimilarityMethod):
    """The Jacobian of each embedding, averaged on the straight line from a reference to the text.

    With $x$ and $y$ the word embeddings of the texts, $r$ and $s$ those of their references, and $J$ the averages of
    the Jacobians, tokens $i$ and $j$ get $(x_i - r_i)^T J_{a,i}^T J_{b,j} (y_j - s_j)$. All pairs together are
    `cos(a, b) − cos(a, s) − cos(r, b) + cos(r, s)`, up to the error of `steps`. A reference has the padding token in
    the place of each token that is not special.

    The sums by word of `a` and of `b` are those of the table, by a gradient for each step, in the direction that the
    other text gives: 100 forward and 100 backward passes of either text. The table itself takes a backward pass for
    each feature and step.

    Args:
        name (`str`): what tables call it.
        steps (`int`, defaults to 100): points on the line, in the middle of as many parts.
        matrix (`bool`, defaults to `False`): also give the table.
        batch_size (`int`, defaults to 25): points in one pass.

    Raises:
        TypeError: `steps` or `batch_size` is no whole number.
        ValueError: one of them is below 1; or the tokenizer has no padding token.

    Example:
        >>> from bcos_peft.evaluation.similarity import get_similarity_method
        >>> get_similarity_method("integrated_jacobians", steps=20).settings["steps"]
        20

    Source: Moeller et al. (arXiv 2310.05703), equations 4 to 8; for models as they are (arXiv 2402.02883).
    """

    name: str = "integrated_jacobians"
    steps: int = 100
    matrix: bool = False
    batch_size: int = 25

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size"):
            valid_count(name, getattr(self, name), least=1)

    def _scores(self, reader: WordReader, a: str, b: str) -> PairScores:
        texts = [reader.encoding(text) for text in (a, b)]
        references = [_reference(reader, text) for text in texts]
        if self.matrix:
            found = [self._vectors(reader, *one) for one in zip(texts, references, strict=True)]
            table = _of_words(reader, b, _of_words(reader, a, found[0] @ found[1].T).T).T
            return PairScores(table.sum(1), table.sum(0), table)
        embedded = reader.embeddings([*texts, *references])
        change = embedded[:2] - embedded[2:]
        rows = zip(texts, references, change.flip(0), strict=True)
        found = [self._along(reader, *row) for row in rows]
        return PairScores(_of_words(reader, a, found[0]), _of_words(reader, b, found[1]))

    def _line(self, reader: WordReader, text: Encoding, reference: Encoding) -> tuple[Tensor, list[Tensor]]:
        """Text less reference, `(tokens, dimensions)`, and points between, in parts."""
        start = reader.word_embeddings(reference)
        change = reader.word_embeddings(text) - start
        places = (torch.arange(self.steps, device=start.device, dtype=start.dtype) + 0.5) / self.steps
        points = start + places[:, None, None] * change
        return change, [part.detach().requires_grad_() for part in points.split(self.batch_size)]

    def _along(self, reader: WordReader, text: Encoding, reference: Encoding, direction: Tensor) -> np.ndarray:
        """What each token gives to the embedding's product with a direction, `(tokens,)`."""
        change, parts = self._line(reader, text, reference)
        total = torch.zeros_like(change)
        for part in parts:
            values = reader.embed_words(text, part) @ direction.to(part)
            (gradient,) = torch.autograd.grad(values.sum(), part)
            _count_backward(reader, 1, len(part))
            total += gradient.sum(0)
        return _numbers((total * change).sum(-1) / self.steps)

    def _vectors(self, reader: WordReader, text: Encoding, reference: Encoding) -> np.ndarray:
        """What each token gives to the embedding, `(tokens, features)`: a backward pass for each feature and step."""
        change, parts = self._line(reader, text, reference)
        vectors: Tensor | float = 0.0
        for part in parts:
            embedded = reader.embed_words(text, part)
            sums = embedded.sum(0)  # each row depends on its own point alone
            found = [torch.autograd.grad(one, part, retain_graph=True)[0].sum(0) for one in sums]
            _count_backward(reader, len(found), embedded.numel())
            vectors = vectors + torch.einsum("ftd,td->tf", torch.stack(found), change)
        return _numbers(vectors / self.steps)


def _reference(reader: WordReader, text: Encoding) -> Encoding:
    pad = reader.tokenizer.pad_token_id
    if pad is None:
        raise ValueError("integrated_jacobians needs a padding token, and the tokenizer has none.")
    ids = [token if special else pad for token, special in zip(text.input_ids, text.special, strict=True)]
    return Encoding(ids, text.text, text.offsets, text.sequence_ids, text.special, text.extra)


def _count_backward(reader: WordReader, calls: int, rows: int) -> None:
    reader.cost.backward_calls += calls
    reader.cost.backward_rows += rows


def _numbers(values: Tensor) -> np.ndarray:
    return values.detach().double().cpu().numpy()
