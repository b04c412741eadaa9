"""The model inside what users pass, and what is known of its architecture."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from torch import nn
from transformers import PreTrainedModel

from bcos_peft.discovery import infer_family
from bcos_peft.families import Family, find_family
from bcos_peft.models.generated import BcosModel


# Of stock models what was found out, beside the models, which are copied and pickled.
_INFERRED: WeakKeyDictionary[nn.Module, Family] = WeakKeyDictionary()


def find_bcos_model(model) -> BcosModel:
    """The converted model inside `model`, which may be wrapped (by peft, by `torch.compile`, for several devices).

    Raises:
        TypeError: if it is no module.
        ValueError: if there is no converted model in it, or more than one.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a converted transformers model, got {type(model).__name__}.")
    if isinstance(model, BcosModel):
        return model
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, BcosModel)]
    if not found:
        raise ValueError(
            f"{type(model).__name__} is not a B-cos model: its contributions would not sum to the logit. "
            "Convert it first: get_bcos_model(model, BcosConfig())."
        )
    if len(found) > 1:
        names = ", ".join(f"{name!r} ({type(module).__name__})" for name, module in found)
        raise ValueError(
            f"{type(model).__name__} holds {len(found)} converted models: {names}. Which of them is meant, and how "
            f"their outputs go together, cannot be told: pass one of them, such as model.{found[0][0]}."
        )
    return found[0][1]


def find_model(model) -> PreTrainedModel:
    """The model to explain inside `model`: the converted one, or the stock one where none is converted.

    Raises:
        TypeError: if it is no module.
        ValueError: if there is no transformers model in it, or more than one.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> from bcos_peft.models import find_model
        >>> small = BertConfig(num_hidden_layers=1, hidden_size=16, num_attention_heads=2, intermediate_size=32)
        >>> type(find_model(BertModel(small))).__name__
        'BertModel'
    """
    converted = isinstance(model, nn.Module) and any(isinstance(module, BcosModel) for module in model.modules())
    if converted or not isinstance(model, nn.Module):
        return find_bcos_model(model)
    if isinstance(model, PreTrainedModel):
        return model
    whole = _outermost(model)
    if len(whole) != 1:
        raise ValueError(
            f"{type(model).__name__} holds {len(whole) or 'no'} transformers models; pass the one to explain."
        )
    return next(iter(whole.values()))


def find_transformer(model: nn.Module) -> PreTrainedModel:
    """The transformers model inside a model of sentence-transformers, stock or converted.

    Raises:
        ValueError: there is none in it, or there are several.
    """
    found, name = _outermost(model), type(model).__name__
    if not found:
        parts = ", ".join(type(module).__name__ for module in model.children())
        raise ValueError(
            f"There is no transformers model in this {name}, of {parts}. B-cos conversion is for transformers, loaded "
            "with backend='torch'."
        )
    if len(found) > 1:
        paths = ", ".join(f"{path!r} ({type(module).__name__})" for path, module in found.items())
        raise ValueError(
            f"This {name} holds {len(found)} transformers models: {paths}. Convert each by itself; it stays where "
            f"it is: get_bcos_model(model.get_submodule({next(iter(found))!r}), config, calibration_data=texts, "
            "tokenizer=tokenizer)."
        )
    return next(iter(found.values()))


def _outermost(model: nn.Module) -> dict[str, PreTrainedModel]:
    """The transformers models in a model, by name, without those inside of others."""
    found: dict[str, PreTrainedModel] = {}
    for name, module in model.named_modules():
        if isinstance(module, PreTrainedModel) and not any(module in set(other.modules()) for other in found.values()):
            found[name] = module
    return found


def family_of(model: PreTrainedModel) -> Family:
    """What is known of a model's architecture: of a converted one what it was converted by; of a stock one its table,
    or what is found out now, once.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> from bcos_peft.models import family_of
        >>> small = BertConfig(num_hidden_layers=1, hidden_size=16, num_attention_heads=2, intermediate_size=32)
        >>> family_of(BertForSequenceClassification(small)).model_type
        'bert'
    """
    if isinstance(model, BcosModel):
        return model.bcos_family
    table = find_family(model.config.model_type)
    if table is not None and type(model).__name__ in table.architectures:
        return table
    if model not in _INFERRED:
        _INFERRED[model] = infer_family(model)
    return _INFERRED[model]
