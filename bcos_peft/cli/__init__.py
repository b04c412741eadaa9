"""The command `bcos-peft`."""

from bcos_peft.cli.main import app


__all__ = ["app"]
