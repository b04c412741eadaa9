"""Saving and sharing of B-cos models: what the generated classes do in place of transformers' methods."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import CommitInfo, EvalResult

from bcos_peft._utils.staging import settle, staged
from bcos_peft.models.card import _CARD_NAME, _base_licence, _last_part, _render_card
from bcos_peft.models.card_results import _stored_results, check_eval_results, put_eval_results
from bcos_peft.models.consistency import check_modules, current_config
from bcos_peft.models.hub_upload import (
    _STUB,
    GATES,
    _add_stub,
    _auto_classes_of,
    _is_written_by_hand,
    _with_additions,
    stale_weights,
    upload,
)


_PUSH_ARGUMENTS = ("repo_id", "commit_message", "commit_description", "private", "revision", "create_pr", "tags")


# What peft needs before and after adapters are saved; `lora.install` puts it here.
adapter_hooks: list = []


class BcosHubMixin:
    """`save_pretrained` and `push_to_hub` of converted models. Not to be instantiated.

    Example:
        >>> from bcos_peft.models import BcosHubMixin, BcosModel
        >>> issubclass(BcosModel, BcosHubMixin)
        True
    """

    model_tags = ["bcos", "bcos-peft", "interpretability"]  # the Trainer puts them into its model card too

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        is_main_process: bool = True,
        state_dict: dict | None = None,
        push_to_hub: bool = False,
        max_shard_size: int | str = "50GB",
        variant: str | None = None,
        token: str | bool | None = None,
        *,
        remote_code: bool | None = None,
        eval_results: list[EvalResult] | None = None,
        **kwargs,
    ) -> None:
        """Save the model: `AutoModelFor….from_pretrained(save_directory)` after `import bcos_peft` gives it back.

        As in transformers, with a model card. The files are written aside and then take their places, all of them or
        none: if saving fails, or the process is killed, what was in the directory is loaded from it. Weights of an
        earlier save that would be stale (shards, or the whole file if there are shards now) are removed. The card,
        `README.md`, is replaced only if this method wrote it. The B that the layers have at this moment is saved.

        Args:
            save_directory (`str` or `os.PathLike`): made if it does not exist.
            is_main_process (`bool`, defaults to `True`): as in transformers; other processes write nothing.
            state_dict (`dict`, *optional*): the weights to save; default: the model's.
            push_to_hub (`bool`, defaults to `False`): upload what was saved. See `push_to_hub` for the arguments.
            max_shard_size (`int` or `str`, defaults to `"50GB"`): the size of a file of weights, in bytes.
            variant (`str`, *optional*): write `model.<variant>.safetensors`.
            token (`str` or `bool`, *optional*): for the upload.
            remote_code (`bool`, *optional*):
                Also write `modeling_bcos.py` and an `auto_map`, so that `trust_remote_code=True` loads the model
                where `bcos_peft` is installed but was not imported. Default: if the model was loaded with them, or is
                uploaded. The choice is kept in `model.config.auto_map`, so a `Trainer` that saves later follows it.
            eval_results (`list[EvalResult]`, *optional*):
                Measured numbers for the card, in place of those that it has; also into the metadata of a card written
                by hand. Default: those on the card in the directory stay. `[]` takes them off, which is due when the
                weights are not those that were measured.
            **kwargs: as in transformers, and the arguments of `push_to_hub`. The card calls the model `repo_id`.

        Raises:
            TypeError: `eval_results` is no list of [`~huggingface_hub.EvalResult`]; nothing was written.
            ValueError: `save_directory` is a file, `safe_serialization=False`, `eval_results` has something that a
                card cannot hold, or a module is not what the config says (`check_modules`); nothing was written.

        Example:
            >>> import tempfile
            >>> from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification
            >>> from bcos_peft import BcosConfig, get_bcos_model
            >>> small = BertConfig(num_hidden_layers=1, hidden_size=16, num_attention_heads=2, intermediate_size=32)
            >>> model = get_bcos_model(BertForSequenceClassification(small), BcosConfig(b=1.5))
            >>> with tempfile.TemporaryDirectory() as directory:
            ...     model.save_pretrained(directory)
            ...     AutoModelForSequenceClassification.from_pretrained(directory).classifier
            BcosLinear(in_features=16, out_features=2, b=1.5)
        """
        if not kwargs.pop("safe_serialization", True):
            raise ValueError(
                "safe_serialization=False: B-cos models are saved as safetensors only, since pickled weights can run "
                "code when they are loaded. Leave it out; for a pickle use torch.save(model.state_dict(), path)."
            )
        eval_results = check_eval_results(eval_results)
        check_modules(self)
        directory = Path(save_directory)
        if directory.exists() and not directory.is_dir():
            raise ValueError(f"save_directory must be a directory, but {str(directory)!r} is a file.")
        push = {name: kwargs.pop(name) for name in _PUSH_ARGUMENTS if name in kwargs} if push_to_hub else {}
        repo_id = push.pop("repo_id", None) or kwargs.pop("repo_id", None) or directory.resolve().name
        kwargs |= {"state_dict": state_dict, "max_shard_size": max_shard_size, "variant": variant}
        if kwargs.get("distributed_checkpoint"):  # every process writes its part of the same files
            super().save_pretrained(directory, is_main_process=is_main_process, **kwargs)
            return
        if not is_main_process:  # it takes part in gathering the weights
            with tempfile.TemporaryDirectory() as nowhere:
                super().save_pretrained(nowhere, is_main_process=False, **kwargs)
            return
        with _prepared_config(self, push_to_hub or remote_code), staged(directory, GATES, stale_weights) as staging:
            card = directory / _CARD_NAME
            _save_with_adapters(self, super().save_pretrained, staging, repo_id, kwargs, eval_results, card)
            if (staging / "config.json").exists():  # else only an adapter was saved
                _add_stub(self, staging)
                if not _is_written_by_hand(card):
                    numbers = _stored_results(card) if eval_results is None else eval_results
                    _add_card(self, staging, repo_id, push.get("tags"), numbers, online=push_to_hub)
                elif eval_results is not None:
                    _with_additions(card, repo_id, eval_results=eval_results).save(staging / _CARD_NAME)
            written = sorted(path.name for path in staging.iterdir())
        if push_to_hub:
            unchanged = [_CARD_NAME] if card.exists() and _CARD_NAME not in written else []
            upload(directory, written + unchanged, repo_id, token=token, eval_results=eval_results, **push)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, **kwargs):
        """As in transformers. A save into the folder that was killed is undone first."""
        if pretrained_model_name_or_path is not None:
            settle(pretrained_model_name_or_path, kwargs.get("subfolder"))
        return super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        commit_description: str | None = None,
        private: bool | None = None,
        token: bool | str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        max_shard_size: int | str = "50GB",
        tags: list[str] | None = None,
        eval_results: list[EvalResult] | None = None,
    ) -> CommitInfo:
        """Upload the model to the hub, with its card and the stub that `trust_remote_code=True` needs.

        Weights in the repository that the upload makes stale are deleted in the same commit. A card in the repository
        that somebody wrote by hand stays; only `tags` and `eval_results`, if given, go into its metadata.

        Args:
            repo_id (`str`): the repository; it is made if it does not exist.
            commit_message (`str`, *optional*): default: `"Upload model"`.
            commit_description (`str`, *optional*): the description of the commit.
            private (`bool`, *optional*): whether a new repository is private.
            token (`bool` or `str`, *optional*): default: that of `hf auth login`.
            revision (`str`, *optional*): the branch; it is made if it does not exist.
            create_pr (`bool`, defaults to `False`): open a pull request instead of changing the branch.
            max_shard_size (`int` or `str`, defaults to `"50GB"`): the size of a file of weights, in bytes.
            tags (`list[str]`, *optional*): further tags of the card.
            eval_results (`list[EvalResult]`, *optional*): measured numbers for the card, as in `save_pretrained`.

        Returns:
            [`~huggingface_hub.CommitInfo`]: the commit.

        Raises:
            TypeError: `eval_results` is no list of [`~huggingface_hub.EvalResult`]; nothing was uploaded.
            ValueError: `eval_results` has something that a card cannot hold; nothing was uploaded.
        """
        eval_results = check_eval_results(eval_results)
        with _prepared_config(self, remote_code=True), tempfile.TemporaryDirectory() as folder:
            directory = Path(folder)
            options = {"max_shard_size": max_shard_size}
            _save_with_adapters(self, super().save_pretrained, directory, repo_id, options, eval_results)
            if (directory / "config.json").exists():  # else only an adapter was saved
                _add_stub(self, directory)
                _add_card(self, directory, repo_id, tags, eval_results or [], online=True)
            return upload(
                directory,
                sorted(path.name for path in directory.iterdir()),
                repo_id,
                commit_message=commit_message,
                commit_description=commit_description,
                private=private,
                token=token,
                revision=revision,
                create_pr=create_pr,
                tags=tags,
                eval_results=eval_results,
            )

    def add_model_tags(self, tags: list[str] | str) -> None:
        """Add tags to the model card, as in transformers."""
        self.model_tags = list(self.model_tags)  # the list of the class is every model's
        super().add_model_tags(tags)

    @classmethod
    def register_for_auto_class(cls, auto_class="AutoModel"):
        """Do nothing: a generated class has no source file to copy beside the weights."""


def _save_with_adapters(
    model,
    save,
    directory: Path,
    repo_id: str,
    kwargs: dict,
    eval_results: list[EvalResult] | None,
    card: Path | None = None,
) -> None:
    """Call `save`, transformers' own. Of a model with adapters it saves these alone, which need more.

    The card of adapters, where there is one that was not generated, is not replaced, but added to.
    """
    for hook in adapter_hooks:
        hook.check(model)
    hooks = adapter_hooks if getattr(model, "_hf_peft_config_loaded", False) else []
    for hook in hooks:
        hook.describe(model)
    save(directory, **kwargs)
    if hooks and card is not None and _is_written_by_hand(card):
        shutil.copyfile(card, directory / _CARD_NAME)
    for hook in hooks:
        hook.complete(model, directory, repo_id, kwargs.get("state_dict"), eval_results)


@contextmanager
def _prepared_config(model, remote_code: bool | None) -> Iterator[None]:
    """[`_prepare_config`], undone if what is done with it fails: the next save is not to follow that choice."""
    before = dict(model.config.__dict__)
    try:
        _prepare_config(model, remote_code)
        yield
    except BaseException:
        for name in ("bcos", "auto_map"):
            model.config.__dict__.pop(name, None)
            if name in before:
                setattr(model.config, name, before[name])
        raise


def _prepare_config(model, remote_code: bool | None) -> None:
    """Write into the config what is to be saved with the model: the B of its layers, and how it can be loaded."""
    config = model.config
    config.bcos = current_config(model).to_dict()
    for adapter in getattr(model, "peft_config", {}).values():
        if getattr(adapter, "bcos", None) is not None:
            adapter.bcos["config"] = config.bcos
    if remote_code is None:
        remote_code = any(_STUB in str(reference) for reference in (config.auto_map or {}).values())
    if remote_code:
        config.auto_map = {"AutoConfig": f"{_STUB}.{type(config).__name__}"}
        config.auto_map |= {auto: f"{_STUB}.{type(model).__name__}" for auto in _auto_classes_of(model)}
    else:
        config.__dict__.pop("auto_map", None)


def _add_card(
    model, directory: Path, model_id: str, tags: list[str] | None, eval_results: list[EvalResult], online: bool
) -> None:
    config = model.bcos_config
    card = _render_card(
        config,
        architecture=type(model).__name__,
        auto_class=next(iter(_auto_classes_of(model)), type(model).__name__),
        model_id=model_id,
        tags=list(dict.fromkeys([*model.model_tags, *(tags or [])])),
        licence=_base_licence(config.base_model_name_or_path, online),
    )
    put_eval_results(card, eval_results, _last_part(model_id))
    card.save(directory / _CARD_NAME)
