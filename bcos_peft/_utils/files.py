"""Writing files whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


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
    target = check_target(path)
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


@contextmanager
def staged(directory: Path, stale: Callable[[list[str], list[str]], list[str]]) -> Iterator[Path]:
    """An empty folder to write files into; at the end they take their places in `directory`, all of them or none.

    The folder lies inside `directory`: only there is it sure to be on the same file system, since the directory may be
    a mount point, and to be writable.

    Args:
        directory: made if it does not exist.
        stale: given the names of the new and of the present files, which of the present ones to remove.
    """
    is_new = not directory.exists()
    directory.mkdir(parents=True, exist_ok=True)
    workplace = Path(tempfile.mkdtemp(dir=directory, prefix=".saving-"))
    try:
        new, old = workplace / "new", workplace / "old"
        new.mkdir()
        old.mkdir()
        yield new
        present = [path.name for path in directory.iterdir() if path != workplace]
        names = sorted((path.name for path in new.iterdir()), key=lambda name: (name == "config.json", name))
        _take_places(new, old, directory, names, stale(names, present))
    except BaseException:
        shutil.rmtree(workplace, ignore_errors=True)
        if is_new:
            directory.rmdir()
        raise
    shutil.rmtree(workplace, ignore_errors=True)


def _take_places(new: Path, old: Path, directory: Path, names: list[str], stale: list[str]) -> None:
    done = []
    try:
        for name in [*names, *stale]:
            target = directory / name
            if target.is_dir():
                raise IsADirectoryError(f"{str(target)!r} is a directory, where a file of that name is to be written.")
            if target.exists():
                _keep(target, old / name)
            done.append(name)
            if name in stale:
                target.unlink(missing_ok=True)
            else:
                os.replace(new / name, target)
    except BaseException:
        for name in done:
            if (old / name).exists():
                os.replace(old / name, directory / name)
            else:
                (directory / name).unlink(missing_ok=True)
        raise


def _keep(file: Path, place: Path) -> None:
    try:
        os.link(file, place)  # so that readers find the file at every moment
    except OSError:  # not on every file system
        os.replace(file, place)
