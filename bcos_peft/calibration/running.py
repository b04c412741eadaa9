"""Running a model, or a block of it, and looking: what modules read and give, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call
from transformers import PretrainedConfig, PreTrainedModel


__all__ = []


_Call = tuple[tuple, dict[str, Any]]


def _modes(model: nn.Module) -> Callable[[], None]:
    """A function that puts all modules, by name, back into training or evaluation mode as they are now."""
    training = {name: module.training for name, module in model.named_modules()}

    def restore() -> None:
        for name, module in model.named_modules():
            module.training = training.get(name, module.training)  # a gain may be new

    return restore


@contextmanager
def _without_cache(config: PretrainedConfig) -> Iterator[None]:
    """A block that is run again is not to find what it kept the first time."""
    kept = vars(config).get("use_cache")
    if kept is None:
        yield
        return
    config.use_cache = False
    try:
        yield
    finally:
        config.use_cache = kept


class _Capture:
    """While it is entered, keeps what modules give and read.

    Args:
        outputs (`dict[str, torch.nn.Module]`): modules whose outputs are kept, by name, of their first call.
        inputs (`set[torch.nn.Module]`): modules whose first argument is kept.

    Example:
        >>> import torch
        >>> first, second = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
        >>> x = torch.ones(1, 2)
        >>> with _Capture(outputs={"first": first, "second": second}) as capture:
        ...     _ = first(x) + second(x)
        >>> capture.groups()
        [['first', 'second']]
    """

    def __init__(self, outputs: dict[str, nn.Module], inputs: set[nn.Module] = frozenset()):
        self._modules, self._read = outputs, inputs
        self.outputs: dict[str, Tensor] = {}
        self.inputs: dict[nn.Module, Tensor] = {}
        self.calls: dict[str, int] = {}
        self._order: list[tuple[str, Tensor]] = []

    def __enter__(self):
        self._hooks = [m.register_forward_hook(self._keep_output(name)) for name, m in self._modules.items()]
        self._hooks += [module.register_forward_pre_hook(self._keep_input) for module in self._read]
        return self

    def __exit__(self, *_):
        for hook in self._hooks:
            hook.remove()

    def _keep_output(self, name: str) -> Callable:
        def hook(module, args, output):
            self.calls[name] = self.calls.get(name, 0) + 1
            if self.calls[name] == 1:
                self.outputs[name] = output
                self._order.append((name, args[0]))

        return hook

    def _keep_input(self, module, args):
        self.inputs.setdefault(module, args[0])

    def groups(self) -> list[list[str]]:
        """Names of the modules in the order of their calls; those that read the same tensor together."""
        groups: list[tuple[Tensor, list[str]]] = []
        for name, x in self._order:
            known = next((members for tensor, members in groups if tensor is x), None)
            if known is None:
                groups.append((x, [name]))
            else:
                known.append(name)
        return [members for _, members in groups]


def _take_hidden(args: tuple, kwargs: dict[str, Any]) -> tuple[Tensor, tuple, dict[str, Any]]:
    if args:
        return args[0], args[1:], kwargs
    rest = dict(kwargs)
    return rest.pop("hidden_states"), (), rest


def _hidden(output) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def _run_block(
    block: nn.Module, args: tuple, kwargs: dict[str, Any], weights: dict[str, Tensor] | None = None
) -> Tensor:
    """The hidden states that a block gives; with other `weights` by name, if given."""
    return _hidden(block(*args, **kwargs) if weights is None else functional_call(block, weights, args, kwargs))


class _Arrived(Exception):
    pass


def _wait_for(
    run: Callable, module: nn.Module, needed: set[nn.Module], args: tuple, kwargs: dict[str, Any]
) -> tuple[Tensor, dict[nn.Module, Tensor]]:
    """Run until `module` is called. Its input, and those of the modules `needed`, which come no later."""
    arrived: list[Tensor] = []

    def stop(_, args, kwargs):
        arrived.append(_take_hidden(args, kwargs)[0])
        raise _Arrived

    with _Capture({}, needed) as capture:
        hook = module.register_forward_pre_hook(stop, with_kwargs=True)
        try:
            run(*args, **kwargs)
        except _Arrived:
            pass
        finally:
            hook.remove()
    return arrived[0], capture.inputs


def _is_language_model(model: PreTrainedModel) -> bool:
    """Whether the model predicts the next token."""
    return type(model).__name__.endswith(("ForCausalLM", "LMHeadModel"))
