"""Methods that take words away and look at the logit, as captum has them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from bcos_peft._utils.checks import valid_count
from bcos_peft.evaluation.methods.base import BaselineMethod, _captum_attr, _Probe, _seeded
from bcos_peft.evaluation.questions import Question


@dataclass(frozen=True, kw_only=True)
class _Perturbation(BaselineMethod):
    """What methods that take words away share: batches, and their view of a text as a row of ones."""

    batch_size: int = 32
    needs: ClassVar[tuple[str, ...]] = ("captum.attr",)
    least: ClassVar[dict[str, int]] = {"batch_size": 1}
    """Options that are numbers, and the smallest that each can be."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in self.least.items():
            valid_count(name, getattr(self, name), least)

    def _scores(self, probe: _Probe) -> Tensor:
        if not len(probe.features):
            return torch.zeros(len(probe.question))
        reference = self._reference(probe)
        present = torch.ones(1, len(probe.features), device=probe.device)
        with _seeded(getattr(self, "seed", 0), probe.question):
            found = self._attribute(lambda rows: probe.score_of(rows, reference), present)
        return probe.spread(found[0])

    def _attribute(self, score: Callable[[Tensor], Tensor], present: Tensor) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Occlusion(_Perturbation):
    """How much the logit falls when a word is taken away.

    Args:
        name (`str`): what tables call it.
        baseline (`str`), baseline_id (`int`, *optional*): as in [`BaselineMethod`].
        batch_size (`int`, defaults to 32): texts in one forward.
        window (`int`, defaults to 1): neighbouring tokens that are taken away together; a token's score is the mean
            over the windows that it is in.

    Example:
        >>> from bcos_peft.evaluation import get_method
        >>> get_method("occlusion", window=3).window
        3

    Source: Zeiler & Fergus (arXiv 1311.2901); Li et al. (arXiv 1612.08220); captum's `Occlusion`.
    """

    name: str = "occlusion"
    window: int = 1
    least: ClassVar[dict[str, int]] = {"batch_size": 1, "window": 1}

    def _attribute(self, score, present: Tensor) -> Tensor:
        window = min(self.window, present.shape[1])
        return _captum_attr().Occlusion(score).attribute(
            present, sliding_window_shapes=(window,), baselines=0, perturbations_per_eval=self.batch_size
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Lime(_Perturbation):
    """The weights of a ridge regression of the logit on which words are there, near the text.

    Each word is there with probability ½. As in LIME's own code for texts, samples count by an exponential kernel of
    width 0.25 of their cosine distance to the text, and the regression is `Ridge(alpha=1)`.

    Args:
        name (`str`): what tables call it.
        baseline (`str`), baseline_id (`int`, *optional*): as in [`BaselineMethod`].
        batch_size (`int`, defaults to 32): texts in one forward.
        samples (`int`, defaults to 200): perturbed texts, two at least.
        seed (`int`, defaults to 0): of the samples, which depend on it and on the text.

    Example:
        >>> from bcos_peft.evaluation import get_method
        >>> get_method("lime", samples=50).samples
        50

    Source: Ribeiro et al. (arXiv 1602.04938), section 3; captum's `Lime`.
    """

    name: str = "lime"
    samples: int = 200
    seed: int = 0
    needs: ClassVar[tuple[str, ...]] = ("captum.attr", "sklearn.linear_model")
    least: ClassVar[dict[str, int]] = {"batch_size": 1, "samples": 2}  # one has no slope, and scores nothing

    def _attribute(self, score, present: Tensor) -> Tensor:
        attr = _captum_attr()
        from captum._utils.models.linear_model import SkLearnRidge
        from captum.attr._core.lime import get_exp_kernel_similarity_function

        kernel = get_exp_kernel_similarity_function("cosine", kernel_width=0.25)
        return attr.Lime(score, interpretable_model=SkLearnRidge(alpha=1.0), similarity_func=kernel).attribute(
            present, baselines=0, n_samples=self.samples, perturbations_per_eval=self.batch_size
        )


@dataclass(frozen=True, kw_only=True)
class ShapleySampling(_Perturbation):
    """Shapley values: what a word adds when it joins the others, averaged over random orders.

    The scores sum to `score(text) − score(baseline)` exactly, whatever the number of orders.

    Args:
        name (`str`): what tables call it.
        baseline (`str`), baseline_id (`int`, *optional*): as in [`BaselineMethod`].
        batch_size (`int`, defaults to 32): texts in one forward.
        samples (`int`, defaults to 25): random orders; each costs as many texts as there are words.
        seed (`int`, defaults to 0): of the orders, which depend on it and on the text.

    Example:
        >>> from bcos_peft.evaluation import get_method
        >>> get_method("shapley_sampling", samples=10).samples
        10

    Source: Castro et al. (2009), "Polynomial calculation of the Shapley value based on sampling"; captum's
    `ShapleyValueSampling`.
    """

    name: str = "shapley_sampling"
    samples: int = 25
    seed: int = 0
    least: ClassVar[dict[str, int]] = {"batch_size": 1, "samples": 1}

    def _attribute(self, score, present: Tensor) -> Tensor:
        return _captum_attr().ShapleyValueSampling(score).attribute(
            present, baselines=0, n_samples=self.samples, perturbations_per_eval=self.batch_size
        )  # fmt: skip

    def total(self, model: nn.Module, question: Question) -> float:
        """`score(text) − score(baseline)`."""
        return self._difference(model, question)


@dataclass(frozen=True, kw_only=True)
class KernelShap(_Perturbation):
    """Shapley values by a weighted linear regression on random subsets of the words.

    The scores sum to `score(text) − score(baseline)` up to the regression's rounding. With fewer samples than words
    the regression has many solutions, and the scores are the smallest: take more.

    Args:
        name (`str`): what tables call it.
        baseline (`str`), baseline_id (`int`, *optional*): as in [`BaselineMethod`].
        batch_size (`int`, defaults to 32): texts in one forward.
        samples (`int`, defaults to 200): subsets, three at least, among them all words and none.
        seed (`int`, defaults to 0): of the subsets, which depend on it and on the text.

    Example:
        >>> from bcos_peft.evaluation import get_method
        >>> get_method("kernel_shap").samples
        200

    Source: Lundberg & Lee (arXiv 1705.07874), theorem 2; captum's `KernelShap`.
    """

    name: str = "kernel_shap"
    samples: int = 200
    seed: int = 0
    needs: ClassVar[tuple[str, ...]] = ("captum.attr", "sklearn.linear_model")
    least: ClassVar[dict[str, int]] = {"batch_size": 1, "samples": 3}  # all words, none, and what tells them apart

    def _attribute(self, score, present: Tensor) -> Tensor:
        if present.shape[1] == 1:  # no subset but all and none
            return (score(present) - score(torch.zeros_like(present)))[None]
        return _captum_attr().KernelShap(score).attribute(
            present, baselines=0, n_samples=self.samples, perturbations_per_eval=self.batch_size
        )  # fmt: skip

    def total(self, model: nn.Module, question: Question) -> float:
        """`score(text) − score(baseline)`."""
        return self._difference(model, question)
