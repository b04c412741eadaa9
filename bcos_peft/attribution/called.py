"""What is called in the place of the module that users pass, which may be a wrapper with inputs of its own."""

from __future__ import annotations

from torch import nn

from bcos_peft.models import find_model


def called_part(model: nn.Module) -> nn.Module:
    """What to call in the place of `model`, with the inputs of a transformers model, while it is explained.

    Args:
        model (`torch.nn.Module`): a converted model, or a wrapper around one.

    Returns:
        `torch.nn.Module`: `model`, or what is inside: of data parallelism, of a `CrossEncoder`.

    Raises:
        ValueError: `model` takes other inputs, and computes more than the converted model in it.

    Example:
        >>> from torch import nn
        >>> from bcos_peft.attribution import called_part
        >>> layer = nn.Linear(2, 2)
        >>> called_part(layer) is layer
        True
    """
    if isinstance(model, nn.DataParallel):  # it would scatter the batch over copies, out of reach of hooks
        return called_part(model.module)
    if not any(cls.__module__.startswith("sentence_transformers.") for cls in type(model).__mro__):
        return model
    inner = find_model(model)
    # A cross-encoder of one part gives that part's logits, through an activation that no logit needs.
    if len(model) == 1 and type(inner).__name__.endswith("ForSequenceClassification"):
        return inner
    parts = " and ".join(type(part).__name__ for part in model)
    raise ValueError(
        f"A {type(model).__name__} of {parts} around a {type(inner).__name__} gives other outputs than the logits of "
        "the converted model in it. Convert and explain the transformers model itself, such as "
        "CrossEncoder(...).model."
    )
