"""Training only a part of a converted model: `requires_grad` by the names of what calibration makes small."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import nn

from bcos_peft._utils.arguments import checked_arguments
from bcos_peft.models import BcosModel, find_bcos_model
from bcos_peft.nn import BcosConv1D, BcosLayer, BcosNorm, Gain, is_quantized


@checked_arguments
def train_only(model: nn.Module, *parts: str) -> None:
    """Train these parts of a model, and nothing else: sets `requires_grad`. To be called before a trainer is made.

    After calibration little is left to learn, and a few numbers for each layer may do: a gain for each output of the
    B-cos layers (multiplying an output is multiplying a row of the weight, which leaves its cosine alone), and the
    weights of the norms. Explanations are as exact as before. Gains are saved and loaded with the model, or beside its
    adapter; [`merge_gains`] takes them into the weights.

    Args:
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]): a converted model.
        *parts (`str`): one or more of

            - `"all"`: every parameter;
            - `"lora"`: the active adapters, with their `modules_to_save`;
            - `"gain"`: a gain for every output of the B-cos layers, made if there is none (experts have none);
            - `"norms"`: the weights of the norms;
            - `"gain_and_norms"`: both;
            - `"head"`: what comes after the body: a classifier, or the language-modelling head. One that shares its
              weight with the embeddings trains them too.

    Raises:
        ValueError: an unknown part, or one that the model does not have; nothing was changed.
        TypeError: the model is no module.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> from bcos_peft import BcosConfig, get_bcos_model, train_only
        >>> small = BertConfig(num_hidden_layers=1, hidden_size=16, num_attention_heads=2, intermediate_size=32)
        >>> model = get_bcos_model(BertForSequenceClassification(small), BcosConfig(b=1.25))
        >>> train_only(model, "gain_and_norms")
        >>> model.print_trainable_parameters()
        trainable params: 130 || all params: 499,042 || trainable%: 0.0260

    Source: for B-cos models none; scaling activations by learned vectors is the idea of (IA)³ (arXiv 2205.05638).
    """
    bcos = find_bcos_model(model)
    wanted = _expanded(parts)
    gained = [module for module in _gainable(bcos) if "gain" in wanted]
    found = {part: _PARTS[part](bcos) for part in wanted}
    for part, parameters in found.items():
        if not parameters and not (part == "gain" and gained):
            raise ValueError(f"The model has no {_NAMES[part]}. Nothing was changed. {_WAYS[part]}")
        if not all(parameter.is_floating_point() for parameter in parameters):
            raise ValueError(
                f"train_only: {part!r} has quantised weights, which cannot be trained. Nothing was changed. Train "
                "'gain', 'norms' or 'lora'."
            )
    for module in gained:
        module.add_gain(module.weight.device)
    chosen = {id(parameter) for part in wanted for parameter in _PARTS[part](bcos)}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in chosen)
    names = {bcos.bcos_name(name) for name, p in bcos.named_parameters(remove_duplicate=False) if id(p) in chosen}
    adapters = {id(parameter) for parameter in _adapters(bcos)}
    if chosen - adapters:
        bcos.bcos_trained = getattr(bcos, "bcos_trained", set()) | names


@checked_arguments
def merge_gains(model: nn.Module) -> int:
    """Multiply the rows of weights by their gains, which then go: the same function, to rounding, with stock names.

    What cannot take its gain keeps it: quantised weights, weights that are shared with another layer, layers whose
    rows have unit norm (`normalize_weights=True`), and layers with an adapter (merge that first).

    Args:
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]): a converted model.

    Returns:
        `int`: how many gains are left.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> from bcos_peft import BcosConfig, get_bcos_model, merge_gains, train_only
        >>> small = BertConfig(num_hidden_layers=1, hidden_size=16, num_attention_heads=2, intermediate_size=32)
        >>> model = get_bcos_model(BertForSequenceClassification(small), BcosConfig(b=1.25))
        >>> train_only(model, "gain")
        >>> merge_gains(model)
        0
    """
    bcos = find_bcos_model(model)
    owners: dict[int, int] = {}
    for _, parameter in bcos.named_parameters(remove_duplicate=False):
        owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    left = 0
    layers = [(name, module) for name, module in bcos.named_modules() if isinstance(module, BcosLayer)]
    away = [name for name, module in layers if "gain" in module._modules and module.weight.is_meta]
    if away:
        raise ValueError(
            f"The weight of {away[0]!r} is kept elsewhere (offloaded), and cannot be multiplied. Nothing was changed. "
            "Load the model without offloading, and merge its gains there."
        )
    for name, module in layers:
        gain = module._modules.get("gain")
        if gain is None:
            continue
        unit_rows = module.normalize_weights and module.b is not None
        adapted = not isinstance(gain, Gain) or name.endswith(".base_layer")
        if adapted or unit_rows or is_quantized(module) or owners[id(module.weight)] > 1:
            left += 1
            continue
        factors = gain.weight if isinstance(module, BcosConv1D) else gain.weight.unsqueeze(-1)
        with torch.no_grad():
            module.weight.copy_(module.weight * factors)
        trained = getattr(bcos, "bcos_trained", set())
        bcos.bcos_trained = trained - {bcos.bcos_name(f"{name}.gain.weight")} | {bcos.bcos_name(f"{name}.weight")}
        del module._modules["gain"]
    return left


def _expanded(parts: tuple[str, ...]) -> list[str]:
    wanted: list[str] = []
    for part in parts:
        wanted += ["gain", "norms"] if part == "gain_and_norms" else [part]
    known = [*_PARTS, "gain_and_norms"]
    for part in wanted or [None]:
        if part not in _PARTS:
            given = "got none" if part is None else f"got {part!r}"
            raise ValueError(f"train_only needs one or more of {', '.join(map(repr, known))}; {given}.")
    return wanted


def _gainable(model: BcosModel) -> Iterator[BcosLayer]:
    for name, module in model.named_modules():
        if isinstance(module, BcosLayer) and module.b is not None and module.outputs is not None:
            if ".original_module" not in name:  # what an adapter has put a copy of itself in place of
                yield module


def _adapters(model: nn.Module, active_only: bool = False) -> list[nn.Parameter]:
    """The parameters of peft's layers, which say what is theirs."""
    found = []
    for layer in model.modules():
        for attribute in getattr(layer, "adapter_layer_names", ()):
            held = getattr(layer, attribute, None)
            for adapter in held if isinstance(held, (nn.ModuleDict, nn.ParameterDict)) else ():
                if not active_only or adapter in layer.active_adapters:
                    part = held[adapter]
                    found += [part] if isinstance(part, nn.Parameter) else part.parameters()
    return found


def _norms(model: nn.Module) -> list[nn.Parameter]:
    return [
        parameter
        for name, module in model.named_modules()
        if isinstance(module, BcosNorm) and "original_module" not in name
        for parameter in module.parameters()
    ]


def _head(model: BcosModel) -> list[nn.Parameter]:
    if model.base_model is model:  # its head, if it has one, is beside the body and not around it
        return [] if model.get_output_embeddings() is None else list(model.get_output_embeddings().parameters())
    body = f"{model.base_model_prefix}."
    return [
        parameter
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if not name.startswith(body) and "original_module" not in name and ".lora_" not in name
    ]


_PARTS: dict[str, Callable[[BcosModel], list[nn.Parameter]]] = {
    "all": lambda model: list(model.parameters()),
    "lora": lambda model: _adapters(model, active_only=True),
    "gain": lambda model: [m.gain.weight for m in _gainable(model) if getattr(m, "gain", None) is not None],
    "norms": _norms,
    "head": _head,
}
_NAMES = {
    "all": "parameters",
    "lora": "active LoRA adapter",
    "gain": "B-cos layer that can have a gain",
    "norms": "norms with weights",
    "head": "head of its own",
}
_WAYS = {
    "all": "Load its weights.",
    "lora": "Put one on first: peft.get_peft_model(model, peft.LoraConfig(target_modules='all-linear')).",
    "gain": "Train 'norms' or 'lora'.",
    "norms": "Train 'gain' or 'lora'.",
    "head": "Train another part.",
}
