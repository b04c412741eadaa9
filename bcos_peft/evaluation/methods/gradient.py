"""Methods that take gradients with respect to word embeddings, as captum has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from bcos_peft._utils.checks import valid_count
from bcos_peft.evaluation.methods.base import BaselineMethod, Method, _captum_attr, _Probe
from bcos_peft.evaluation.questions import Question


@dataclass(frozen=True, kw_only=True)
class Saliency(Method):
    """The length (L2 norm) of the gradient at each word embedding: how sensitive the logit is. Never negative.

    Args:
        name (`str`): what tables call it.

    Example:
        >>> from bcos_peft.evaluation import get_method
        >>> get_method("saliency").name
        'saliency'

    Source: Simonyan et al. (arXiv 1312.6034); captum's `Saliency`.
    """

    name: str = "saliency"
    needs: ClassVar[tuple[str, ...]] = ("captum.attr",)

    def _scores(self, probe: _Probe) -> Tensor:
        inputs = probe.embeddings[None].requires_grad_()
        gradient = _captum_attr().Saliency(probe.score).attribute(inputs, abs=False)
        return gradient[0].norm(dim=-1)


@dataclass(frozen=True, kw_only=True)
class InputXGradient(Method):
    """Gradient × word embedding, summed over the dimensions: signed, and exact only for models linear in them.

    Args:
        name (`str`): what tables call it.

    Example:
        >>> from bcos_peft.evaluation import get_method
        >>> get_method("input_x_gradient").name
        'input_x_gradient'

    Source: Shrikumar et al. (arXiv 1605.01713); captum's `InputXGradient`.
    """

    name: str = "input_x_gradient"
    needs: ClassVar[tuple[str, ...]] = ("captum.attr",)

    def _scores(self, probe: _Probe) -> Tensor:
        inputs = probe.embeddings[None].requires_grad_()
        return _captum_attr().InputXGradient(probe.score).attribute(inputs)[0].sum(-1)


@dataclass(frozen=True, kw_only=True)
class IntegratedGradients(BaselineMethod):
    """The gradient, averaged on the straight line from the baseline to the text, × their difference.

    The scores sum to `score(text) − score(baseline)`, up to the error of `steps`; `residual` tells it.

    Args:
        name (`str`): what tables call it.
        baseline (`str`), baseline_id (`int`, *optional*): as in [`BaselineMethod`].
        steps (`int`, defaults to 50): points on the line (Gauss-Legendre), each a row of a forward and of a backward
            pass.
        batch_size (`int`, defaults to 25): points in one pass.

    Raises:
        ValueError: `steps` or `batch_size` is below 1, or there is no such baseline.
        TypeError: one of them is no whole number.

    Example:
        >>> from bcos_peft.evaluation import get_method
        >>> get_method("integrated_gradients", steps=20).settings["steps"]
        20

    Source: Sundararajan et al. (arXiv 1703.01365), equation 1; captum's `IntegratedGradients`.
    """

    name: str = "integrated_gradients"
    steps: int = 50
    batch_size: int = 25
    needs: ClassVar[tuple[str, ...]] = ("captum.attr",)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("steps", "batch_size"):
            valid_count(name, getattr(self, name), least=1)

    def _scores(self, probe: _Probe) -> Tensor:
        found = _captum_attr().IntegratedGradients(probe.score).attribute(
            probe.embeddings[None],
            baselines=self._reference(probe)[None],
            n_steps=self.steps,
            internal_batch_size=min(self.batch_size, self.steps),
        )  # fmt: skip
        return found[0].sum(-1)

    def total(self, model: nn.Module, question: Question) -> float:
        """`score(text) − score(baseline)`."""
        return self._difference(model, question)


@dataclass(frozen=True, kw_only=True)
class DeepLift(BaselineMethod):
    """DeepLIFT with the rescale rule, as far as captum has it.

    captum puts the rule on activations that are modules of a few torch classes (`nn.Tanh`, `nn.ReLU`, ...). What a
    transformer does in functions or in classes of its own (the softmax of attention, layer norms, GELU and SiLU, the
    products of attention and of gated MLPs, B-cos layers) gets the plain gradient at the text instead. So on
    transformers this is close to gradient × (input − baseline), and **its scores do not sum to the difference of the
    scores**, as DeepLIFT's should. `residual` tells by how much; report it beside the scores.

    Args:
        name (`str`): what tables call it.
        baseline (`str`), baseline_id (`int`, *optional*): as in [`BaselineMethod`].

    Example:
        >>> import torch
        >>> from bcos_peft.evaluation import Question, get_method
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(num_hidden_layers=1, hidden_size=16, num_attention_heads=2, intermediate_size=32)
        >>> model, question = BertForSequenceClassification(config), Question(torch.tensor([7, 8, 9]), target=1)
        >>> method = get_method("deeplift")
        >>> isinstance(method.residual(model, question, method(model, question)), float)
        True

    Source: Shrikumar et al. (arXiv 1704.02685), section 3.5; captum's `DeepLift`.
    """

    name: str = "deeplift"
    needs: ClassVar[tuple[str, ...]] = ("captum.attr",)

    def _scores(self, probe: _Probe) -> Tensor:
        scorer = _Scorer(probe)
        found = _captum_attr().DeepLift(scorer).attribute(
            probe.embeddings[None].requires_grad_(), baselines=self._reference(probe)[None]
        )  # fmt: skip
        return found[0].sum(-1)

    def total(self, model: nn.Module, question: Question) -> float:
        """`score(text) − score(baseline)`, which the scores of transformers miss."""
        return self._difference(model, question)


class _Scorer(nn.Module):
    """captum's DeepLift wants a module that holds the modules it puts hooks on."""

    def __init__(self, probe: _Probe):
        super().__init__()
        self.inside = probe.model
        self.score = probe.score

    def forward(self, embeddings: Tensor) -> Tensor:
        return self.score(embeddings)

    def train(self, mode: bool = True) -> torch.nn.Module:
        return self  # the model inside has a mode of its own
