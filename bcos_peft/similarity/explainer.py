"""`SimilarityExplainer`: from texts to explanations of how close they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bcos_peft._utils.arguments import checked_arguments
from bcos_peft.similarity.comparison import _Comparison, _Text
from bcos_peft.similarity.embedder import _Role
from bcos_peft.similarity.explanation import SimilarityExplanation
from bcos_peft.similarity.sentence_transformers import _embedder_of
from bcos_peft.similarity.tokens import TextTokens, TokenVectors
from bcos_peft.text import Encoding


class SimilarityExplainer:
    """Explain why two texts are close, by the embeddings of a B-cos model.

    Args:
        model (`torch.nn.Module`): a converted `SentenceTransformer`; or a converted model without a head, with its
            tokenizer and `pooling`. One that was not converted is explained, too: its biases then have a share.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*): of a model without a head.
        pooling (`"mean"`, `"cls"` or `"last"`, *optional*): of a model without a head.
        similarity (`"cosine"` or `"dot"`, *optional*): default: what the `SentenceTransformer` says, else the cosine.
        batch_size (`int`, defaults to 16): texts that share passes. Explanations do not depend on it.
        progress (`bool`, *optional*): show a progress bar; default: when there are more than 4 batches.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: there is no transformers model in `model`, or an argument is no possible value; Euclid's and
            Manhattan's distances are no sums over pairs.

    Example:
        >>> from sentence_transformers import SentenceTransformer
        >>> from bcos_peft import BcosConfig, SimilarityExplainer, get_bcos_model
        >>> model = get_bcos_model(SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2"), BcosConfig())
        >>> explanation = SimilarityExplainer(model)("A gripping film.", "This movie kept me on edge.")
        >>> bool(abs(explanation.matrix.sum() - explanation.similarity) < 1e-5)
        True

    Source: B-cos LM (arXiv 2502.12992), section 3; pairs as in Moeller et al. (arXiv 2310.05703).
    """

    @checked_arguments
    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any = None,
        pooling: str | None = None,
        similarity: str | None = None,
        batch_size: int = 16,
        progress: bool | None = None,
    ):
        if not isinstance(batch_size, Integral) or batch_size < 1:
            raise ValueError(f"batch_size must be a whole number of at least 1, got {batch_size!r}.")
        self._embedder = _embedder_of(model, tokenizer, pooling)
        similarity = self._embedder.similarity or "cosine" if similarity is None else similarity
        if similarity not in self._embedder.functions:
            raise ValueError(
                f"similarity={similarity!r} is no sum over pairs of tokens here; pass one of "
                f"{self._embedder.functions}. (Of embeddings of length 1 the order by Euclid's distance is that of "
                "the cosine.)"
            )
        self.model, self.similarity = model, similarity
        self.batch_size, self.progress = batch_size, progress

    @checked_arguments
    def __call__(
        self,
        a: str | TokenVectors | Sequence,
        b: str | TokenVectors | Sequence,
        *,
        prompts: Sequence[str | None] | None = None,
        roles: Sequence[str | None] | None = None,
        truncation: bool = False,
    ) -> SimilarityExplanation | list[SimilarityExplanation]:
        """Explain one pair, one text against many, or many pairs.

        Of each pair the shorter text is taken apart into token vectors, and the longer one asked what its tokens give
        to each of these; a text of many pairs is taken apart, once. So a pair costs about as many passes as its
        shorter text has tokens.

        Args:
            a: a text, or what `embed` gave for one; or a list of these.
            b: the same. One text is compared with each of a list; two lists are pairs, row by row.
            prompts (`(str, str)`, *optional*): what stands before each text of `a`, and of `b`.
            roles (`(str, str)`, *optional*): prompts of a `SentenceTransformer` by their names; `("query",
                "document")` is what `encode_query` and `encode_document` do.
            truncation (`bool`, defaults to `False`): read only the beginning of texts that are too long.

        Returns:
            [`SimilarityExplanation`] for one pair, else a list.

        Raises:
            TypeError: something is no text.
            ValueError: a text is empty or longer than the model reads, lists differ in length, or token vectors are
                of another model.
        """
        left = self._side(a, "a", 0, prompts, roles, truncation)
        right = self._side(b, "b", 1, prompts, roles, truncation)
        if _is_many(a) and _is_many(b) and len(left) != len(right):
            raise ValueError(f"a has {len(left)} texts and b {len(right)}: two lists are pairs, row by row.")
        left = left if _is_many(a) else left * len(right)
        right = right if _is_many(b) else right * len(left)
        comparison = _Comparison(list(zip(left, right, strict=True)), self._embedder, self._features())
        self._take_apart(comparison.anchors())
        for text in self._bar(comparison.asked(), "Explaining", "text"):
            self._ask(text, comparison)
        found = [self._explanation(comparison, *pair) for pair in comparison.pairs]
        return found if _is_many(a) or _is_many(b) else found[0]

    @checked_arguments
    def embed(
        self,
        texts: str | Sequence[str],
        *,
        prompt: str | None = None,
        role: str | None = None,
        truncation: bool = False,
    ) -> TokenVectors | list[TokenVectors]:
        """Take texts apart into token vectors, to compare them with many others.

        Args:
            texts: a text, or a list of them.
            prompt (`str`, *optional*): what stands before each text.
            role (`str`, *optional*): a prompt of a `SentenceTransformer` by its name, or `"query"`, `"document"`.
            truncation (`bool`, defaults to `False`): read only the beginning of texts that are too long.

        Returns:
            [`TokenVectors`], or a list of them.

        Raises:
            TypeError: something is no text.
            ValueError: a text is empty or longer than the model reads.
        """
        found = self._side(texts, "texts", 0, [prompt], [role], truncation)
        self._take_apart([text for text in {id(text): text for text in found}.values() if text.vectors is None])
        vectors = [text.vectors for text in found]
        return vectors if _is_many(texts) else vectors[0]

    # ---- texts ------------------------------------------------------------------------------------------------------

    def _side(self, value: Any, name: str, place: int, prompts, roles, truncation: bool) -> list[_Text]:
        many = _is_many(value)
        items = list(value) if many else [value]
        if not items:
            raise ValueError(f"{name} is empty: there is nothing to explain.")
        role = self._embedder.role(
            None if prompts is None else prompts[place], None if roles is None else roles[place], place
        )
        space = self._embedder.space() if any(isinstance(item, TokenVectors) for item in items) else ""
        known: dict[Any, _Text] = {}
        found = []
        for i, item in enumerate(items):
            where = f"{name}[{i}]" if many else name
            key = id(item) if isinstance(item, TokenVectors) else item
            if key not in known:
                known[key] = self._text(item, role, space, truncation, where)
            found.append(known[key])
        return found

    def _text(self, item: Any, role: _Role, space: str, truncation: bool, where: str) -> _Text:
        if isinstance(item, TokenVectors):
            if item.space != space:
                raise ValueError(
                    f"{where} holds token vectors of another model, or of this one before it was changed."
                )
            return _Text(item.tokens, None, role, item)
        if not isinstance(item, str):
            raise TypeError(f"{where} must be a text, or what embed gave for one; got {type(item).__name__}.")
        encoding = self._embedder.encode(item, role, truncation, where)
        return _Text(self._tokens(encoding), encoding, role)

    def _tokens(self, encoding: Encoding) -> TextTokens:
        ids = encoding.input_ids
        tokens = self._embedder.tokenizer.convert_ids_to_tokens(ids)
        return TextTokens(encoding.text, tokens, ids, encoding.offsets, encoding.special)

    # ---- passes -----------------------------------------------------------------------------------------------------

    def _take_apart(self, texts: list[_Text]) -> None:
        """Token vectors of texts, those of like length together."""
        if not texts:
            return
        space = self._embedder.space()
        for batch in self._bar(self._batches(texts), "Taking apart", "batch"):
            with self._embedder.map([text.encoding for text in batch], batch[0].role) as found:
                vectors, constants = _vectors(found)
                for row, text in enumerate(batch):
                    rest = _numbers(constants[row])
                    text.vectors = TokenVectors(
                        tokens=text.tokens,
                        vectors=_numbers(vectors[row, : len(text.tokens.tokens)]),
                        embedding=_numbers(found.embedding[row]),
                        constants=rest if rest.any() else None,
                        space=space,
                    )

    def _ask(self, text: _Text, comparison: _Comparison) -> None:
        """What the tokens of a text give to the token vectors of those that it is compared with."""
        with self._embedder.map([text.encoding], text.role) as found:
            embedding = _numbers(found.embedding[0])
            directions = torch.as_tensor(comparison.directions(text, embedding)).to(found.embedding)
            products, rest = found.rows(directions.unsqueeze(1))
            comparison.answer(text, embedding, _numbers(products[0]), _numbers(rest[0]))

    def _batches(self, texts: list[_Text]) -> list[list[_Text]]:
        # Where there is an embedding for each token, those of padding would be features, too.
        size = 1 if self._embedder.has_sides else self.batch_size
        ordered = sorted(texts, key=lambda text: (text.role.prompt, text.role.task or "", -len(text)))
        batches: list[list[_Text]] = []
        for text in ordered:
            last = batches[-1] if batches else []
            if last and len(last) < size and last[0].role == text.role:
                last.append(text)
            else:
                batches.append([text])
        return batches

    def _features(self) -> int:
        return self._embedder.inner.get_input_embeddings().weight.shape[-1]

    def _bar(self, items: list, description: str, unit: str) -> Iterable:
        shown = len(items) > 4 if self.progress is None else self.progress
        if not shown:
            return items
        from tqdm.auto import tqdm

        return tqdm(items, desc=description, unit=unit)

    def _explanation(self, comparison: _Comparison, a: _Text, b: _Text) -> SimilarityExplanation:
        matrix, constants, similarity = comparison.read(a, b, self.similarity)
        return SimilarityExplanation(
            a=a.tokens, b=b.tokens, matrix=matrix, similarity=similarity, function=self.similarity, constants=constants
        )


def _is_many(value: Any) -> bool:
    return not isinstance(value, (str, TokenVectors))


def _vectors(found) -> tuple[Tensor, Tensor]:
    """Token vectors, by the way that takes fewer passes."""
    passes = found.passes
    if passes["columns"] <= passes["rows"]:
        return found.columns()
    features = passes["rows"]
    unit = torch.eye(features).to(found.embedding)
    directions = unit.unsqueeze(1).expand(-1, len(found.embedding), -1)
    tokens, rest = found.rows(directions)
    return tokens.transpose(1, 2), rest


def _numbers(value: Tensor) -> np.ndarray:
    return value.detach().cpu().double().numpy()
