"""What the commands write: JSON."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import typer

from bcos_peft._utils.files import write_text


def _write_json(file: str | os.PathLike, content: Any) -> None:
    """Into a file; `"-"` is standard output."""
    from bcos_peft.explanation.views import encodable

    text = json.dumps(content, ensure_ascii=False, indent=1)
    if file != "-":
        write_text(file, text + "\n")
    elif encodable(sys.stdout.encoding or "utf-8", text):
        typer.echo(text)
    else:  # JSON can do without the characters that a console does not have
        typer.echo(json.dumps(content, indent=1))
