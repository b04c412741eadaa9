"""The method's model in peft: converts a stock model in place, and keeps what is trained in copies of its own.

What is trained (gains of layers, norms, a head) lies in peft's `ModulesToSaveWrapper`s, which save, load and swap by
peft's own rules. The weights of the model below are never touched.
"""

from __future__ import annotations

from typing import Any

from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from peft.utils.other import set_additional_trainable_modules
from torch import nn

from bcos_peft.convert import get_bcos_model
from bcos_peft.lora.method.config import _TYPE, BcosPeftConfig
from bcos_peft.lora.method.copies import _add_gain, _Copies, _gainable, _small_parts, _wrappers
from bcos_peft.lora.method.stock import _Stock
from bcos_peft.models import BcosModel
from bcos_peft.nn import BcosLayer
from bcos_peft.training import merge_gains


class BcosTuner(BaseTuner):
    """What `peft.PeftModel.base_model` is for B-cos adapters.

    Example:
        >>> import peft
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> from bcos_peft import BcosConfig
        >>> small = BertConfig(num_hidden_layers=1, hidden_size=16, num_attention_heads=2, intermediate_size=32)
        >>> stock = BertForSequenceClassification(small)
        >>> model = peft.get_peft_model(stock, BcosConfig(b=1.5))
        >>> type(model.base_model).__name__, type(model.get_base_model()).__name__
        ('BcosTuner', 'BcosBertForSequenceClassification')
        >>> model.unload() is stock, type(stock).__name__
        (True, 'BertForSequenceClassification')
    """

    prefix = "b_cos_"  # of no weight: peft finds what is trained by its wrappers
    tuner_layer_cls = BaseTunerLayer
    target_module_mapping: dict[str, list[str]] = {}
    stock: _Stock | None = None  # None where the model was converted before

    def __init__(self, model: nn.Module, peft_config: dict[str, PeftConfig], adapter_name: str, *args, **kwargs):
        if not isinstance(peft_config, dict):  # which only a PeftModel passes
            raise ValueError(
                f"A {_TYPE} adapter cannot be put into a {type(model).__name__} without a PeftModel around it: the "
                "model itself changes. The model was not changed. Use peft.get_peft_model or "
                "PeftModel.from_pretrained, or get_bcos_model, which needs no adapter."
            )
        if any(isinstance(module, (BcosTuner, _Copies)) for module in model.modules()):
            raise ValueError(
                f"The {type(model).__name__} has an adapter already. It was not changed. Another {_TYPE} adapter goes "
                "beside the first: model.add_adapter(name, config), with the PeftModel as model. Else unload first."
            )
        super().__init__(model, peft_config, adapter_name, *args, **kwargs)

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Convert the model, if it is not, and make room for what is trained."""
        config, first = self.peft_config[adapter_name], "trained" not in vars(self)
        _check_name(model, adapter_name)
        if not first and self.stock is not None and self.stock.is_put_back:
            raise ValueError("Adapters are switched off, and none can be added meanwhile. Nothing was changed.")
        if first:
            self.trained = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
            self.gained: list[BcosLayer] = []
            if not isinstance(model, BcosModel):
                self.stock = _Stock(model, lambda: get_bcos_model(model, config.conversion, verify=config.verify))
        try:
            if first:
                model.requires_grad_(False)
            self._make_room(model, adapter_name, config, first)
        except BaseException:
            if first:
                self.take_off()
            else:
                self._delete(adapter_name)
            raise

    def _make_room(self, model: nn.Module, name: str, config: BcosPeftConfig, active: bool) -> None:
        options = {"adapter_name": name, "activate_adapter": active}  # the head first: it is trained whole
        set_additional_trainable_modules(model, config, self.get_model_config(model), **options)
        for layer in _gainable(model):
            if layer._modules.get("gain") is None:
                _add_gain(layer)
                self.gained.append(layer)
        made: dict[nn.Module, _Copies] = {}
        for parent, key in _small_parts(model):
            part = parent._modules[key]
            if isinstance(part, ModulesToSaveWrapper):
                part.update(name)
            else:
                if part not in made:  # a part may have several places
                    made[part] = _Copies(part, name).train(part.training)
                parent._modules[key] = made[part]
            if active:
                parent._modules[key].set_adapter(name, inference_mode=config.inference_mode)
            elif part in made:
                parent._modules[key].set_adapter([])

    def _create_and_replace(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError(f"{_TYPE} puts no layer in the place of another.")

    def disable_adapter_layers(self) -> None:
        """The stock model again, until `enable_adapter_layers`; the B-cos model as it was, if it was one before."""
        self._switch(off=True)
        if self.stock is not None and not self.stock.is_put_back:
            self.stock.put_back()

    def enable_adapter_layers(self) -> None:
        """The B-cos model with what the adapter has learnt."""
        if self.stock is not None and self.stock.is_put_back:
            self.stock.put_on()
        self._switch(off=False)

    def _switch(self, off: bool) -> None:
        for wrapper in _wrappers(self.model):
            wrapper._disable_adapters = off  # and what is trained stays so

    def delete_adapter(self, adapter_name: str) -> None:
        """As in peft; the last one goes with `unload` or `merge_and_unload`."""
        if adapter_name not in self.peft_config:
            raise ValueError(f"Adapter {adapter_name} does not exist")
        if len(self.peft_config) == 1:
            raise ValueError(
                f"{adapter_name!r} is the model's only {_TYPE} adapter. Nothing was changed. Use model.unload(), "
                "which gives the stock model back, or model.merge_and_unload(), which gives the B-cos model."
            )
        self._delete(adapter_name)
        del self.peft_config[adapter_name]

    def _delete(self, name: str) -> None:
        left = [one for one in self.active_adapters if one != name]
        left = left or [one for one in self.peft_config if one != name][:1]
        for wrapper in _wrappers(self.model):
            wrapper.delete_adapter(name, new_active_adapters=left)
        self.active_adapter = left

    def merge_adapter(self, *args: Any, **kwargs: Any) -> None:
        """Not for this method: the weights below stay as they are."""
        raise ValueError(f"{_TYPE} adapters are not merged in place. Nothing was changed. Use merge_and_unload().")

    def unload(self) -> nn.Module:
        """The stock model, as it was: its class, modules, biases and weights.

        Raises:
            ValueError: it was converted before it got the adapter, or something else than the adapter was changed
                since; nothing was changed.
        """
        reason = "it was converted before it got the adapter" if self.stock is None else None
        reason = reason or self.stock.change(self.model)
        if reason is not None:
            raise ValueError(
                f"The stock model cannot be had back from this {type(self.model).__name__}: {reason}. Nothing was "
                "changed. Load the stock model again; for the B-cos model use model.merge_and_unload()."
            )
        return self.take_off()

    def take_off(self) -> nn.Module:
        """The model that the adapter was put on, whatever has become of its weights."""
        self._replace_wrappers(lambda wrapper: wrapper.original_module)
        for layer in self.gained:
            layer._modules.pop("gain", None)
        if self.stock is not None:
            if not self.stock.is_put_back:
                self.stock.put_back()
            vars(self.model).pop("bcos_trained", None)
        return self._let_go()

    def merge_and_unload(
        self, progressbar: bool = False, safe_merge: bool = False, adapter_names: list[str] | None = None
    ) -> nn.Module:
        """The B-cos model with what the adapter has learnt; gains go into the rows of weights where they can.

        Args:
            progressbar (`bool`, defaults to `False`): without effect: it is quick.
            safe_merge (`bool`, defaults to `False`): look for numbers that are not finite first.
            adapter_names (`list[str]`, *optional*): the adapter, if it is not the active one.

        Raises:
            ValueError: several adapters, one that does not exist, or with `safe_merge` numbers that are not finite;
                nothing was changed.
        """
        names = self.active_adapters if adapter_names is None else adapter_names
        if isinstance(names, str) or len(names) != 1 or names[0] not in self.peft_config:
            raise ValueError(
                f"adapter_names must name one {_TYPE} adapter, since gains and norms of several cannot be added; got "
                f"{names!r}, and the model has {list(self.peft_config)}. Nothing was changed."
            )
        parts = [(wrapper, wrapper.modules_to_save[names[0]]) for wrapper in _wrappers(self.model, names[0])]
        values = [parameter for _, part in parts for parameter in part.parameters()]
        if safe_merge and not all(bool(value.isfinite().all()) for value in values if value.is_floating_point()):
            raise ValueError(f"NaNs or infinities detected in the adapter {names[0]!r}. Nothing was changed.")
        self.enable_adapter_layers()
        before = {id(parameter): trained for parameter, trained in self.trained}
        learnt = set()
        for wrapper, part in parts:
            for old, new in zip(wrapper.original_module.parameters(), part.parameters(), strict=True):
                new.requires_grad_(before.get(id(old), True))
            learnt |= {id(parameter) for parameter in part.parameters()}
        chosen = dict(parts)
        self._replace_wrappers(lambda wrapper: chosen.get(wrapper, wrapper.original_module))
        names_of = {self.model.bcos_name(name) for name, one in self.model.named_parameters() if id(one) in learnt}
        self.model.bcos_trained = getattr(self.model, "bcos_trained", set()) | names_of
        model = self._let_go()
        merge_gains(model)
        return model

    def _replace_wrappers(self, part_of) -> None:
        for module in list(self.model.modules()):
            for key, child in module._modules.items():
                if isinstance(child, ModulesToSaveWrapper):
                    module._modules[key] = part_of(child).train(child.training)

    def _let_go(self) -> nn.Module:
        for parameter, trained in self.trained:
            parameter.requires_grad_(trained)
        vars(self.model).pop("peft_config", None)
        return self.model


def _check_name(model: nn.Module, adapter_name: str) -> None:
    parts = {part for name, _ in model.named_modules() for part in name.split(".")}
    if adapter_name in parts | {"gain", "weight", "modules_to_save", "original_module"}:
        raise ValueError(
            f"adapter_name={adapter_name!r} is the name of modules of the {type(model).__name__}, and peft would mix "
            "them up in the adapter's file. The model was not changed. Use another name."
        )
