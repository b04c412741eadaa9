"""Methods that need no gradient of the model: exact contributions, occlusion, matching of token vectors, chance."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import torch

from bcos_peft.evaluation.similarity.base import PairScores, SimilarityMethod, _of_words
from bcos_peft.evaluation.similarity.reader import WordReader, _unit
from bcos_peft.models import find_bcos_model


@dataclass(frozen=True, kw_only=True)
class SimilarityContributions(SimilarityMethod):
    """What each word adds to the cosine. Of a converted model that is all there is of it: the words and the special
    tokens of either text sum to the cosine.

    The sums by word of `a` and of `b` take one forward and one backward pass of both texts. The table of all pairs of
    words takes about as many passes as the shorter text has tokens; [`SimilarityExplainer`] makes it.

    Args:
        name (`str`): what tables call it.
        matrix (`bool`, defaults to `False`): also give the table.
        converted (`bool`, defaults to `True`): refuse a model that was not converted. Of such a one the same sums
            leave out what its biases add.

    Raises:
        ValueError: the model is not converted.

    Example:
        >>> from bcos_peft.evaluation.similarity import get_similarity_method
        >>> get_similarity_method("bcos", matrix=True).matrix
        True

    Source: B-cos LM (arXiv 2502.12992), section 3, for each embedding.
    """

    name: str = "bcos"
    matrix: bool = False
    converted: bool = True

    def _scores(self, reader: WordReader, a: str, b: str) -> PairScores:
        if self.converted:
            find_bcos_model(reader.model)
        if self.matrix:
            return self._table(reader, a, b)
        numbers = reader.products([reader.encoding(text) for text in (a, b)]).numpy()
        return PairScores(_of_words(reader, a, numbers[0]), _of_words(reader, b, numbers[1]))

    def _table(self, reader: WordReader, a: str, b: str) -> PairScores:
        found = reader.explainer(a, b, truncation=True)
        shorter = min(len(found.a.tokens), len(found.b.tokens))
        reader.cost.forward_rows += 2
        # The shorter text's tokens one by one, through the derivative of its backward pass; the longer one is asked
        # for its products with each of them.
        reader.cost.backward_rows += 1 + 2 * shorter
        table = _of_words(reader, b, _of_words(reader, a, found.matrix).T).T
        return PairScores(_of_words(reader, a, found.a_scores), _of_words(reader, b, found.b_scores), table)


@dataclass(frozen=True, kw_only=True)
class SimilarityOcclusion(SimilarityMethod):
    """By how much the cosine falls when a word is hidden: a forward pass for each word of either text.

    Args:
        name (`str`): what tables call it.
        perturbation (`"delete"` or `"mask"`, defaults to `"delete"`): a word is left out, or the mask token takes its
            place.

    Example:
        >>> from bcos_peft.evaluation.similarity import get_similarity_method
        >>> get_similarity_method("occlusion", perturbation="mask").perturbation
        'mask'

    Source: Zeiler & Fergus (arXiv 1311.2901); Li et al. (arXiv 1612.08220).
    """

    name: str = "occlusion"
    perturbation: str = "delete"

    def _scores(self, reader: WordReader, a: str, b: str) -> PairScores:
        rows = [reader.encoding(a), reader.encoding(b)]
        for text in (a, b):
            rows += [reader.hidden(text, [word], self.perturbation) for word in range(len(reader.words(text)))]
        found, words = reader.embeddings(rows), len(reader.words(a))
        whole = found[0] @ found[1]
        return PairScores(
            (whole - found[2 : 2 + words] @ found[1]).numpy(), (whole - found[2 + words :] @ found[0]).numpy()
        )


@dataclass(frozen=True, kw_only=True)
class TokenMatching(SimilarityMethod):
    """The cosine of each word with its nearest in the other text, by the vectors of the last layer.

    A word's vector is the mean of those of its tokens. It asks what the words are, not what their embeddings are made
    of: a vector of the last layer has read the whole text.

    Args:
        name (`str`): what tables call it.

    Example:
        >>> from bcos_peft.evaluation.similarity import get_similarity_method
        >>> get_similarity_method("token_matching").name
        'token_matching'

    Source: BERTScore (arXiv 1904.09675), equation of recall and precision before the mean.
    """

    name: str = "token_matching"

    def _scores(self, reader: WordReader, a: str, b: str) -> PairScores:
        vectors = []
        for text in (a, b):
            states = reader.token_states(reader.encoding(text))
            vectors.append(torch.stack([states[list(word.token_indices)].mean(0) for word in reader.words(text)]))
        table = (_unit(vectors[0]) @ _unit(vectors[1]).T).numpy()
        return PairScores(table.max(1), table.max(0), table)


@dataclass(frozen=True, kw_only=True)
class SimilarityChance(SimilarityMethod):
    """Normally distributed random numbers, the floor of every metric.

    Args:
        name (`str`): what tables call it.
        seed (`int`, defaults to 0): the scores depend on it and on the texts.

    Example:
        >>> from bcos_peft.evaluation.similarity import get_similarity_method
        >>> get_similarity_method("random", seed=3).settings
        {'name': 'random', 'seed': 3}
    """

    name: str = "random"
    seed: int = 0

    def _scores(self, reader: WordReader, a: str, b: str) -> PairScores:
        draws = np.random.default_rng(zlib.crc32(f"{a}\n{b}".encode(), self.seed))
        return PairScores(draws.normal(size=len(reader.words(a))), draws.normal(size=len(reader.words(b))))
