"""Tells peft of the method: its type, its classes, and that a `BcosConfig` is a config of a method."""

from __future__ import annotations

from peft import PeftConfig, PeftType
from peft.utils import register_peft_method

from bcos_peft.config import BcosConfig
from bcos_peft.lora.method.config import _TYPE, BcosPeftConfig
from bcos_peft.lora.method.tuner import BcosTuner


def register_method() -> None:
    """Register B-cos with peft as a method of its own, `peft_type="BCOS"`; a second call does nothing.

    From then on a [`BcosConfig`] that is made is a `peft.PeftConfig`, too: trainers that take a `peft_config` ask for
    that. peft itself takes those that were made before as well.

    Example:
        >>> import peft
        >>> from bcos_peft import BcosConfig
        >>> isinstance(BcosConfig(), peft.PeftConfig), BcosConfig().peft_type.value
        (True, 'BCOS')
    """
    if _TYPE in PeftType.__members__:
        return
    _add_type(_TYPE)
    register_peft_method(name=_TYPE.lower(), config_cls=BcosPeftConfig, model_cls=BcosTuner, prefix=BcosTuner.prefix)
    for name in ("revision", "is_prompt_learning", "is_adaption_prompt"):  # what peft reads
        setattr(BcosConfig, name, getattr(BcosPeftConfig(bcos={"config": {}}), name))
    BcosConfig.peft_type = PeftType(_TYPE)
    BcosConfig._method = _BcosMethod


class _BcosMethod(BcosConfig, PeftConfig):
    """A `BcosConfig` for peft: a subclass, as classes derived from `BcosConfig` itself would get peft's fields."""

    __module__, __qualname__, __doc__ = BcosConfig.__module__, BcosConfig.__qualname__, BcosConfig.__doc__

    def __reduce__(self):  # a pickle is read without peft, too
        return BcosConfig.__new__, (BcosConfig,), dict(vars(self))


_BcosMethod.__name__ = BcosConfig.__name__


def _add_type(name: str) -> None:
    """A further member of peft's `PeftType`: `register_peft_method` takes types that are members only."""
    member = str.__new__(PeftType, name)
    member._name_ = member._value_ = name
    member._sort_order_ = len(PeftType)
    type.__setattr__(PeftType, name, member)  # before it is in the map: an enumeration refuses to set its members
    PeftType._member_map_[name] = member
    PeftType._value2member_map_[name] = member
    PeftType._member_names_.append(name)
