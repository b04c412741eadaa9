"""Attribution methods by name: the exact contributions of B-cos models, and what others use."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from bcos_peft.attribution import Attribution, attribute, check_baseline
from bcos_peft.evaluation.methods.attention import Attention, AttentionRollout
from bcos_peft.evaluation.methods.base import BaselineMethod, Method, _Probe, _seeded
from bcos_peft.evaluation.methods.gradient import DeepLift, InputXGradient, IntegratedGradients, Saliency
from bcos_peft.evaluation.methods.perturbation import KernelShap, Lime, Occlusion, ShapleySampling
from bcos_peft.evaluation.questions import Question, score
from bcos_peft.models import find_bcos_model


@dataclass(frozen=True, kw_only=True)
class Bcos(Method):
    """The exact contributions of a converted model: they sum to the score. Signed; one forward, one backward.

    Args:
        name (`str`): what tables call it.
        baseline (`"zero"` or `"average"`, defaults to `"zero"`): what words are compared with, as in [`attribute`]:
            compared with the average word, the scores sum to the score less what average words give.

    Raises:
        ValueError: the model is not converted, or there is no such baseline.

    Example:
        >>> import torch
        >>> from bcos_peft import BcosConfig, get_bcos_model
        >>> from bcos_peft.evaluation import Question, get_method, score
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(num_hidden_layers=1, hidden_size=16, num_attention_heads=2, intermediate_size=32)
        >>> model = get_bcos_model(BertForSequenceClassification(config), BcosConfig())
        >>> question = Question(torch.tensor([7, 8, 9]), target=1, foil=0)
        >>> scores = get_method("bcos")(model, question)
        >>> bool(torch.isclose(scores.sum(), score(model, question), atol=1e-6))
        True

    Source: B-cos LM (arXiv 2502.12992), section 3.
    """

    name: str = "bcos"
    baseline: str = "zero"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_baseline(self.baseline)

    def _scores(self, probe: _Probe) -> Tensor:
        return self._attribution(probe.model, probe.question).scores[0]

    def _attribution(self, model: nn.Module, question: Question) -> Attribution:
        inputs = {"input_ids": question.input_ids, **question.extra}
        device = model.get_input_embeddings().weight.device
        inputs = {name: value[None].to(device) for name, value in inputs.items()}
        mask = torch.ones_like(inputs["input_ids"])
        chosen = {"target": question.target, "foil": question.foil, "baseline": self.baseline}
        find_bcos_model(model)  # of a stock model the biases are a part of every score
        return attribute(model, **inputs, attention_mask=mask, **chosen)

    def total(self, model: nn.Module, question: Question) -> float:
        """The score, less what average words give where words are compared with them, and what no token gives."""
        whole, family = float(score(model, question).detach()), find_bcos_model(model).bcos_family
        if self.baseline == "zero" and not (family.seq2seq or family.learned):
            return whole
        found = self._attribution(model, question)
        return whole - sum(float(term[0]) for term in (found.baseline, found.constants) if term is not None)


@dataclass(frozen=True, kw_only=True)
class Random(Method):
    """Normally distributed random numbers, the floor of every metric.

    Args:
        name (`str`): what tables call it.
        seed (`int`, defaults to 0): the scores depend on it and on the text.

    Example:
        >>> from bcos_peft.evaluation import get_method
        >>> get_method("random", seed=3).settings
        {'name': 'random', 'seed': 3}
    """

    name: str = "random"
    seed: int = 0

    def _scores(self, probe: _Probe) -> Tensor:
        with _seeded(self.seed, probe.question):
            return torch.randn(len(probe.question))


METHODS: dict[str, type[Method]] = {
    "bcos": Bcos,
    "random": Random,
    "attention": Attention,
    "attention_rollout": AttentionRollout,
    "saliency": Saliency,
    "input_x_gradient": InputXGradient,
    "integrated_gradients": IntegratedGradients,
    "deeplift": DeepLift,
    "occlusion": Occlusion,
    "lime": Lime,
    "shapley_sampling": ShapleySampling,
    "kernel_shap": KernelShap,
}


def get_method(name: str, tokenizer=None, label: str | None = None, **options) -> Method:
    """An attribution method by its name.

    Args:
        name (`str`): one of `METHODS`: `"bcos"`, `"random"`, `"attention"`, `"attention_rollout"`, `"saliency"`,
            `"input_x_gradient"`, `"integrated_gradients"`, `"deeplift"`, `"occlusion"`, `"lime"`,
            `"shapley_sampling"`, `"kernel_shap"`.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*): tells the mask or padding token. With it the
            default baseline is `"mask"` where there is a mask token; otherwise it is `"zero"`.
        label (`str`, *optional*): what tables call it; by default its name.
        **options: fields of the method, such as `steps=20` or `baseline="pad"`.

    Returns:
        [`Method`]: called with a model and a [`Question`], it gives `(length,)` scores.

    Raises:
        ValueError: there is no such method, baseline or value.
        TypeError: the method has no such option.

    Example:
        >>> from transformers import AutoTokenizer
        >>> from bcos_peft.evaluation import get_method
        >>> tokenizer = AutoTokenizer.from_pretrained("google-bert/bert-base-uncased")
        >>> get_method("integrated_gradients", tokenizer, steps=20).baseline
        'mask'
    """
    if name == "attnlrp":
        raise ValueError(
            "The method 'attnlrp' would come from the package lxt, whose newest release (2.1) is made for "
            "transformers 4.52 and cannot be imported with 5.0 or newer, which bcos_peft needs. Run it in an "
            "environment of its own (pip install lxt==2.1 transformers==4.52.4) and give its scores to the metrics."
        )
    cls = METHODS.get(name)
    if cls is None:
        raise ValueError(f"There is no method {name!r}; there are: {', '.join(METHODS)}.")
    if issubclass(cls, BaselineMethod):
        options = _with_baseline(options, tokenizer)
    known = {field.name for field in fields(cls)} - {"name"}
    unknown = sorted(options.keys() - known)
    if unknown:
        raise TypeError(
            f"The method {name!r} has no option {unknown[0]!r}; it has: {', '.join(sorted(known)) or '-'}."
        )
    return cls(**options) if label is None else cls(name=label, **options)


def _with_baseline(options: dict, tokenizer) -> dict:
    """The options with a baseline, and with its token where the tokenizer knows it."""
    mask = getattr(tokenizer, "mask_token_id", None)
    known = options.get("baseline")
    if known is None:
        known = "zero" if mask is None else "mask"
    token = {"mask": mask, "pad": getattr(tokenizer, "pad_token_id", None)}.get(known)
    return {"baseline_id": token, **options, "baseline": known}
