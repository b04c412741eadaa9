"""The processes that share an evaluation, as `accelerate launch` and `torchrun` start them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeVar

from torch import distributed


__all__ = ["Processes", "launched"]

T = TypeVar("T")


def launched() -> bool:
    """Whether `accelerate launch` or `torchrun` has started this process as one of several.

    Example:
        >>> from bcos_peft._utils.processes import launched
        >>> launched()
        False
    """
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


class Processes:
    """This process among those that share the work.

    Args:
        share (`bool`): share the work with the other processes of a launch; otherwise this one does all of it.

    Attributes:
        index (`int`): number of this process; the first, 0, writes files.
        count (`int`): how many there are.

    Raises:
        ImportError: there are several, and accelerate, which lets them find each other, is not installed.

    Example:
        >>> from bcos_peft._utils.processes import Processes
        >>> alone = Processes(share=False)
        >>> alone.mine([1, 2, 3]), alone.gather("a")
        ([1, 2, 3], ['a'])

    As a context it ends the process group that it has begun, unless there is an exception, after which other processes
    may still be waiting in it.
    """

    def __init__(self, share: bool):
        self._began = False
        together = distributed.is_available() and distributed.is_initialized()
        if share and not together and launched():
            try:
                from accelerate import PartialState
            except ImportError:
                raise ImportError("distributed=True needs accelerate: pip install accelerate.") from None
            PartialState()
            together = self._began = True
        share = share and together
        self.index = distributed.get_rank() if share else 0
        self.count = distributed.get_world_size() if share else 1

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, kind, *_) -> None:
        # A thread of gloo that still frees what it has sent when Python ends would abort the process.
        if self._began and kind is None:
            distributed.destroy_process_group()
            self._began = False

    def mine(self, items: Sequence[T]) -> list[T]:
        """This process's share of some items: every so-many-th, since long ones often stand together."""
        return list(items[self.index :: self.count])

    def gather(self, value: T) -> list[T]:
        """The value that each process has, in all of them. Every process has to call it."""
        if self.count == 1:
            return [value]
        found: list = [None] * self.count
        distributed.all_gather_object(found, value)
        return found
