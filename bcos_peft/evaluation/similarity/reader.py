"""Texts as words, and as embeddings with words hidden: what methods and metrics ask a model of embeddings for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from bcos_peft._utils.checks import valid_count
from bcos_peft.attribution import called_part, collate, embedding_map, frozen, max_tokens, named_outputs
from bcos_peft.evaluation.methods import Cost
from bcos_peft.evaluation.questions import evaluating
from bcos_peft.explanation import Contribution
from bcos_peft.models import find_model
from bcos_peft.nn import pool
from bcos_peft.similarity import SimilarityExplainer, TextTokens
from bcos_peft.text import Encoding, encode


_WAYS = ("mask", "delete")
_NO_LIMIT = 10**6  # transformers marks "no limit" with a huge model_max_length


class WordReader:
    """A model of embeddings, as methods and metrics of similarity use it. It counts passes.

    Embeddings have length 1, so that the product of two is their cosine. Texts are read without a prompt.

    Args:
        model (`torch.nn.Module`): a `SentenceTransformer`; or a model without a head, with its tokenizer and
            `pooling`. Converted or not.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*): of a model without a head.
        pooling (`"mean"`, `"cls"` or `"last"`, *optional*): of a model without a head.
        batch_size (`int`, defaults to 32): texts in one pass.

    Attributes:
        cost ([`Cost`]): the passes so far.

    Raises:
        TypeError: the model, or the tokenizer, is of the wrong kind.
        ValueError: an argument is missing, is not wanted, or is out of range.

    Example:
        >>> from sentence_transformers import SentenceTransformer
        >>> from bcos_peft.evaluation.similarity import WordReader
        >>> reader = WordReader(SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2"))
        >>> [word.text for word in reader.words("A gripping film.")]
        ['A', 'gripping', 'film', '.']
        >>> without = reader.hidden("A gripping film.", [1], "delete")
        >>> len(reader.embeddings([without])), reader.cost.forward_rows
        (1, 1)
    """

    def __init__(self, model: nn.Module, tokenizer: Any = None, pooling: str | None = None, batch_size: int = 32):
        self.explainer = SimilarityExplainer(model, tokenizer, pooling, similarity="cosine", progress=False)
        self.model, self.batch_size = model, valid_count("batch_size", batch_size, least=1)
        self.inner, self.pooling = find_model(model), pooling
        self.tokenizer = model.tokenizer if pooling is None else tokenizer
        self.cost = Cost()
        self._called = None if pooling is None else called_part(model)
        self._read: dict[str, tuple[Encoding, TextTokens, list[Contribution]]] = {}

    @contextmanager
    def running(self) -> Iterator[None]:
        """Everything that is asked inside is asked of the model in evaluation mode, and leaves it as it was."""
        with evaluating(self.model), frozen(self.model):
            yield

    # ---- texts ------------------------------------------------------------------------------------------------------

    def encoding(self, text: str) -> Encoding:
        """The tokens of a text; one that is too long is cut."""
        return self._of(text)[0]

    def tokens(self, text: str) -> TextTokens:
        """The tokens of a text, with their places."""
        return self._of(text)[1]

    def words(self, text: str) -> list[Contribution]:
        """The words of a text, without special tokens."""
        return self._of(text)[2]

    def _of(self, text: str) -> tuple[Encoding, TextTokens, list[Contribution]]:
        if text not in self._read:
            found = encode(text, self.tokenizer, self._limit(), True, repr(text[:60]))
            names = self.tokenizer.convert_ids_to_tokens(found.input_ids)
            tokens = TextTokens(found.text, names, found.input_ids, found.offsets, found.special)
            self._read[text] = found, tokens, [word for word in tokens.units("word") if not word.special]
        return self._read[text]

    def _limit(self) -> int | None:
        read = self.tokenizer.model_max_length if self.pooling is not None else self.model.max_seq_length
        known = [limit for limit in (read, max_tokens(self.inner)) if limit is not None and 0 < limit < _NO_LIMIT]
        return min(known, default=None)

    def hidden(self, text: str, words: Iterable[int], way: str = "delete") -> Encoding:
        """A text without some of its words.

        Args:
            text (`str`): the text.
            words (`Iterable[int]`): places of the words to hide, in `words(text)`.
            way (`"delete"` or `"mask"`, defaults to `"delete"`): words are left out, or the mask token takes the
                place of each of their tokens.

        Returns:
            [`~bcos_peft.text.Encoding`]

        Raises:
            ValueError: there is no such way, or the tokenizer has no mask token.
        """
        encoding, known = self.encoding(text), self.words(text)
        gone = {token for word in words for token in known[word].token_indices}
        if self.fill(way) is not None:
            ids = [self.fill(way) if i in gone else token for i, token in enumerate(encoding.input_ids)]
            return replace(encoding, input_ids=ids)
        if len(gone) == len(encoding.input_ids):
            gone -= {max(gone)}  # a model cannot read an empty text
        kept = [i for i in range(len(encoding.input_ids)) if i not in gone]
        return Encoding(
            input_ids=[encoding.input_ids[i] for i in kept],
            text=encoding.text,
            offsets=[encoding.offsets[i] for i in kept],
            sequence_ids=[encoding.sequence_ids[i] for i in kept],
            special=[encoding.special[i] for i in kept],
            extra={name: [values[i] for i in kept] for name, values in encoding.extra.items()},
        )

    def fill(self, way: str) -> int | None:
        """The id that takes the place of a hidden token; `None` where it is left out."""
        if way not in _WAYS:
            raise ValueError(f"perturbation must be 'mask' or 'delete', got {way!r}.")
        found = self.tokenizer.mask_token_id if way == "mask" else None
        if way == "mask" and found is None:
            raise ValueError("perturbation='mask' needs a mask token, and the tokenizer has none; choose 'delete'.")
        return found

    # ---- embeddings -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def embeddings(self, encodings: Sequence[Encoding]) -> Tensor:
        """Embeddings of length 1, `(texts, features)`, in float64 on the CPU. Texts of like length share a pass."""
        order = sorted(range(len(encodings)), key=lambda i: len(encodings[i].input_ids))
        found: list[Tensor] = [torch.empty(0)] * len(encodings)
        for start in range(0, len(order), self.batch_size):
            part = order[start : start + self.batch_size]
            self._count(len(part))
            embedded = self._embed(**self._batch([encodings[i] for i in part]))
            for i, row in zip(part, _unit(embedded.double().cpu()), strict=True):
                found[i] = row
        return torch.stack(found)

    def word_embeddings(self, encoding: Encoding) -> Tensor:
        """What the embedding layer gives for a text, `(tokens, dimensions)`."""
        table = self.inner.get_input_embeddings()
        with torch.no_grad():
            return table(torch.tensor([encoding.input_ids], device=table.weight.device))[0]

    def embed_words(self, encoding: Encoding, embeddings: Tensor) -> Tensor:
        """Embeddings of length 1, `(rows, features)`, of a text whose words have other embeddings, with their graph.

        Args:
            encoding ([`~bcos_peft.text.Encoding`]): of the text, from which positions are.
            embeddings (`torch.Tensor`): `(rows, tokens, dimensions)`.
        """
        table = self.inner.get_input_embeddings()
        handle = table.register_forward_hook(lambda module, args, output: embeddings)
        try:
            self._count(len(embeddings))
            return _unit(self._embed(**self._batch([encoding] * len(embeddings))))
        finally:
            handle.remove()

    def token_states(self, encoding: Encoding) -> Tensor:
        """The last layer's vector of each token of a text, `(tokens, features)`."""
        # Not by a hook: a SentenceTransformer calls the forward of its transformer past it.
        self._count(1)
        with torch.no_grad(), named_outputs(self.inner.config):
            return self.inner(**self._batch([encoding])).last_hidden_state[0].double().cpu()

    def products(self, texts: Sequence[Encoding]) -> Tensor:
        """What each token gives to the cosine of two texts, `(2, tokens)`, padded: a forward and a backward pass.

        Args:
            texts (`Sequence[Encoding]`): two of them.
        """
        with embedding_map(self.model, self._embed, **self._batch(texts)) as found:
            tokens, _ = found.rows(found.embedding.flip(0).unsqueeze(0) / found.embedding.norm(dim=-1).prod())
        self._count(len(texts))
        self.cost.backward_calls, self.cost.backward_rows = self.cost.backward_calls + 1, self.cost.backward_rows + 2
        return tokens[:, 0].detach().double().cpu()

    def _embed(self, **inputs: Tensor) -> Tensor:
        """Embeddings, of any length, `(texts, features)`."""
        with named_outputs(self.inner.config):
            if self.pooling is None:
                return self.model(inputs)["sentence_embedding"]
            hidden, mask = self._called(**inputs).last_hidden_state, inputs["attention_mask"]
        return pool(hidden, mask, self.pooling)

    def _batch(self, encodings: Sequence[Encoding]) -> dict[str, Tensor]:
        return collate(encodings, self.inner, self.tokenizer)

    def _count(self, rows: int) -> None:
        self.cost.forward_calls += 1
        self.cost.forward_rows += rows


def _unit(vectors: Tensor) -> Tensor:
    """Vectors of length 1 along the last dimension.

    Args:
        vectors (`torch.Tensor`): any of them.

    Example:
        >>> import torch
        >>> _unit(torch.tensor([[3.0, 4.0]], dtype=torch.float64)).tolist()
        [[0.6, 0.8]]
    """
    return torch.nn.functional.normalize(vectors, dim=-1)
