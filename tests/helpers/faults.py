"""What can happen to a process while it saves: it is killed at any step, a disk is full, or nothing can be changed.

A save runs in a fork of this process, in which every step that changes files under a folder is counted: opening for
writing, writing through Python, fsync, renaming, removing, making folders. Libraries that write by themselves are
killed within a file by the system's limit of its size.
"""

import builtins
import errno
import io
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path


WRITING = {"open", "write", "os.mkdir", "fsync"}  # what needs room; names are moved and removed without
_CHANGING = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate"}
FAILED = 3  # exit code of a save that raised OSError


class Steps:
    """Counts steps from now on, in this process; at the n-th, and perhaps from then on, something happens."""

    def __init__(self, root: Path, at: int = 0, fault: str = "kill"):
        self.root, self.at, self.fault, self.count = str(root), at, fault, 0
        sys.addaudithook(self._heard)
        self._open, self._fsync = io.open, os.fsync
        builtins.open = io.open = self._opened
        os.fsync = self._synced

    def step(self, kind: str, half: Callable[[], None] = lambda: None) -> None:
        self.count += 1
        if not self.at or self.count < self.at:
            return
        if self.fault == "kill":
            half()
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.fault == "full" and kind in WRITING:
            half()
            raise OSError(errno.ENOSPC, "No space left on device")
        elif self.fault == "error" and self.count == self.at:
            raise OSError(errno.EIO, "Input/output error")
        elif self.fault == "read-only":
            raise OSError(errno.EROFS, "Read-only file system")

    def _heard(self, event: str, args: tuple) -> None:
        if event == "open":
            path, mode, flags = args
            if self._ours(path) and (_writes(mode) if mode else flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
                self.step("open")
        elif event in _CHANGING and (self._ours(args[0]) or isinstance(args[-1], int) and args[-1] >= 0):
            self.step(event)  # or within an open folder, as shutil.rmtree removes

    def _ours(self, path) -> bool:
        return isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(self.root)

    def _opened(self, file, mode="r", *args, **kwargs):
        found = self._open(file, mode, *args, **kwargs)
        return _Written(found, self) if self._ours(file) and _writes(mode) else found

    def _synced(self, descriptor: int) -> None:
        self.step("fsync")
        self._fsync(descriptor)


class _Written:
    """A file of which every write is a step, with half of it done when something happens."""

    def __init__(self, file, steps: Steps):
        self._file, self._steps = file, steps

    def write(self, data):
        def half():
            self._file.write(data[: len(data) // 2])
            self._file.flush()

        self._steps.step("write", half)
        return self._file.write(data)

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()


def _writes(mode: str) -> bool:
    return any(letter in mode for letter in "wax+")


def count_steps(root: Path, save: Callable[[], None]) -> int:
    """How many steps a save has, run in a fork."""
    reading, writing = os.pipe()

    def counted():
        steps = Steps(root)
        save()
        os.write(writing, str(steps.count).encode())

    assert _forked(counted) == 0
    os.close(writing)
    with os.fdopen(reading) as said:
        return int(said.read())


def save_with(root: Path, save: Callable[[], None], at: int, fault: str) -> int:
    """Save in a fork, with a fault at a step. Gives its exit code: 0, `FAILED`, or less than 0 if it was killed."""

    def faulty():
        Steps(root, at, fault)
        save()

    return _forked(faulty)


def save_within(size: int, save: Callable[[], None], killed: bool) -> int:
    """Save in a fork that may write no file of more than so many bytes: it is killed there, or the write fails."""

    def limited():
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL if killed else signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        save()

    return _forked(limited)


def _forked(run: Callable[[], None]) -> int:
    child = os.fork()
    if not child:
        code = 1
        try:
            run()
            code = 0
        except BaseException as error:
            # Libraries wrap what the system says.
            code = FAILED if isinstance(error, OSError) or "os error" in str(error) else 1
            if code == 1:
                traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
