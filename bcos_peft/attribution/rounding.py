"""What rounding may leave of a residual, and the warning that there is more."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from bcos_peft.nn import precision_of


_FAR = 10  # times what a model is allowed when it is converted


class ResidualWarning(UserWarning):
    """The contributions miss the logit by far more than rounding: they are not exact.

    Example:
        >>> import warnings
        >>> from bcos_peft.attribution import ResidualWarning
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("error", ResidualWarning)  # what is explained here is exact, or an error
    """


def _tolerance(dtype: torch.dtype) -> float:
    """What rounding may leave of a relative residual in a precision."""
    return {torch.float64: 1e-10, torch.float32: 1e-4}.get(dtype, 5e-2)


def _warn_of_residual(model: nn.Module, scores: Tensor, logit: Tensor, residual: Tensor) -> None:
    """Warn of a residual far beyond rounding.

    Args:
        model: what was explained.
        scores: `(..., sequence)`.
        logit: `(...)`.
        residual: `(...)`.
    """
    scale = (scores.abs().sum(-1) + logit.abs()).clamp_min(torch.finfo(scores.dtype).tiny)
    share = float((residual.abs() / scale).max())
    limit = _FAR * max(map(_tolerance, _precisions(model, scores.device.type)))
    if share > limit:  # not so for what is not a number, which anybody sees
        warnings.warn(
            f"The contributions miss the logit by up to {share:.2g} of their sum, far more than rounding: "
            "they are not exact. Something in the model is not linear in its input, such as a layer or an adapter "
            "that was put into it after the conversion. See 'Troubleshooting' in the docs.",
            ResidualWarning,
            stacklevel=5,
        )


def _precisions(model: nn.Module, device: str) -> set[torch.dtype]:
    """Those that a model computes in, and float32, which its adapters may; quantised weights count as half."""
    found = {parameter.dtype for parameter in model.parameters()} | {torch.float32, precision_of(model)}
    if torch.is_autocast_enabled(device):
        found.add(torch.get_autocast_dtype(device))
    return found
