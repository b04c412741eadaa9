"""What a family table says, and the list of families.

A table names the few modules of an architecture that need a word: where the input of the linear map is, which
outputs are held constant while explaining, where a gate multiplies, which linear layers stay plain. Everything else
(linear layers, layer norms, activations) is found by its class.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor
from transformers import PretrainedConfig

from bcos_peft._utils.patterns import matches_pattern


_Hold = Callable[[PretrainedConfig, Tensor], Tensor]


def hold(config: PretrainedConfig, output: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
    """Hold a module's whole output constant: query and key projections, a router.

    Example:
        >>> import torch
        >>> from bcos_peft.families import hold
        >>> hold(None, torch.ones(2, requires_grad=True)).requires_grad
        False
    """
    if isinstance(output, tuple):
        return tuple(tensor.detach() for tensor in output)
    return output.detach()


def hold_query_key(config: PretrainedConfig, output: Tensor) -> Tensor:
    """Hold the first two thirds of a fused `[q | k | v]` projection constant.

    Example:
        >>> import torch
        >>> from bcos_peft.families import hold_query_key
        >>> x = torch.ones(1, 6, requires_grad=True)
        >>> hold_query_key(None, x * 1).sum().backward()
        >>> x.grad
        tensor([[0., 0., 0., 0., 1., 1.]])
    """
    query, key, value = output.chunk(3, dim=-1)
    return torch.cat([query.detach(), key.detach(), value], dim=-1)


def share(output: Tensor) -> Tensor:
    """Pass on half of the gradient: the output is a product of two functions of the input, which get half of it each.

    Example:
        >>> import torch
        >>> from bcos_peft.families import share
        >>> x = torch.tensor([3.0], requires_grad=True)
        >>> share(x * (2 * x)).backward()
        >>> x.grad * x.detach()  # the product; its derivative alone would count it twice
        tensor([18.])
    """
    return output.detach().lerp(output, 0.5)


@dataclass(frozen=True)
class Family:
    """One architecture as B-cos conversion sees it.

    All patterns are regular expressions that match the end of a module's name in the model, from a dot on.

    Args:
        model_type (`str`): the `model_type` of the stock config.
        architectures (`tuple[str, ...]`): names of the model classes that this table covers.
        embeddings (`str`, *optional*): path, inside the base model, of the module whose output feeds the first block:
            the input `x` of the linear map `logits = W(x)·x`. `None` where no module gives it: `x` is then the sum of
            the `parts`.
        parts (`dict[str, str]`): paths, inside the base model, of the embeddings whose outputs are summed into
            `x`, by the name that `attribute(..., split=True)` gives them. Those that a model lacks are left out.
        held (`dict[str, Hold]`): modules whose output, or a part of it, is held constant while explaining.
        gates (`dict[str, str]`): gated MLPs, `down(act(gate(x)) · up(x))`, each with the name of its activation in it;
            `BcosConfig.gates` says how the product is explained.
        plain (`tuple[str, ...]`): linear layers that stay plain and lose only their bias.
        lm_heads (`tuple[str, ...]`): language-modelling heads; plain unless `BcosConfig.convert_head`.
        pooler_activations (`tuple[str, ...]`): activation modules that `BcosConfig.pooler_activation` decides about.
        replacements (`dict[type, type]`): classes whose forward calls a function that needs a rule, each with the
            subclass that takes its place.
        biases (`tuple[str, ...]`): bias parameters that are not the `bias` of a linear, norm or convolution layer.
        harmless_biases (`tuple[str, ...]`): modules whose bias cannot reach a logit while explaining: query and key.
        causal (`bool`): a decoder that predicts the next token.

    Example:
        >>> from bcos_peft.families import find_family
        >>> find_family("bert").embeddings
        'embeddings'

    Source: B-cos LM (arXiv 2502.12992), section 3 and appendix on the conversion.
    """

    model_type: str
    architectures: tuple[str, ...]
    embeddings: str | None
    parts: Mapping[str, str]
    held: Mapping[str, _Hold]
    gates: Mapping[str, str] = field(default_factory=dict)
    plain: tuple[str, ...] = ()
    lm_heads: tuple[str, ...] = ()
    pooler_activations: tuple[str, ...] = ()
    replacements: Mapping[type, type] = field(default_factory=dict)
    biases: tuple[str, ...] = ()
    harmless_biases: tuple[str, ...] = ()
    causal: bool = False

    def is_gate(self, name: str) -> bool:
        """Whether a module is the activation of a gated MLP, by its name in the model."""
        return any(matches_pattern(pattern, name) for pattern in self._gate_patterns)

    @cached_property
    def _gate_patterns(self) -> tuple[str, ...]:
        return tuple(rf"{block}\.{re.escape(act)}" for block, act in self.gates.items())


_FAMILIES: dict[str, Family] = {}

# Called with each family that is registered: `models` makes the Auto classes know it.
after_registration: list[Callable[[Family], None]] = []


def register_family(family: Family, exist_ok: bool = False) -> Family:
    """Add a family, so that `get_bcos_model` finds it by `model_type` and saved models of it can be loaded.

    Args:
        family ([`Family`]): the table.
        exist_ok (`bool`, defaults to `False`): replace a family with the same `model_type`.

    Returns:
        [`Family`]: the same table.

    Raises:
        TypeError: if it is not a `Family`.
        ValueError: if there is one for this `model_type` already.

    Example:
        >>> from bcos_peft.families import find_family, register_family
        >>> register_family(find_family("bert"), exist_ok=True).model_type
        'bert'
    """
    if not isinstance(family, Family):
        raise TypeError(f"register_family takes a Family, got {type(family).__name__}.")
    if family.model_type in _FAMILIES and not exist_ok:
        raise ValueError(
            f"There is a family for model_type {family.model_type!r} already; pass exist_ok=True to replace it."
        )
    _FAMILIES[family.model_type] = family
    for call in after_registration:
        call(family)
    return family


def find_family(model_type: str) -> Family:
    """The family of a stock `model_type`.

    Raises:
        ValueError: if there is none; the message lists the known ones and says how to add one.

    Example:
        >>> from bcos_peft.families import find_family
        >>> find_family("roberta").model_type
        'roberta'
    """
    try:
        return _FAMILIES[model_type]
    except KeyError:
        raise ValueError(
            f"Unknown architecture: no B-cos family for model_type {model_type!r}. Known: "
            f"{', '.join(sorted(_FAMILIES))}. A family is one small table: write a bcos_peft.families.Family and "
            "pass it as get_bcos_model(model, config, family=...), as the guide 'Adding a family' shows."
        ) from None


def families() -> tuple[Family, ...]:
    """All registered families."""
    return tuple(_FAMILIES.values())
