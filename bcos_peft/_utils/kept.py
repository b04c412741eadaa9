"""Keeping an explanation: as plain values, and as a JSON file. Pure data."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bcos_peft._utils.files import write_text


if TYPE_CHECKING:
    from typing_extensions import Self


class Kept(ABC):
    """What can be written down and read again: an [`Explanation`], an explained generation.

    A class that derives from it has `_format` and `_version`, which every file names, `_name`, by which messages call
    it, `_indent` of the JSON, and `_plain`, which gives its fields as plain values.

    Example:

    ```python

    >>> class Point(Kept):
    ...     _format, _version, _name, _indent = "example.point", 1, "point", None
    ...     def __init__(self, x):
    ...         self.x = x
    ...     def _plain(self):
    ...         return {"x": self.x}
    >>> Point(2).to_dict()
    {'format': 'example.point', 'version': 1, 'x': 2}
    >>> Point.from_dict({"format": "example.point", "version": 1, "x": 2}) == Point(2)
    True

    ```
    """

    _format: str
    _version: int
    _name: str
    _indent: int | None

    @abstractmethod
    def _plain(self) -> dict[str, Any]:
        """The fields as plain values, which `from_dict` passes on to the class."""

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain Python values, ready for `json.dumps`; `from_dict` reverses it exactly."""
        return {"format": self._format, "version": self._version, **self._plain()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Makes it anew from what `to_dict` gave.

        Args:
            values (`Mapping[str, Any]`): The dictionary.

        Raises:
            ValueError: If it is the dictionary of something else, comes from a newer version, or does not hold.
        """
        if not isinstance(values, Mapping) or values.get("format") != cls._format:
            raise ValueError(f"this is not an {cls._name}: it has no 'format': {cls._format!r} entry.")
        if values.get("version") != cls._version:
            raise ValueError(f"unknown version {values.get('version')!r} (known: {cls._version}); upgrade bcos_peft.")
        try:
            return cls(**{name: value for name, value in values.items() if name not in ("format", "version")})
        except (TypeError, IndexError, KeyError, AttributeError) as error:
            raise ValueError(f"the explanation is incomplete or damaged: {error}") from error

    def save(self, path: str | os.PathLike) -> None:
        """Writes it as JSON. The file changes whole or not at all.

        Args:
            path (`str` or `os.PathLike`): Where to; an existing file is replaced.
        """
        write_text(path, json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False, indent=self._indent) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike) -> Self:
        """Reads what `save` wrote.

        Args:
            path (`str` or `os.PathLike`): The file.

        Raises:
            ValueError: If the file is not JSON, or of something else; the message names the file.
        """
        try:
            return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
        except ValueError as error:  # also JSONDecodeError and UnicodeDecodeError
            raise ValueError(f"cannot load an {cls._name} from {os.fspath(path)!r}: {error}") from error

    def __eq__(self, other: object) -> bool:
        return self.to_dict() == other.to_dict() if isinstance(other, type(self)) else NotImplemented

    __hash__ = None
