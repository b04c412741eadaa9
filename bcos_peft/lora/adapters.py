"""peft on B-cos models: LoRA goes inside the B-cos layers, and what would attach outside of them is refused.

`install` puts functions around methods of peft and of transformers, which they get as `original`.
Models without B-cos layers pass through untouched.
"""

from __future__ import annotations

import inspect
import os
import shutil
import tempfile
from collections.abc import Iterable
from contextvars import ContextVar
from pathlib import Path

from huggingface_hub import EvalResult
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from bcos_peft._utils.staging import settle, staged
from bcos_peft.config import BcosConfig
from bcos_peft.lora.beside import _load_beside, _save_beside
from bcos_peft.lora.card import _LORA, _METHOD, _extend_card
from bcos_peft.lora.compiled import _forget_compiling, _names_of_compiled
from bcos_peft.lora.config import _DESCRIBED, _bcos_inside, _check_base
from bcos_peft.lora.injection import _describe, _prepare_injection
from bcos_peft.lora.method import BcosPeftConfig, BcosTuner, as_peft_config
from bcos_peft.lora.portable import _check_probe, _describe_adapters, load
from bcos_peft.lora.swap import _swapping
from bcos_peft.lora.trial import _on_trial
from bcos_peft.models import GATES, check_eval_results, stale_weights, upload


# Whether `PeftModel.from_pretrained` is at work, which names an adapter first and then loads it.
_making: ContextVar[bool] = ContextVar("making", default=False)


def _inject_adapter(original, self, model, adapter_name, *args, **kwargs):
    """`BaseTuner.inject_adapter`."""
    self.peft_config[adapter_name] = _prepare_injection(self, model, self.peft_config[adapter_name])
    return original(self, model, adapter_name, *args, **kwargs)


def _init_tuner(original, self, model, peft_config, adapter_name, *args, **kwargs):
    """`BaseTuner.__init__`: the first adapter of a model, or any that transformers puts on."""
    with _on_trial(model, adapter_name, lambda: self.peft_config):
        original(self, model, peft_config, adapter_name, *args, **kwargs)


def _init(original, self, model, peft_config=None, *args, **kwargs):
    """`PeftModel.__init__`, also of those that have no layers in the model: virtual tokens.

    And of the `PeftModelFor…` that save a head: they write its name into the config that they were given, some of
    them after the adapter is in, when the config of `inject_adapter` would be another object than theirs.
    """
    if isinstance(peft_config, (PeftConfig, BcosConfig)):
        peft_config = _describe(peft_config, model)
    original(self, model, peft_config, *args, **kwargs)


def _add_to_task(original, self, adapter_name, peft_config, *args, **kwargs):
    """`add_adapter` of the `PeftModelFor…` that save a head, whose name they write into the config that they get."""
    if isinstance(peft_config, BcosConfig):
        peft_config = as_peft_config(peft_config, self)
    return original(self, adapter_name, peft_config, *args, **kwargs)


def _add_adapter(original, self, adapter_name, peft_config, *args, **kwargs):
    """`PeftModel.add_adapter`, and that of `PeftMixedModel`."""
    peft_config = _describe(peft_config, self)
    if peft_config.is_prompt_learning:
        return original(self, adapter_name, peft_config, *args, **kwargs)
    with _on_trial(self, adapter_name, lambda: self.peft_config):
        return original(self, adapter_name, peft_config, *args, **kwargs)


def _save_pretrained(original, self, save_directory, *args, **kwargs):
    """`PeftModel.save_pretrained`: with what the adapter needs to be loaded alone, and with measured numbers."""
    if not _has_ours(self):
        return original(self, save_directory, *args, **kwargs)
    eval_results = check_eval_results(kwargs.pop("eval_results", None))
    given = inspect.signature(original).bind(self, save_directory, *args, **kwargs).arguments
    _describe_adapters(self)
    if os.path.isfile(save_directory) or not given.get("is_main_process", True):  # refused, or written by another
        return original(self, save_directory, *args, **kwargs)
    folders = ["" if name == "default" else name for name in given.get("selected_adapters") or self.peft_config]
    repo_id = kwargs.get("repo_id") or str(save_directory)
    with staged(Path(save_directory), GATES, stale_weights) as folder:
        if (card := Path(save_directory) / "README.md").exists():  # which is added to
            shutil.copyfile(card, folder / "README.md")
        result = original(self, str(folder), *args, **kwargs)
        _complete(self, folder, repo_id, kwargs.get("state_dict"), folders, eval_results)
    return result


def _has_ours(model) -> bool:
    return any(isinstance(config, _DESCRIBED) for config in model.peft_config.values())


def _complete(
    model,
    folder,
    repo_id: str | None = None,
    state_dict=None,
    folders: Iterable[str] = ("",),
    eval_results: list[EvalResult] | None = None,
) -> None:
    """Write beside adapters of a model, in the folder that they were saved in or folders of it, what they need."""
    for path in (Path(folder) / name for name in folders):
        if (path / "adapter_config.json").exists():
            if _names_of_compiled(model):
                _forget_compiling(path)
            _save_beside(model, path, state_dict)
    config = next(iter(model.peft_config.values()))
    about = _METHOD if isinstance(config, BcosPeftConfig) else _LORA
    _extend_card(folder, repo_id or str(folder), config.base_model_name_or_path, eval_results, about=about)


def _from_pretrained(original, cls, *args, **kwargs):
    """`PeftModel.from_pretrained`: what it loads is a new adapter, though the model has its name already."""
    settle(kwargs["model_id"] if "model_id" in kwargs else args[1], kwargs.get("subfolder"))
    making = _making.set(True)
    try:
        return original(cls, *args, **kwargs)
    finally:
        _making.reset(making)


def _load_adapter(original, self, model_id, adapter_name, *args, **kwargs):
    """`PeftModel.load_adapter`: checks that the logits are those of before saving, or takes the adapter off again.

    Into an adapter that exists, as when a `Trainer` goes back to its best checkpoint, peft loads weights and no
    config: what was saved with them takes its place in memory, and if they do not fit, the weights of before.
    """
    settle(model_id, kwargs.get("subfolder"))
    again = adapter_name in self.peft_config and not _making.get()
    if _bcos_inside(self) is None:
        if again:
            _check_base(_stored_config(model_id, self._split_kwargs(kwargs)[0]), self)
        return original(self, model_id, adapter_name, *args, **kwargs)
    names = _names_of_compiled(self)
    if names and not self.peft_config[next(iter(self.peft_config))].is_prompt_learning:
        kwargs["key_mapping"] = kwargs.get("key_mapping") or names
    if again and isinstance(self.peft_config[adapter_name], _DESCRIBED):
        config = _stored_config(model_id, self._split_kwargs(kwargs)[0])
        with _swapping(self, adapter_name, config, (args[0] if args else kwargs.get("is_trainable", False))):
            result = original(self, model_id, adapter_name, *args, **kwargs)
            _put_beside(self, adapter_name, model_id, kwargs, again)
        return result
    try:
        result = original(self, model_id, adapter_name, *args, **kwargs)
    except BaseException:
        if isinstance(self.base_model, BcosTuner) and not again and adapter_name in self.peft_config:
            _take_off(self, adapter_name)
        raise
    if isinstance(self.peft_config[adapter_name], _DESCRIBED):
        try:
            _put_beside(self, adapter_name, model_id, kwargs, again)
        except ValueError:
            _take_off(self, adapter_name)
            raise
    return result


def _stored_config(path, options: dict) -> PeftConfig | None:
    """The config in a folder or repository; None where weights lie alone, which peft loads all the same."""
    try:
        return PeftConfig.from_pretrained(path, **options)
    except ValueError:
        return None


def _take_off(model: nn.Module, adapter_name: str) -> None:
    if len(model.peft_config) > 1:
        model.delete_adapter(adapter_name)
    elif isinstance(model.base_model, BcosTuner):
        model.base_model.take_off()
    elif not model.peft_config[adapter_name].is_prompt_learning:  # virtual tokens are beside the model, not in it
        model.base_model.unload()


def _add_to_transformers(original, self, *args, **kwargs):
    """`PreTrainedModel.add_adapter`, which says that the model has adapters before it has one."""
    before = {key: vars(self)[key] for key in ("_hf_peft_config_loaded", "peft_config") if key in vars(self)}
    config = args[0] if args else kwargs.get("adapter_config")
    if isinstance(config, (PeftConfig, BcosConfig)):
        _describe(config, self)
    try:
        return original(self, *args, **kwargs)
    except BaseException:
        for key in ("_hf_peft_config_loaded", "peft_config"):
            vars(self).pop(key, None)
        vars(self).update(before)
        raise


def _load_into_transformers(original, self, peft_model_id=None, adapter_name=None, *args, **kwargs):
    """`PreTrainedModel.load_adapter`: checks the same, and takes an adapter that fails off again."""
    name = adapter_name or "default"
    again = name in getattr(self, "peft_config", {})  # swapped in place
    options = {key: value for key, value in kwargs.items() if value is not None}
    options |= getattr(kwargs.get("load_config"), "download_kwargs", None) or {}
    options |= kwargs.get("adapter_kwargs") or {}
    if peft_model_id is not None:
        settle(peft_model_id, options.get("subfolder"))
    if again and peft_model_id is not None:
        hub = {key: options[key] for key in ("revision", "token", "cache_dir", "subfolder") if key in options}
        config = kwargs.get("peft_config") or _stored_config(peft_model_id, hub)
        _check_base(config, self, but_b=True)
    if again and peft_model_id is not None and isinstance(self.peft_config[name], _DESCRIBED):
        with _swapping(self, name, config):
            result = original(self, peft_model_id, adapter_name, *args, **kwargs)
            _put_beside(self, name, peft_model_id, options, again)
        return result
    result = original(self, peft_model_id, adapter_name, *args, **kwargs)
    if isinstance(self.peft_config[name], _DESCRIBED) and peft_model_id is not None:
        try:
            _put_beside(self, name, peft_model_id, options, again)
        except ValueError:
            self.delete_adapter(name)
            _take_off_empty_layers(self)
            raise
    return result


def _hotswap_from_state_dict(original, model, state_dict, adapter_name, config, *args, **kwargs):
    """peft's `hotswap_adapter_from_state_dict`, which `hotswap_adapter` ends in."""
    if _bcos_inside(model) is None:
        _check_base(config, model)
        return original(model, state_dict, adapter_name, config, *args, **kwargs)
    with _swapping(model, adapter_name, config):
        result = original(model, state_dict, adapter_name, config, *args, **kwargs)
        _check_probe(model, adapter_name)
    return result


def _take_off_empty_layers(model: nn.Module) -> None:
    """Put the layers of a model back in their places where no adapter is left."""
    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer) and not any(
            len(getattr(module, part)) for part in module.adapter_layer_names
        ):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, module.get_base_layer())


def _push_to_hub(original, self, repo_id, *args, **kwargs):
    """`PeftModel.push_to_hub`, which would put an empty card in place of the one that `save_pretrained` writes."""
    if not _has_ours(self):
        return original(self, repo_id, *args, **kwargs)
    kwargs.pop("max_shard_size", None)
    kwargs["eval_results"] = check_eval_results(kwargs.get("eval_results"))
    with tempfile.TemporaryDirectory() as folder:
        self.save_pretrained(folder, repo_id=repo_id, eval_results=kwargs["eval_results"])
        names = [path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()]
        return upload(Path(folder), sorted(names), repo_id, **kwargs)


def _put_beside(model, adapter_name: str, path, options: dict, again: bool) -> None:
    """What was saved beside an adapter. If the logits are not those of before saving, it goes again."""
    undo = _load_beside(model, adapter_name, str(path), again, **options)
    try:
        _check_probe(model, adapter_name)
    except ValueError:
        undo()
        raise


def _auto_from_pretrained(original, cls, pretrained_model_name_or_path, *args, **kwargs):
    """`AutoPeftModelFor….from_pretrained`: converts the base."""
    settle(pretrained_model_name_or_path, kwargs.get("subfolder"))
    config = PeftConfig.from_pretrained(pretrained_model_name_or_path, **kwargs)
    if not isinstance(config, _DESCRIBED):
        return original(cls, pretrained_model_name_or_path, *args, **kwargs)
    names = ("adapter_name", "is_trainable", "config", "revision")
    kwargs |= dict(zip(names, args, strict=False))
    for name in ("config", "import_allowlist"):
        kwargs.pop(name, None)
    return load(pretrained_model_name_or_path, **kwargs)
