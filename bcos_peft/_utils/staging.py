"""Saving several files as if they were one: a process may be killed at any moment, and the old or the new are read.

While a folder is saved into, a folder `.saving-…` lies in it. Only there is it sure to be on the same file system,
since the folder may be a mount point, and to be writable. It has

    new/        the files that are to come, until they are in their places
    old/        those that were there
    moves.json  what is moved where; as long as it is missing, nothing was moved

First the old files go, then the new ones come. Gates, files without which nobody reads the others (`config.json`), go
before all others and come after them. So while files are missing, what knows nothing of this reads nothing. If
anything is left in new/, the old files are put back: at once after an error, by `settle` after a process was killed.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from bcos_peft._utils.files import flush, held


_PREFIX, _MOVES, _DRAFT = ".saving-", "moves.json", "moves.draft"


@contextmanager
def staged(
    directory: Path,
    gates: Mapping[str, str | None],
    stale: Callable[[list[str], list[str]], list[str]] = lambda new, present: [],
) -> Iterator[Path]:
    """An empty folder to write files into; at the end they take their places in `directory`, all of them or none.

    Args:
        directory: made if it does not exist.
        gates: names of files without which the others are not read, in the order in which they come back, and what
            stands there in the meantime. One that is present and not written stays as it is.
        stale: given the names of the new and of the present files, as paths from `directory`, which of the present
            ones to remove.
    """
    is_new = not directory.exists()
    directory.mkdir(parents=True, exist_ok=True)
    with held(directory):
        _settle_all(directory)
        workplace = Path(tempfile.mkdtemp(dir=directory, prefix=_PREFIX))
        holding = held(workplace)
        holding.__enter__()
    new = workplace / "new"
    try:
        new.mkdir()
        yield new
        moves = _prepare(workplace, directory, gates, stale)
        with held(directory):
            _refuse_moving(directory, but=workplace)
            (workplace / _DRAFT).rename(workplace / _MOVES)
            flush(workplace)
            _move(workplace, directory, moves)
    except BaseException:
        _undo(workplace, directory)
        shutil.rmtree(workplace, ignore_errors=True)
        if is_new:
            with suppress(OSError):  # somebody else has put something there
                directory.rmdir()
        raise
    finally:
        holding.__exit__(None, None, None)
    shutil.rmtree(workplace, ignore_errors=True)


def settle(path: str | os.PathLike, subfolder: str | None = None) -> bool:
    """Put back the files that a save had moved when its process was killed. To be called before anything is read.

    Args:
        path: what somebody loads from. If it is no folder here, nothing is done.
        subfolder: of it.

    Returns:
        Whether there was something to put back.

    Raises:
        OSError: the files cannot be put back, or another process is moving files there.
    """
    folder = Path(path, subfolder or "")
    if not folder.is_dir():
        return False
    found = [place for place in {folder, folder.parent} if _unfinished(place)]
    for place in found:
        with held(place):
            try:
                _settle_all(place)
            except OSError as error:
                raise OSError(
                    f"A save into {str(place)!r} was interrupted, and its files cannot be put back ({error}). Load it "
                    "where files can be moved, or save it again."
                ) from error
            _refuse_moving(place)
    return bool(found)


def _refuse_moving(directory: Path, but: Path | None = None) -> None:
    if any(workplace != but for workplace in _unfinished(directory)):
        raise OSError(f"Another process is saving into {str(directory)!r}. Wait until that has ended.")


def _unfinished(directory: Path) -> list[Path]:
    """Where files were moved, and not all of the new ones are in their places."""
    found = [moves.parent for moves in directory.glob(f"{_PREFIX}*/{_MOVES}")]
    return [workplace for workplace in found if _files(workplace / "new")]


def _settle_all(directory: Path) -> None:
    """End what processes that are dead have begun in a folder."""
    for workplace in directory.glob(f"{_PREFIX}*"):
        with held(workplace, seconds=0) as dead:
            if dead:
                _undo(workplace, directory)
                shutil.rmtree(workplace, ignore_errors=True)


def _prepare(workplace: Path, directory: Path, gates: Mapping[str, str | None], stale: Callable) -> dict:
    """All that may fail because a disk is full, or a file is in the way, before anything is moved."""
    new, old, closed = (workplace / name for name in ("new", "old", "closed"))
    names = _files(new)
    folders = sorted({Path(name).parent for name in names})
    near = [path for folder in folders if (directory / folder).is_dir() for path in (directory / folder).iterdir()]
    present = [path.relative_to(directory).as_posix() for path in near if not path.is_dir()]
    gone = stale(names, present)
    shut = [(folder / gate).as_posix() for gate in gates for folder in folders]
    for name in shut:
        if name in present and name not in [*names, *gone]:
            shutil.copy2(directory / name, new / name)
            names.append(name)
    moves = {
        "gates": [name for name in shut if name in names],
        "others": sorted({*names, *gone} - set(shut)),
        "present": sorted({*names, *gone}.intersection(present)),
        "folders": [str(folder) for folder in folders if not (directory / folder).exists()],
    }
    for name in [*names, *gone]:
        if (directory / name).is_dir():
            raise IsADirectoryError(
                f"{str(directory / name)!r} is a directory, where a file of that name is to be written."
            )
        (old / name).parent.mkdir(parents=True, exist_ok=True)
    for name in moves["gates"]:
        if name in present:
            shutil.copy2(directory / name, old / name)
        if (text := gates[Path(name).name]) is not None:
            (closed / name).parent.mkdir(parents=True, exist_ok=True)
            (closed / name).write_text(text, encoding="utf-8")
    (workplace / _DRAFT).write_text(json.dumps(moves), encoding="utf-8")
    for path in [*workplace.rglob("*"), workplace, directory]:
        flush(path)
    return moves


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def _move(workplace: Path, directory: Path, moves: dict) -> None:
    new, old, closed = (workplace / name for name in ("new", "old", "closed"))
    folders = [directory, *(directory / name for name in moves["folders"])]
    for folder in folders:
        folder.mkdir(exist_ok=True, parents=True)
    for name in reversed(moves["gates"]):
        if (closed / name).exists():
            os.replace(closed / name, directory / name)
        else:
            (directory / name).unlink(missing_ok=True)
    for folder in folders:
        flush(folder)
    for name in moves["others"]:
        if name in moves["present"]:
            os.replace(directory / name, old / name)
    for name in moves["others"]:
        if (new / name).exists():
            os.replace(new / name, directory / name)
    for folder in folders:
        flush(folder)
    for name in moves["gates"]:
        os.replace(new / name, directory / name)
    for folder in folders:
        flush(folder)


def _undo(workplace: Path, directory: Path) -> None:
    """Put the old files back, if any were moved and not all new ones are in their places. May be repeated."""
    new, old = workplace / "new", workplace / "old"
    if not (workplace / _MOVES).exists():
        return
    moves = json.loads((workplace / _MOVES).read_text(encoding="utf-8"))
    if _files(new):
        for name in moves["gates"][:-1]:  # the last is not in its place
            if (old / name).exists() or name not in moves["present"]:
                (directory / name).unlink(missing_ok=True)
        for name in [*moves["others"], *moves["gates"]]:
            if (old / name).exists():
                os.replace(old / name, directory / name)
            elif name not in moves["present"]:
                (directory / name).unlink(missing_ok=True)
        for name in reversed(moves["folders"]):
            with suppress(OSError):
                (directory / name).rmdir()
    (workplace / _MOVES).unlink()
