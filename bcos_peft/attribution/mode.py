"""`explanation_mode`: the one switch between a B-cos model that predicts and one that is linear in its input."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from threading import Lock, RLock, get_ident
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from bcos_peft._utils.accelerate_hooks import is_patched, set_wrappers_aside
from bcos_peft.attribution.kernels import _refuse_fused_scans, _torch_attention
from bcos_peft.attribution.linear_map import _constant_parameters
from bcos_peft.models import BcosModel, check_modules, find_model
from bcos_peft.nn import DynamicLinear, few_rows
from bcos_peft.operations import LinearMode, opened_functions


# Beside the models, which are copied and pickled; locks cannot be.
_TURNS: WeakKeyDictionary[nn.Module, RLock] = WeakKeyDictionary()
_TURNS_LOCK = Lock()


@contextmanager
def explanation_mode(model: nn.Module) -> Iterator[nn.Module]:
    """Make a model linear in its input for the time of a `with` block.

    Inside, everything that depends on the input is held constant but the input itself: the cosine factors, attention
    weights, the statistics of norms, the slopes of activations. The product of a gated MLP is shared between its two
    factors, or its gate held, as `BcosConfig.gates` says. The outputs are those of the model in evaluation mode;
    gradients are not those of training but the rows of `W(x)`, so that gradient × input sums to the logit (of a stock
    model less what its biases give). Parameters get no gradient.

    What is held is seen operation by operation, in the forward passes of the model and of this thread. The model is in
    evaluation mode meanwhile; compiled code and fused attention are set aside. Blocks may be nested; leaving the
    outermost one, by an exception too, restores each module as it was. The mode is the model's, so threads that
    explain the same model take turns.

    Args:
        model (`torch.nn.Module`): a transformers model, or a wrapper around one (peft, `torch.compile`, data
            parallel).

    Yields:
        `torch.nn.Module`: the same model.

    Raises:
        TypeError: if `model` is not a module.
        ValueError: if there is no transformers model in it, something has replaced the forward of one of its modules,
            or a module is not what the config says.
        UnknownOperation: in a forward pass, for an operation that has no rule and is not linear.

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

    Source: B-cos LM (arXiv 2502.12992), section 3; the rules in docs/concepts/any_model.md.
    """
    inner = find_model(model)
    with _turn(inner):
        if "_linear_mode" in inner.__dict__:
            yield model
            return
        with _switched(model, inner):
            yield model


def _turn(model: nn.Module) -> RLock:
    with _TURNS_LOCK:
        return _TURNS.setdefault(model, RLock())


@contextmanager
def _switched(model: nn.Module, inner: nn.Module) -> Iterator[None]:
    modules, named = list(model.modules()), list(inner.named_modules())
    _refuse_patched(named)
    _refuse_flattened(modules)
    _refuse_fused_scans(named)
    hold_gates = False
    if isinstance(inner, BcosModel):
        check_modules(inner)
        hold_gates = inner.bcos_config.gates == "hold"
    with ExitStack() as stack:
        stack.callback(_set_training, [(module, module.training) for module in modules])
        stack.callback(set_wrappers_aside(model))
        _set_training([(module, False) for module in modules])
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        linear = [m for _, m in named if isinstance(m, DynamicLinear) and not m.explaining]
        stack.callback(_explain, linear, False)
        _explain(linear, True)
        stack.enter_context(_constant_parameters(model))
        head = inner.get_output_embeddings()
        if type(head) is nn.Linear:  # neither quantised nor a B-cos layer
            stack.callback(head.register_forward_hook(_read_few_rows).remove)
        stack.enter_context(_torch_attention(inner))
        stack.enter_context(opened_functions(inner))
        mode = LinearMode(hold_gates=hold_gates)
        stack.callback(inner.__dict__.pop, "_linear_mode")
        inner.__dict__["_linear_mode"] = mode
        for module in _entered(inner):
            stack.callback(_read_linearly(inner, module))
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


def _read_linearly(model: nn.Module, module: nn.Module) -> Callable[[], None]:
    """Let a module's forward run in the model's mode, in this thread; returns what puts it back."""
    forward, thread = module.forward, get_ident()
    own = module.__dict__.get("forward")

    @wraps(forward)
    def read(*args, **kwargs):
        # Another thread only predicts; and of a forward inside a forward the outer one has entered the mode.
        if get_ident() != thread or model.__dict__.get("_reading", False):
            return forward(*args, **kwargs)
        with reading(model):
            return forward(*args, **kwargs)

    module.__dict__["forward"] = read

    def restore() -> None:
        if own is None:
            module.__dict__.pop("forward", None)
        else:
            module.__dict__["forward"] = own

    return restore


@contextmanager
def reading(model: nn.Module) -> Iterator[None]:
    """Read everything inside as the forward passes of a model are read, in its `explanation_mode`: what comes after
    the model, too, such as pooling.

    Args:
        model (`torch.nn.Module`): a transformers model that is in its explanation mode.

    Example:
        >>> import torch
        >>> from transformers import BertConfig, BertModel
        >>> from bcos_peft import explanation_mode
        >>> from bcos_peft.attribution import reading
        >>> small = BertConfig(num_hidden_layers=1, hidden_size=16, num_attention_heads=2, intermediate_size=32)
        >>> model, x = BertModel(small), torch.tensor([1.0, 2.0], requires_grad=True)
        >>> with explanation_mode(model), reading(model):
        ...     y = (x / x.norm()).sum()
        >>> torch.autograd.grad(y, x)[0] @ x.detach() == y.detach()  # the length is held
        tensor(True)
    """
    model.__dict__["_reading"] = True
    try:
        with model.__dict__["_linear_mode"]:
            yield
    finally:
        del model.__dict__["_reading"]


def _entered(model: nn.Module) -> list[nn.Module]:
    """The modules of a model that are called from outside: itself, its body, an encoder and a decoder."""
    found = [model, model.base_model, model.get_encoder(), model.get_decoder()]
    return list({id(module): module for module in found if isinstance(module, nn.Module)}.values())
