"""`get_bcos_model`: convert a pre-trained model into a B-cos model, in place."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import nn
from transformers import PreTrainedModel

from bcos_peft._utils.accelerate_hooks import is_hooked
from bcos_peft._utils.arguments import checked_arguments
from bcos_peft._utils.sentence_models import is_sentence_model
from bcos_peft.attribution import certify
from bcos_peft.calibration import Calibration, Embedding, calibration_rows, embedding_of, pooling_of
from bcos_peft.config import BcosConfig
from bcos_peft.discovery import infer_family
from bcos_peft.families import Family, families, find_family, register_family
from bcos_peft.models import (
    BcosModel,
    apply_plan,
    change_class,
    find_transformer,
    keep_class,
    plan_conversion,
    refuse_liger,
    refuse_patched,
    refuse_shards,
    refuse_tensor_parallel,
)
from bcos_peft.version import __version__


_Model = TypeVar("_Model", bound=nn.Module)
# Encoders of encoder-decoders that it names in its code; the others are in a table that `register_encoders` adds to.
_LOADED_AS_STOCK = ("T5GemmaEncoderModel", "T5Gemma2Encoder")


@checked_arguments
def get_bcos_model(
    model: _Model,
    config: BcosConfig | None = None,
    verify: bool = True,
    *,
    family: Family | None = None,
    calibration_data: Any = None,
    tokenizer: Any = None,
    progress: bool = True,
) -> _Model:
    """Convert a transformers model into a B-cos model, in place, and return it: the same object.

    Biases go, linear layers become B-cos layers (query, key, value and LM heads plain bias-free ones), norms and
    activations can be held linear. Parameters keep their names and identity, so everything that works with a
    `PreTrainedModel` goes on
    working: `Trainer`, `save_pretrained`, `pipeline`, accelerate. Its class becomes, for instance,
    `BcosBertForSequenceClassification`, with `model_type="bcos_bert"`. On any refusal the model is left as it was.

    Of a model of sentence-transformers (`SentenceTransformer`, `CrossEncoder`, `SparseEncoder`, `MultiVectorEncoder`)
    the transformer inside is converted, and all else stays: it encodes, is trained, saved and loaded as before.

    A freshly converted model predicts differently from the one it was. Give `calibration_data`, a few hundred texts
    without labels, and its layers are fitted to the ones they replace: it then predicts nearly as before. Or fine-tune
    it on the task (`bcos_bce_loss`), or both.

    Args:
        model ([`~transformers.PreTrainedModel`] or a model of sentence-transformers): on any device, in any precision;
            tied embeddings and accelerate hooks are kept.
        config ([`BcosConfig`], *optional*): default `BcosConfig()`.
        verify (`bool`, defaults to `True`):
            Explain a short probe and refuse the model if the contributions do not sum to its logits. The relative
            residual is stored in `model.bcos_config.probe_residual`. A model without weights (on the meta device)
            is not probed.
        family ([`Family`](families.md), *optional*): the table for an architecture that the package does not know.
            Once the conversion has succeeded it is registered, so that saved models of it load in this process.
        calibration_data (*optional*): an iterable of texts, of pairs of texts or of batches with `input_ids`, or a
            `datasets.Dataset` with a column of texts; at least 8 texts, better a few hundred, of the kind that the
            model will read. See `BcosConfig.calibration`. Texts are cut at 512 tokens.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*): the model's, for calibration on texts. A
            model of sentence-transformers has its own, and its prompts come before the texts in turn.
        progress (`bool`, defaults to `True`): show a progress bar while calibrating.

    Returns:
        `model` itself.

    Raises:
        TypeError: `model` is not a transformers model, or `config` not a [`BcosConfig`].
        ValueError: unknown architecture, a model that is converted already, or with no transformer or several inside,
            a module that cannot be made dynamic-linear, a name in the config that matches nothing, or contributions
            that do not sum.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> from bcos_peft import BcosConfig, get_bcos_model
        >>> tiny = BertConfig(num_hidden_layers=1, hidden_size=16, num_attention_heads=2, intermediate_size=32)
        >>> stock = BertForSequenceClassification(tiny)
        >>> model = get_bcos_model(stock, BcosConfig(b=1.5))
        >>> model is stock, type(model).__name__, model.classifier
        (True, 'BcosBertForSequenceClassification', BcosLinear(in_features=16, out_features=2, b=1.5))

    Source: B-cos LM (arXiv 2502.12992), sections 3 and 4.
    """
    config = BcosConfig() if config is None else config
    if not isinstance(config, BcosConfig):
        raise TypeError(f"config must be a BcosConfig, got {type(config).__name__}.")
    config = replace(copy.deepcopy(config))  # which checks its fields, should they have been changed
    whole, embedding = model, None
    if is_sentence_model(whole):
        model, embedding = find_transformer(whole), embedding_of(whole)
        if type(model).__name__ in _LOADED_AS_STOCK:
            raise ValueError(
                f"sentence-transformers loads every saved {type(model).__name__} as a stock one: a converted one "
                "would be another model after saving. Convert the transformer by itself, and pool its "
                "hidden states: get_bcos_model(model.transformers_model, config)."
            )
        tokenizer = whole.tokenizer if tokenizer is None else tokenizer
    _check_model(model, family)
    refuse_tensor_parallel(model)
    refuse_shards(model)
    refuse_patched(model)
    stock = type(model)
    with _plain_arithmetic(model):
        given, family = family, family or _family_of(model, config)
        config.family = None if given or family is find_family(family.model_type) else family.to_dict()
        plan = plan_conversion(model, stock, config, family)
        config.base_model_name_or_path = model.config._name_or_path or None
        config.bcos_version = __version__
        config.probe_residual = None  # of a model that was converted with it before
        calibration = _calibration(model, plan, config, family, calibration_data, tokenizer, embedding, progress)

        undo = [apply_plan(model, plan, config)] if calibration is None else calibration.convert_blocks()
        try:
            undo.append(change_class(model, stock, config, family))
            if calibration is not None:
                calibration.convert_heads()
                model.config.bcos = config.to_dict()
            if verify and (is_hooked(model) or not any(parameter.is_meta for parameter in model.parameters())):
                model.config.bcos["probe_residual"] = certify(model)
        except BaseException:
            for step in reversed(undo):
                step()
            raise
        if calibration is not None:
            calibration.close()
        keep_class(type(model))
        refuse_liger(model.config.model_type)
        if given and not any(known is given for known in families()):
            register_family(given, exist_ok=True)
        return whole


@contextmanager
def _plain_arithmetic(model: PreTrainedModel) -> Iterator[None]:
    """Neither automatic precision nor inference mode: what is fitted and probed is the model, in its own precision."""
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        for device in {"cpu", model.device.type} - {"meta"}:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


def _calibration(
    model, plan, config: BcosConfig, family: Family, data, tokenizer, embedding: Embedding | None, progress
) -> Calibration | None:
    config.calibration_report = None
    if data is None:
        return None
    if config.calibration is None:
        raise ValueError("calibration_data was given, but BcosConfig(calibration=None) asks for none. Use 'auto'.")
    if config.normalize_weights:
        raise ValueError(
            "calibration_data cannot go with normalize_weights=True: calibration sets the lengths of weight rows, "
            "which normalising takes away. Use normalize_weights=False, the default."
        )
    embedding = embedding or Embedding(pooling_of(model, family, config))
    pool = None if config.calibration_pooling == "none" else embedding.pool
    rows = calibration_rows(data, tokenizer, model, config.calibration_tokens, embedding.max_length, embedding.prompts)
    return Calibration(model, plan, config, family, rows, progress, pool)


def _check_model(model, family: Family | None) -> None:
    if isinstance(model, BcosModel):
        raise ValueError(
            f"This {type(model).__name__} is converted already (B = {model.bcos_config.b:g}). Load the stock model "
            "again to convert it with another config."
        )
    if not isinstance(model, PreTrainedModel):
        raise TypeError(
            "model must be a transformers PreTrainedModel, or a model of sentence-transformers, got "
            f"{type(model).__module__}.{type(model).__qualname__}. Convert before wrapping: before "
            "peft.get_peft_model, torch.compile and any trainer."
        )
    if any(parameter.is_inference() for parameter in model.parameters()):
        raise ValueError(
            f"The weights of this {type(model).__name__} were made inside torch.inference_mode(), and torch gives no "
            "gradients, which explanations are, through such tensors. Build or load the model outside of it."
        )
    if family is None:
        return
    if not isinstance(family, Family):
        raise TypeError(f"family must be a bcos_peft.families.Family, got {type(family).__name__}.")
    if family.model_type != model.config.model_type:
        raise ValueError(
            f"family is for model_type {family.model_type!r}; this model's is {model.config.model_type!r}."
        )
    if type(model).__name__ not in family.architectures:
        raise ValueError(
            f"{type(model).__name__} is not an architecture that the {family.model_type!r} family covers: "
            f"{', '.join(family.architectures)}. Leave family out: what it would say is found out."
        )
    modules = dict(model.base_model.named_modules())
    for part, path in family.parts.items():
        if part == "word" and path not in modules:
            raise ValueError(
                f"The {family.model_type!r} table says that words enter at {path!r}, but the "
                f"{type(model.base_model).__name__} has no such module. It has: "
                f"{', '.join(name for name in modules if name.count('.') < 2 and name)}."
            )


def _family_of(model: PreTrainedModel, config: BcosConfig) -> Family:
    """What a saved config has of this architecture; its table, if there is one that covers it; else what is found."""
    if config.family is not None:
        saved = Family.from_dict(config.family)
        if saved.model_type == model.config.model_type and type(model).__name__ in saved.architectures:
            return saved
    table = find_family(model.config.model_type)
    as_decoder = bool(model.config.to_dict().get("is_decoder"))  # an encoder whose tokens see those before them only
    if table is None or type(model).__name__ not in table.architectures or (as_decoder and not table.causal):
        return infer_family(model)
    return table
