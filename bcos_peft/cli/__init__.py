"""The command `bcos-peft`."""

from bcos_peft.cli.app import app


__all__ = ["app"]
