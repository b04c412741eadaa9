"""The linear map from the tokens of texts to their embeddings: its rows by backward passes, its columns by forward
ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from bcos_peft.attribution.checks import _check_adapters, _check_inputs, _spread
from bcos_peft.attribution.leaves import _Leaves, _Read
from bcos_peft.attribution.linear_map import _backward, frozen, named_outputs
from bcos_peft.attribution.mode import explanation_mode, reading
from bcos_peft.attribution.padding import _arrange, _roll
from bcos_peft.models import family_of, find_model


# Numbers in the widest layer of one batched pass: more cost memory, and save no time on a CPU.
_NUMBERS_AT_ONCE = 2**22


class EmbeddingMap:
    """What a model makes of a batch of texts, as the linear map `e = Σ_i W_i(x)·x_i + c` from tokens to an embedding.

    [`embedding_map`] makes it.

    Attributes:
        embedding (`torch.Tensor`): `(batch, features)`, the outputs.

    Example:
        >>> import torch
        >>> from transformers import BertConfig, BertModel
        >>> from bcos_peft import BcosConfig, get_bcos_model
        >>> from bcos_peft.attribution import embedding_map
        >>> small = BertConfig(num_hidden_layers=1, hidden_size=16, num_attention_heads=2, intermediate_size=32)
        >>> model = get_bcos_model(BertModel(small), BcosConfig())
        >>> first = lambda **inputs: model(**inputs).last_hidden_state[:, 0]
        >>> with embedding_map(model, first, torch.tensor([[101, 7, 102]])) as found:
        ...     tokens, _ = found.columns()
        >>> tokens.shape, bool(torch.allclose(tokens.sum(1), found.embedding, atol=1e-6))
        (torch.Size([1, 3, 16]), True)
    """

    def __init__(self, embedding: Tensor, leaves: _Leaves, shift: Tensor | None):
        self._output, self._leaves, self._shift = embedding, leaves, shift
        self.embedding = embedding.detach()

    @property
    def passes(self) -> dict[str, int]:
        """How many passes each way takes: `"columns"` one for each token, `"rows"` one for each feature."""
        return {"columns": self._leaves.ids["source"].shape[1], "rows": self._output.shape[1]}

    def columns(self) -> tuple[Tensor, Tensor]:
        """What each token gives to the embedding, by passing on the tokens one by one.

        A backward pass is linear in the gradient that it is given, so its own derivative is the linear map itself:
        forward mode, by two reverse ones. Each token is one pass, of all texts together.

        Returns:
            `(torch.Tensor, torch.Tensor)`: `(batch, sequence, features)`, and `(batch, features)`, what belongs to no
            token.
        """
        given = torch.zeros_like(self._output, requires_grad=True)
        gradients = torch.autograd.grad(
            self._output, self._leaves.tensors, given, create_graph=True, allow_unused=True
        )
        read = self._leaves.read(gradients)
        # The rows of `given` tell texts apart; so all texts' tokens in one place can be asked for together.
        places = sum(read.parts["source"].values()).sum(0)
        constant = _constant(read)
        wanted = places if constant is None else torch.cat([places, constant.sum().reshape(1).to(places)])
        parts = torch.eye(len(wanted), dtype=wanted.dtype, device=wanted.device).split(self._at_once())
        found = [_backward(wanted, [given], part, retain_graph=True)[0] for part in parts]
        vectors = torch.cat(found).transpose(0, 1)
        none = torch.zeros_like(self.embedding)
        tokens, rest = (vectors, none) if constant is None else (vectors[:, :-1], vectors[:, -1])
        return (tokens if self._shift is None else _roll(tokens, self._shift)), rest

    def rows(self, directions: Tensor) -> tuple[Tensor, Tensor]:
        """What each token gives to the embedding's product with some directions, by backward passes.

        Args:
            directions (`torch.Tensor`): `(directions, batch, features)`; each text has its own.

        Returns:
            `(torch.Tensor, torch.Tensor)`: `(batch, directions, sequence)`, and `(batch, directions)`, what belongs
            to no token.
        """
        batch = directions.shape[1]
        shared = any(leaf.is_constant or leaf.is_shared for leaf in self._leaves.found)
        if shared and batch > 1:  # what all texts share gets the gradients of all together
            each = []
            for row in range(batch):
                alone = torch.zeros_like(directions)
                alone[:, row] = directions[:, row]
                each.append(self._rows(alone, row))
            return torch.stack([t[row] for row, (t, _) in enumerate(each)]), torch.stack([c for _, c in each])
        tokens, rest = self._rows(directions, None)
        return tokens, rest if rest.dim() == 2 else rest.expand(batch, -1)

    def _rows(self, directions: Tensor, row: int | None) -> tuple[Tensor, Tensor]:
        tokens, rest = [], []
        for part in directions.split(self._at_once()):
            each = _backward(self._output, self._leaves.tensors, part, retain_graph=True)
            read = self._leaves.read(each, row)
            tokens.append(sum(read.parts["source"].values()))
            constant = _constant(read)
            rest.append(tokens[-1].new_zeros(len(part)) if constant is None else constant.to(tokens[-1].dtype))
        found = torch.cat(tokens).transpose(0, 1)
        constants = torch.cat(rest)
        constants = constants.T if constants.dim() == 2 else constants
        return (found if self._shift is None else _roll(found, self._shift[:, None])), constants

    def _at_once(self) -> int:
        tokens = self._leaves.ids["source"].numel()
        return max(1, _NUMBERS_AT_ONCE // (tokens * 4 * self._output.shape[1]))


@contextmanager
def embedding_map(
    model: nn.Module,
    embed: Callable[..., Tensor],
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    **inputs,
) -> Iterator[EmbeddingMap]:
    """Run a model on texts, and keep the linear map that it is for them.

    Args:
        model (`torch.nn.Module`): a transformers model, or what holds one.
        embed: called with the inputs by name, gives `(batch, features)`: the model and what comes after it, such as
            pooling. Everything in it is read as the model is.
        input_ids (`torch.Tensor`): `(batch, sequence)`.
        attention_mask (`torch.Tensor`, *optional*): `(batch, sequence)`. Padding may be on either side.
        **inputs: further inputs, such as `token_type_ids`.

    Yields:
        [`EmbeddingMap`]

    Raises:
        ValueError: the inputs do not fit, or the model is one that texts alone do not feed.
        UnknownOperation: something in it has no rule and is not linear.

    Source: B-cos LM (arXiv 2502.12992), section 3.
    """
    inner = find_model(model)
    _check_adapters(inner)
    _check_inputs(inner, input_ids, attention_mask)
    family = family_of(inner)
    given = {"input_ids": input_ids, "attention_mask": attention_mask, **_spread(inputs, input_ids.shape)}
    arranged, shift = _arrange(given, causal=False)
    leaves = _Leaves({"source": arranged["input_ids"]}, constants=True)
    with torch.inference_mode(False), explanation_mode(inner), frozen(model), named_outputs(inner.config):
        # Fused attention has no derivative of its backward pass.
        with leaves.cut(inner, family), reading(inner), sdpa_kernel(SDPBackend.MATH):
            embedding = embed(**arranged)
        if not leaves.found or not embedding.requires_grad:
            raise ValueError(f"no input of {type(inner).__name__} was found that its embedding depends on.")
        leaves.drop_unused(embedding)
        yield EmbeddingMap(embedding, leaves, shift)


def _constant(read: _Read) -> Tensor | None:
    """What belongs to no token: biases, and learned inputs."""
    found = [*read.constants.values(), *read.others.values()]
    return sum(found) if found else None
