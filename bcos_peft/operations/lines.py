"""Where in a model's code an operation was called."""

from __future__ import annotations

import traceback


# Frames that are not the model's own.
_OURS = ("/torch/", "/bcos_peft/operations/", "/bcos_peft/attribution/", "/bcos_peft/discovery/")


def _calling_line() -> str:
    """Where in a model's code the operation at hand was called, as `file:line in function`."""
    frames = [frame for frame in traceback.extract_stack() if not any(part in frame.filename for part in _OURS)]
    own = (one for one in reversed(frames) if "/modeling_" in one.filename or "/transformers/" not in one.filename)
    frame = next(own, frames[-1])
    return f"{frame.filename.rpartition('/')[2]}:{frame.lineno} in {frame.name}"
