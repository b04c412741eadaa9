"""Starting scripts, on one or several processes, as a user does from a shell.

Most of their time would go into importing torch, transformers and what they bring. So they start in copies of a
process that has imported it: see copies.py.
"""

import functools
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from helpers.paths import TESTS


# Large packages, which do nothing else when they are imported.
LARGE = ("torch", "torch._dynamo", "pandas", "sklearn.metrics")
# For scripts that may find these imported, in an environment like that of the tests: they read it when imported.
HUGGING_FACE = (*LARGE, "transformers.trainer", "datasets", "peft", "trl")


def launch(*command, processes: int = 2, cwd=None, seconds: float = 280) -> str:
    """What a script or module prints. One that fails or hangs fails the test, with what it wrote and where it was."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "NO_COLOR": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    run = start(command, environment, cwd, processes, seconds, HUGGING_FACE)
    assert run.returncode == 0, f"{run.stdout[-3000:]}\n{run.stderr[-12000:]}"
    return run.stdout


def start(
    command,
    environment: dict[str, str] | None = None,
    cwd=None,
    processes: int = 1,
    seconds: float = 280,
    imported: tuple[str, ...] = LARGE,
    imported_in: dict[str, str] | None = None,
) -> subprocess.CompletedProcess:
    """Run `script arguments…`, `-m module arguments…` or `-c code arguments…` in new processes, and wait for them.

    They have nothing to read, and what they write is kept. The environment is that of the tests if none is given.
    Several processes get the variables that torchrun would give them. If one fails, the others are ended; if they take
    too long, each says where it is, and `returncode` is that of a process that was aborted.

    What is `imported` beforehand has read the environment of the tests, or these variables in addition.
    """
    command = [str(part) for part in command]
    environment = dict(os.environ if environment is None else environment)
    ranks = [{}] if processes == 1 else _ranks(processes)
    task = {"command": command, "environments": [environment | rank for rank in ranks], "seconds": seconds}
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # a task that was given up may still write
        task |= {"cwd": str(os.getcwd() if cwd is None else cwd), "folder": folder}
        copies = _copies(imported, tuple((imported_in or {}).items()))
        try:
            print(json.dumps(task), file=copies.stdin, flush=True)
            code = int(copies.stdout.readline())
        except BaseException:  # a test that took too long, say: the next task must not get this one's answer
            copies.kill()
            _copies.cache_clear()
            raise
        said = [path.read_text() if (path := Path(folder, name)).exists() else "" for name in ("out", "err")]
    return subprocess.CompletedProcess(command, code, *said)


@functools.cache
def _copies(imported: tuple[str, ...], variables: tuple[tuple[str, str], ...]) -> subprocess.Popen:
    """The process that makes copies. It ends when this one does."""
    command = [sys.executable, str(TESTS / "helpers" / "copies.py"), *imported]
    # A second thread would not be copied.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **dict(variables)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, env=environment, text=True, **pipes)


def _ranks(processes: int) -> list[dict[str, str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    return [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]
