"""Tells peft about B-cos layers. `bcos_peft` does so when peft is imported, and loads what it needs on use.

Every way to put an adapter on a model (`get_peft_model`, `PeftModel.from_pretrained`, `load_adapter`, `add_adapter` of
peft and of transformers, trainers with a `peft_config`) ends in one method of peft, `BaseTuner.inject_adapter`. It is
wrapped, and so are those that save and load adapters, and `__init__` of the models that save a head with theirs. The
module `lora` has what the wrappers do.
"""

from __future__ import annotations

import functools
import importlib

from bcos_peft.models import adapter_hooks


_MARK = "_bcos_peft"


def install_into_peft() -> None:
    """Let peft know about B-cos layers and about their adapters on disk; a second call does nothing.

    Example:
        >>> from peft.tuners.tuners_utils import BaseTuner
        >>> from bcos_peft.lora import install_into_peft
        >>> method = BaseTuner.inject_adapter
        >>> install_into_peft()  # done already, by the import of peft
        >>> BaseTuner.inject_adapter is method
        True
    """
    from peft import (
        AutoPeftModel,
        PeftMixedModel,
        PeftModel,
        PeftModelForQuestionAnswering,
        PeftModelForSequenceClassification,
        PeftModelForTokenClassification,
    )
    from peft.tuners.tuners_utils import BaseTuner
    from peft.utils import hotswap
    from transformers.integrations.peft import PeftAdapterMixin

    if hasattr(BaseTuner.inject_adapter, _MARK):
        return
    BaseTuner.inject_adapter = _around(BaseTuner.inject_adapter, "inject_adapter")
    BaseTuner.__init__ = _around(BaseTuner.__init__, "init_tuner")
    for cls in (
        PeftModel,
        PeftModelForSequenceClassification,
        PeftModelForTokenClassification,
        PeftModelForQuestionAnswering,
    ):
        cls.__init__ = _around(cls.__init__, "init")
        if cls is not PeftModel:
            cls.add_adapter = _around(cls.add_adapter, "add_to_task")
    for cls in (PeftModel, PeftMixedModel):
        cls.add_adapter = _around(cls.add_adapter, "add_adapter")
        cls.from_pretrained = classmethod(_around(cls.from_pretrained.__func__, "from_pretrained"))
        cls.load_adapter = _around(cls.load_adapter, "load_adapter")
    PeftModel.save_pretrained = _around(PeftModel.save_pretrained, "save_pretrained")
    PeftModel.push_to_hub = _around(PeftModel.push_to_hub, "push_to_hub")
    PeftAdapterMixin.add_adapter = _around(PeftAdapterMixin.add_adapter, "add_to_transformers")
    PeftAdapterMixin.load_adapter = _around(PeftAdapterMixin.load_adapter, "load_into_transformers")
    # `hotswap_adapter` itself may have been imported by others before: it finds this one.
    hotswap.hotswap_adapter_from_state_dict = _around(
        hotswap.hotswap_adapter_from_state_dict, "hotswap_from_state_dict"
    )
    adapter_hooks.append(_Saving())
    auto = AutoPeftModel.__base__  # of the classes for all tasks
    auto.from_pretrained = classmethod(_around(auto.from_pretrained.__func__, "auto_from_pretrained"))
    importlib.import_module("bcos_peft.lora.config")  # which registers the types of our adapters
    importlib.import_module("bcos_peft.lora.method").register_method()
    importlib.import_module("bcos_peft.lora.tables")._copy_tables()


class _Saving:
    """What a B-cos model that has adapters of transformers does around saving them."""

    def check(self, model) -> None:
        from bcos_peft.lora.method import check_saving

        check_saving(model)

    def describe(self, model) -> None:
        from bcos_peft.lora.portable import _describe_adapters

        _describe_adapters(model)

    def complete(self, model, folder, repo_id: str | None, state_dict, eval_results) -> None:
        from bcos_peft.lora.adapters import _complete

        _complete(model, folder, repo_id, state_dict, eval_results=eval_results)


def _around(original, name: str):
    """`original`, called through the function of `lora` with that name."""

    @functools.wraps(original)
    def method(*args, **kwargs):
        from bcos_peft.lora import adapters as lora

        return getattr(lora, f"_{name}")(original, *args, **kwargs)

    setattr(method, _MARK, True)
    return method
