"""Arguments and options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer


_BcosName = Annotated[str, typer.Argument(help="A B-cos model: a directory, or a model of the hub.")]
_Device = Annotated[str, typer.Option(help="Such as cuda.")]
_Foil = Annotated[str | None, typer.Option(help="Explain the target against this label or number.")]
_Revision = Annotated[str | None, typer.Option(help="A branch, tag or commit of the hub.")]
_Truncation = Annotated[bool, typer.Option("--truncation", help="Cut texts that are too long.")]
