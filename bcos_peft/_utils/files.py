"""Writing a file whole or not at all, and keeping others from what is being written."""

from __future__ import annotations

import glob
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None


def check_target(path: str | os.PathLike) -> Path:
    """Where a file is to be written, through links. Refuses what cannot be, before there is something to write."""
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(f"Cannot write {os.fspath(path)!r}: there is no folder {str(target.parent)!r}.")
    if target.is_dir():
        raise IsADirectoryError(f"Cannot write {os.fspath(path)!r}: it is a folder; name a file in it.")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise PermissionError(f"Cannot write {os.fspath(path)!r}: no file can be made in {str(target.parent)!r}.")
    return target


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a file through a neighbour that then takes its place, so a failure leaves the old file as it was."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """`write_text` for what is no text. What a process that was killed has left beside the file is removed."""
    target = check_target(path)
    neighbour = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
    try:
        with open(neighbour, "xb") as file, held(neighbour):
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            if os.name == "posix":  # others let it be as long as it is held; elsewhere open files cannot be moved
                os.replace(neighbour, target)
        if os.name != "posix":
            os.replace(neighbour, target)
    except BaseException:
        neighbour.unlink(missing_ok=True)
        raise
    for left in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
        with held(left, seconds=0) as dead:
            if dead:
                left.unlink(missing_ok=True)


@contextmanager
def held(path: Path, seconds: float = 5.0) -> Iterator[bool]:
    """Keep others who ask from a file or folder. The system ends it with the process, however that ends.

    Args:
        path: of what is there.
        seconds: how long to wait for one who has it.

    Yields:
        `False` if another still has it. `True` also where the system or the file system has no such locks.
    """
    descriptor = _opened(path)
    try:
        yield descriptor is None or _lock(descriptor, time.monotonic() + seconds)
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _opened(path: Path) -> int | None:
    with suppress(OSError):
        return None if fcntl is None else os.open(path, os.O_RDONLY)
    return None


def _lock(descriptor: int, end: float) -> bool:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
        except OSError:
            return True
        else:
            return True


def flush(path: Path) -> None:
    """Have what was written to a file, or the names in a folder, reach the disk before what comes after."""
    folder = path.is_dir()
    try:
        descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError:
        if not folder:  # which cannot be opened everywhere
            raise
