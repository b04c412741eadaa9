"""`explanation_mode`: the one switch between a B-cos model that predicts and one that is linear in its input."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Lock, RLock
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from bcos_peft._utils.accelerate_hooks import is_patched, set_wrappers_aside
from bcos_peft._utils.patterns import matches_pattern
from bcos_peft.families import hold, share
from bcos_peft.models import check_modules, find_bcos_model, is_activation
from bcos_peft.nn import DynamicLinear, few_rows, hold_ratio


# Beside the models, which are copied and pickled; locks cannot be.
_TURNS: WeakKeyDictionary[nn.Module, RLock] = WeakKeyDictionary()
_TURNS_LOCK = Lock()


@contextmanager
def explanation_mode(model: nn.Module) -> Iterator[nn.Module]:
    """Make a converted model linear in its input for the time of a `with` block.

    Inside, everything that depends on the input is held constant but the input itself: the cosine factors, attention
    weights, the statistics of norms, the slopes of activations. The product of a gated MLP is shared between its two
    factors, or its gate held, as `BcosConfig.gates` says. The outputs are those of the model in
    evaluation mode; gradients are not those of training but the rows of `W(x)`, so that gradient × input sums to
    the logit. The model is in evaluation mode meanwhile, and compiled code is set aside.

    It works with every attention implementation, because it holds the outputs of the query and key projections and
    leaves the attention itself alone. Blocks may be nested; leaving the outermost one, by an exception too,
    restores each module as it was. The mode is the model's, so threads that explain the same model take turns.

    Args:
        model (`torch.nn.Module`): a converted model, or a wrapper around one (peft, `torch.compile`, data parallel).

    Yields:
        `torch.nn.Module`: the same model.

    Raises:
        TypeError: if `model` is not a module.
        ValueError: if there is no converted model in it, something has replaced the forward of one of its modules, or
            a module is not what the config says.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> from bcos_peft import BcosConfig, explanation_mode, get_bcos_model
        >>> tiny = BertConfig(num_hidden_layers=1, hidden_size=16, num_attention_heads=2, intermediate_size=32)
        >>> stock = BertForSequenceClassification(tiny)
        >>> model = get_bcos_model(stock, BcosConfig())
        >>> with explanation_mode(model):
        ...     model.classifier.explaining
        True
        >>> model.classifier.explaining
        False

    Source: B-cos LM (arXiv 2502.12992), section 3; DESIGN of this package in docs/concepts/maths.md.
    """
    bcos_model = find_bcos_model(model)
    with _turn(bcos_model):
        if bcos_model.__dict__.get("_explaining", False):
            yield model
            return
        with _switched(model, bcos_model):
            yield model


def _turn(model: nn.Module) -> RLock:
    with _TURNS_LOCK:
        return _TURNS.setdefault(model, RLock())


@contextmanager
def _switched(model: nn.Module, bcos_model: nn.Module) -> Iterator[None]:
    modules, named = list(model.modules()), list(bcos_model.named_modules())
    _refuse_patched(named)
    _refuse_flattened(modules)
    check_modules(bcos_model)
    with ExitStack() as stack:
        stack.callback(_set_training, [(module, module.training) for module in modules])
        stack.callback(set_wrappers_aside(model))
        _set_training([(module, False) for module in modules])
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        linear = [m for _, m in named if isinstance(m, DynamicLinear) and not m.explaining]
        stack.callback(_explain, linear, False)
        _explain(linear, True)
        for handle in _hold(bcos_model, named):
            stack.callback(handle.remove)
        stack.callback(bcos_model.__dict__.pop, "_explaining")
        bcos_model.__dict__["_explaining"] = True
        yield


def _refuse_patched(named: list[tuple[str, nn.Module]]) -> None:
    for name, module in named:
        if type(module).__name__ == "OptimizedModule":
            raise ValueError(
                f"Cannot explain: torch.compile has been put around module {name!r}, and what it compiled cannot be "
                "set aside. Compile the whole model, torch.compile(model), or that module in place: "
                f"model.{name}.compile()."
            )
        if name and is_patched(module):  # trainers wrap that of the model itself, around the same computation
            raise ValueError(
                f"Cannot explain: something has replaced the forward of module {name!r} ({type(module).__name__}), as "
                "Liger and other kernel libraries do, and what it computes now need not be linear in its input. The "
                "weights are good: save the model, and load it again without kernels."
            )


def _refuse_flattened(modules: list[nn.Module]) -> None:
    if any(type(module).__name__ == "FullyShardedDataParallel" for module in modules):
        raise ValueError(
            "Cannot explain a model inside FullyShardedDataParallel (version 1 of FSDP): torch gives no gradients of "
            "its activations. Save the model and load it in one process, or train with version 2 "
            "(TrainingArguments(fsdp_config={'version': 2})), which can be explained as it is, by all processes "
            "together."
        )


def _set_training(modes: list[tuple[nn.Module, bool]]) -> None:
    for module, training in modes:
        if module.training != training:  # setting it takes ten times as long as looking
            module.training = training


def _explain(modules: list[DynamicLinear], explaining: bool) -> None:
    for module in modules:
        module.explaining = explaining


def _read_few_rows(head: nn.Linear, args: tuple[Tensor], output: Tensor) -> Tensor:
    weight = head.weight
    here = type(weight) is nn.Parameter and weight.device == output.device  # neither sharded nor offloaded
    return few_rows(args[0], output, weight) if here and not weight.requires_grad else output


def _hold(model, named: list[tuple[str, nn.Module]]) -> Iterator[torch.utils.hooks.RemovableHandle]:
    """Hooks on the modules without parameters of their own, on projections that stay plain, and on gated MLPs."""
    family, split = model.bcos_family, model.bcos_config.gates == "split"
    head = model.get_output_embeddings()
    if type(head) is nn.Linear:  # neither quantised nor a B-cos layer
        yield head.register_forward_hook(_read_few_rows)
    for path, module in named:
        name = model.bcos_name(path)
        rule = next((rule for key, rule in family.held.items() if matches_pattern(key, name)), None)
        if path.endswith(".base_layer"):
            # It is what comes out of the adapter around it that is held: an adapter may mix a part that is held with
            # one that is not.
            rule = None
        gate = next((act for key, act in family.gates.items() if matches_pattern(key, name)), None)
        if family.is_gate(name) and not (split and is_activation(module)):
            rule = hold
        if rule is not None:
            yield module.register_forward_hook(lambda m, args, output, rule=rule: rule(model.config, output))
        elif is_activation(module):
            yield module.register_forward_hook(lambda m, args, output: hold_ratio(args[0], output))
        elif split and gate in module._modules and is_activation(module._modules[gate]):
            yield module.register_forward_hook(lambda m, args, output: share(output))
