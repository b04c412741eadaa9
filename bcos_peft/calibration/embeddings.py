"""Models for embeddings: what they make of the hidden states of a text, and what a converted one learns from the
embeddings that the original made."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bcos_peft.calibration.distill import _Change, _corrections
from bcos_peft.calibration.learn import _learn
from bcos_peft.calibration.passes import _Passes
from bcos_peft.calibration.running import _modes
from bcos_peft.calibration.texts import _Texts
from bcos_peft.config import BcosConfig
from bcos_peft.discovery import is_headless
from bcos_peft.families import Family
from bcos_peft.nn import pool


# Modules of sentence-transformers that make one embedding of hidden states, and need nothing else.
_POOLED = ("Pooling", "Dense", "Normalize", "LayerNorm", "Dropout")
_MODULES = "sentence_transformers.sentence_transformer.modules"

_RATE = 0.0005  # how far an entry of a weight goes in one step, about, as a share of the root mean square of all
_BATCH = 2048  # tokens: similarities are those of the texts in a batch
_SIMILARITIES = 10.0  # what a squared error of a similarity counts, beside 1 − cosine


class _Pooled(nn.Module):
    """A way to pool, as a module."""

    def __init__(self, how: str):
        super().__init__()
        self._how = how

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        return pool(hidden, mask, self._how)


class _Modules(nn.Module):
    """The same by modules of sentence-transformers, those after the transformer."""

    def __init__(self, after: list[nn.Module]):
        super().__init__()
        self.after = nn.ModuleList(after)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        features = {"token_embeddings": hidden, "attention_mask": mask.long()}
        with _still(self):
            for module in self.after:
                features = module(features)
        return features["sentence_embedding"]


@dataclass(frozen=True)
class Embedding:
    """What is known of a model for embeddings beside the transformer in it.

    Args:
        pool (`torch.nn.Module`, *optional*): from hidden states `(texts, length, width)` and their mask `(texts,
            length)`, bool, to embeddings `(texts, width of an embedding)`; `None` where there is no single embedding.
        prompts (`tuple[str, ...]`): what may stand before a text.
        max_length (`int`, *optional*): how many tokens of a text are read.

    Example:
        >>> from bcos_peft.calibration import Embedding
        >>> Embedding(prompts=("query: ",)).max_length is None
        True
    """

    pool: nn.Module | None = None
    prompts: tuple[str, ...] = ("",)
    max_length: int | None = None


def embedding_of(model: nn.Module) -> Embedding:
    """What a model of sentence-transformers makes of the hidden states of the transformer inside.

    Args:
        model (`torch.nn.Module`): a `SentenceTransformer`, `CrossEncoder`, `SparseEncoder` or `MultiVectorEncoder`.

    Returns:
        [`Embedding`]: its `pool` is that of a `SentenceTransformer` with pooling, dense layers and norms after the
        transformer, in this order or another; other modules make something that is no sum of hidden states, or more
        than one embedding.
    """
    prompts = [prompt for prompt in model.prompts.values() if prompt is not None]
    if model.default_prompt_name is None or not prompts:
        prompts.append("")
    return Embedding(_pooling_of(model), tuple(dict.fromkeys(prompts)), model.max_seq_length)


def _pooling_of(model: nn.Module) -> nn.Module | None:
    known = sys.modules.get(_MODULES)
    modules = list(model.children())
    if known is None or not isinstance(modules[0], known.Transformer):
        return None
    after = modules[1:]
    pooled = any(isinstance(module, known.Pooling) for module in after)
    if not pooled or not all(isinstance(module, tuple(getattr(known, name) for name in _POOLED)) for module in after):
        return None
    return _Modules(after)


def pooling_of(model: PreTrainedModel, family: Family, config: BcosConfig) -> nn.Module | None:
    """How embeddings are made of the hidden states of a model without a head; `None` of others.

    Args:
        model ([`~transformers.PreTrainedModel`]): before its conversion.
        family ([`Family`]): the model's table.
        config ([`BcosConfig`]): its `calibration_pooling` says how, or that there is none; else it is the mean, or of
            models that read from left to right the last token.

    Raises:
        ValueError: the config asks for a pooling, and the model has a head.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> from bcos_peft import BcosConfig
        >>> from bcos_peft.calibration import pooling_of
        >>> from bcos_peft.families import find_family
        >>> small = BertConfig(num_hidden_layers=1, hidden_size=16, num_attention_heads=2, intermediate_size=32)
        >>> type(pooling_of(BertModel(small), find_family("bert"), BcosConfig())).__name__
        '_Pooled'
    """
    asked = config.calibration_pooling
    if asked == "none":
        return None
    if is_headless(model) and not family.seq2seq:
        return _Pooled(asked or ("last" if family.causal else "mean"))
    if asked is not None:
        raise ValueError(
            f"calibration_pooling={asked!r} is for models without a head, whose hidden states become embeddings; this "
            f"{type(model).__name__} is none. Leave it out."
        )
    return None


class _Embeddings:
    """What a model for embeddings learns from those that it made before its conversion: all layers together, towards
    the same directions, and the same similarities of the texts in a batch.

    Args:
        model ([`~transformers.PreTrainedModel`]): the model, before its conversion.
        passes (`_Passes`): how it reads the texts.
        texts (`_Texts`): the texts; those that choose are held out.
        epochs (`int`): how often it goes over them.
        pool (`torch.nn.Module`): makes embeddings of hidden states.

    Source: distillation of embeddings without labels (Reimers and Gurevych, arXiv 2004.09813, section 2, by squared
    error), and of similarities within a batch (SEED, arXiv 2101.04731, section 3).
    """

    def __init__(self, model: PreTrainedModel, passes: _Passes, texts: _Texts, epochs: int, pool: nn.Module):
        self._model, self._passes, self._texts, self._epochs, self._pool = model, passes, texts, epochs, pool
        self._wanted: dict[int, Tensor] = {}

    def record(self, members: list[int], output) -> None:
        """Keep the embeddings that a pass of the original over some texts, named by their numbers, gives."""
        self._wanted |= dict(zip(members, self._directions(members, output), strict=True))

    def learn(self, layers: list[nn.Module], progress: bool) -> float:
        """Train layers that have weights of their own.

        Args:
            layers (`list[torch.nn.Module]`): the layers.
            progress (`bool`): show a progress bar.

        Returns:
            `float`: the error on texts held out as a share of what it was; 1 where nothing was better.
        """
        from tqdm.auto import tqdm

        fitted = [i for i in self._texts.fitted if i not in self._texts.chooses]
        learnt, kept = (self._passes.batches(part, tokens=_BATCH) for part in (fitted, sorted(self._texts.chooses)))
        losses = [partial(self._error, members) for members in learnt]
        bar = tqdm(total=self._epochs * len(losses), desc="Matching embeddings", unit="batch", disable=not progress)
        with bar, _corrections(self._model, layers, _Change) as made:
            groups = [{"params": [each.change for each in made], "lr": _RATE}]
            return _learn(groups, losses, lambda: sum(map(self._judged, kept)), self._epochs, after_step=bar.update)

    def _judged(self, members: list[int]) -> float:
        return float(self._error(members)) * len(members)

    def _error(self, members: list[int]) -> Tensor:
        found = self._directions(members, self._passes.forward(self._passes.collate(members)))
        wanted = torch.stack([self._wanted[i] for i in members])
        apart = 1 - (found * wanted).sum(1).mean()
        return apart + _SIMILARITIES * (found @ found.t() - wanted @ wanted.t()).square().mean()

    def _directions(self, members: list[int], output) -> Tensor:
        found = self._pool(output[0], self._passes.mask(members)).float()
        return nn.functional.normalize(found, dim=-1)


@contextmanager
def _still(module: nn.Module) -> Iterator[None]:
    """While it is entered, a module is in evaluation mode, and learns nothing."""
    restore_modes = _modes(module)
    needed = {parameter: parameter.requires_grad for parameter in module.parameters()}
    module.eval().requires_grad_(False)
    try:
        yield
    finally:
        restore_modes()
        for parameter, flag in needed.items():
            parameter.requires_grad_(flag)
