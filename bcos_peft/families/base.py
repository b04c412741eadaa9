"""What is said of an architecture, and the list of tables.

What is held constant while explaining is found operation by operation, so a family says only what cannot be seen from
operations: where the input enters, which linear layers stay plain, what a class is to be replaced by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Family:
    """One architecture as B-cos conversion sees it.

    All patterns are regular expressions that match the end of a module's name in the model, from a dot on.

    Args:
        model_type (`str`): the `model_type` of the stock config.
        architectures (`tuple[str, ...]`): names of the model classes that this table covers.
        parts (`dict[str, str]`): paths, inside the base model, of the embeddings whose outputs are the input `x` of
            the linear map `logits = W(x)·x`, by the name that `attribute(..., split=True)` gives them. Those that a
            model lacks are left out.
        plain (`tuple[str, ...]`): linear layers that stay plain and lose only their bias: query, key, value, router.
        lm_heads (`tuple[str, ...]`): language-modelling heads; plain unless `BcosConfig.convert_head`.
        pooler_activations (`tuple[str, ...]`): activation modules that `BcosConfig.pooler_activation` decides about.
        replacements (`dict[str, str | type]`): names of classes, each with what takes its place: a class, or the name
            of a kind: `"linear"`, `"layer_norm"`, `"rms_norm"`, `"rms_norm_from_1"` (scaled by `1 + weight`),
            `"experts"`, `"stock_experts"` (with a formula of their own), `"head"` (calls as a function the activation
            that `pooler_activation` decides about).
        biases (`tuple[str, ...]`): bias parameters that are not the `bias` of a linear, norm or convolution layer.
        zeroed (`tuple[str, ...]`): the same, where stock code cannot do without them: they stay, zero and frozen.
        harmless_biases (`tuple[str, ...]`): modules whose bias cannot reach a logit while explaining: query and key.
        copied (`tuple[str, ...]`): layers into whose output stock code writes.
        untouched (`tuple[str, ...]`): layers whose weight or bias stock code uses itself: they stay as they are.
        positions (`bool`): positions are not embeddings but constants that are added, one for each token.
        learned (`bool`): there are constants that cannot be zero: inputs of the model's own, which belong to no token.
        causal (`bool`): no token sees those after it.
        seq2seq (`bool`): an encoder and a decoder, each with an input of its own.
        block (`int`): how many tokens are read at once, by models that want whole blocks of them; else 1.
        note (`str`, *optional*): what a user should know of contributions in this architecture.

    Example:
        >>> from bcos_peft.families import find_family
        >>> find_family("bert").parts["word"]
        'embeddings.word_embeddings'

    Source: B-cos LM (arXiv 2502.12992), section 3 and appendix on the conversion.
    """

    model_type: str
    architectures: tuple[str, ...]
    parts: Mapping[str, str]
    plain: tuple[str, ...] = ()
    lm_heads: tuple[str, ...] = ()
    pooler_activations: tuple[str, ...] = ()
    replacements: Mapping[str, str | type] = field(default_factory=dict)
    biases: tuple[str, ...] = ()
    zeroed: tuple[str, ...] = ()
    harmless_biases: tuple[str, ...] = ()
    copied: tuple[str, ...] = ()
    untouched: tuple[str, ...] = ()
    positions: bool = False
    learned: bool = False
    causal: bool = False
    seq2seq: bool = False
    block: int = 1
    note: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """What is saved of a family that was found; `from_dict` reads it."""
        default = {name: kind.default for name, kind in self.__dataclass_fields__.items()}
        values = {name: value for name, value in asdict(self).items() if value not in (default[name], {}, ())}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Family:
        """The family that `to_dict` gave.

        Raises:
            ValueError: there is something else in it.
        """
        try:
            return cls(**{name: tuple(one) if isinstance(one, list) else one for name, one in values.items()})
        except TypeError as error:
            raise ValueError(f"The family in this config cannot be read: {error}.") from error


_FAMILIES: dict[str, Family] = {}

# Called with each family that is registered: `models` makes the Auto classes know it.
after_registration: list[Callable[[Family], None]] = []


def register_family(family: Family, exist_ok: bool = False) -> Family:
    """Add a table, so that `get_bcos_model` goes by it and saved models of it can be loaded.

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


def find_family(model_type: str) -> Family | None:
    """The table of a stock `model_type`, or None: then what it would say is found when a model is converted.

    Example:
        >>> from bcos_peft.families import find_family
        >>> find_family("roberta").model_type, find_family("mpnet")
        ('roberta', None)
    """
    return _FAMILIES.get(model_type)


def families() -> tuple[Family, ...]:
    """All registered families."""
    return tuple(_FAMILIES.values())
