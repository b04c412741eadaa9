"""Writing files whole or not at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a file through a neighbour that then takes its place, so a failure leaves the old file as it was."""
    target = Path(os.path.realpath(path))
    data = text.encode("utf-8")
    neighbour = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
    try:
        with open(neighbour, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(neighbour, target)
    except BaseException:
        neighbour.unlink(missing_ok=True)
        raise
